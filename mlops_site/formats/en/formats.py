"""How the admin writes times: UTC to the second, as logs and API do."""

DATETIME_FORMAT = r"Y-m-d H:i:s\Z"
DATE_FORMAT = "Y-m-d"

"""Which requirement brings a module, where the two have different names.

Source of the pairs: the packages' own metadata (`top_level.txt`) on PyPI.
"""

import re

MISSING = re.compile(r"No module named '(?P<module>[\w.]+)'")
REQUIREMENT_OF_MODULE = {
    "attr": "attrs",
    "boto": "boto3",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "Crypto": "pycryptodome",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.storage": "google-cloud-storage",
    "imblearn": "imbalanced-learn",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "ldap": "python-ldap",
    "MySQLdb": "mysqlclient",
    "magic": "python-magic",
    "mlxtend": "mlxtend",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "psycopg2": "psycopg2-binary",
    "pkg_resources": "setuptools",
    "pywt": "PyWavelets",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skopt": "scikit-optimize",
    "slugify": "python-slugify",
    "tables": "tables",
    "umap": "umap-learn",
    "usb": "pyusb",
    "win32api": "pywin32",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}


def requirement_for(module: str) -> str:
    """The requirement that brings `module`; its first name where nothing else is known."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        known = REQUIREMENT_OF_MODULE.get(".".join(parts[:length]))
        if known:
            return known
    return parts[0]


def missing_module(error: str) -> str | None:
    """The module that an error line says is missing; None when it says nothing of the kind."""
    found = MISSING.search(error)
    return found["module"] if found else None

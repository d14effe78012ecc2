"""Django's admin with the console as its site."""

from django.contrib.admin.apps import AdminConfig


class ConsoleConfig(AdminConfig):
    default_site = "mlops_site.console.site.ConsoleSite"

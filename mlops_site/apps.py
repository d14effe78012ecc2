"""The Django application that ties the rooms together: settings, errors, status and health."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "mlops_site"
    verbose_name = "Platform"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Connecting receivers is what this import is for; it needs the loaded app registry.
        from mlops_site import receivers  # noqa: F401, PLC0415

"""The room of what is registered: models in MLflow, features in Feast."""

from django.apps import AppConfig


class RegistryConfig(AppConfig):
    name = "registry"
    verbose_name = "Registry"

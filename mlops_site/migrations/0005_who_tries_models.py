"""Whoever sends jobs may also try models, which starts their servers."""

from django.contrib.auth.management import create_permissions
from django.db import migrations

GROUPS = ("data scientist", "operator", "administrator")
RIGHT = "add_modelserver"


def give(apps, schema_editor):
    make_permissions(apps)
    right = apps.get_model("auth", "Permission").objects.get(
        content_type__app_label="inference", codename=RIGHT
    )
    for group in apps.get_model("auth", "Group").objects.filter(name__in=GROUPS):
        group.permissions.add(right)


def make_permissions(apps):
    """Django makes them when all migrations are done, which is too late here."""
    app = apps.get_app_config("inference")
    app.models_module = True
    create_permissions(app, apps=apps, verbosity=0)
    app.models_module = None


def take(apps, schema_editor):
    right = apps.get_model("auth", "Permission").objects.filter(
        content_type__app_label="inference", codename=RIGHT
    )
    for group in apps.get_model("auth", "Group").objects.filter(name__in=GROUPS):
        group.permissions.remove(*right)


class Migration(migrations.Migration):
    dependencies = [("mlops_site", "0004_feature_rights")]

    operations = [migrations.RunPython(give, take)]

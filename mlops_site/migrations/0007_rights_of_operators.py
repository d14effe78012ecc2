"""What operators got beside: to pause and drain, to see the audit and the settings."""

from django.contrib.auth.management import create_permissions
from django.db import migrations

GROUPS = ("operator", "administrator")
RIGHTS = ("registry.change_hold", "registry.view_auditentry", "mlops_site.view_settings")


def give(apps, schema_editor):
    make_permissions(apps)
    for group in apps.get_model("auth", "Group").objects.filter(name__in=GROUPS):
        group.permissions.add(*_permissions(apps))


def make_permissions(apps):
    """Django makes them when all migrations are done, which is too late here."""
    for label in ("registry", "mlops_site"):
        app = apps.get_app_config(label)
        app.models_module = True
        create_permissions(app, apps=apps, verbosity=0)
        app.models_module = None


def take_back(apps, schema_editor):
    for group in apps.get_model("auth", "Group").objects.filter(name__in=GROUPS):
        group.permissions.remove(*_permissions(apps))


def _permissions(apps):
    known = apps.get_model("auth", "Permission").objects
    names = [right.partition(".") for right in RIGHTS]
    return [known.get(content_type__app_label=app, codename=name) for app, _, name in names]


class Migration(migrations.Migration):
    dependencies = [
        ("mlops_site", "0006_reports"),
        ("registry", "0002_audit_and_holds"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [migrations.RunPython(give, take_back)]

"""The groups of the console, as `mlops_site.rights` tells of them.

The table is written out here: what a migration makes does not change when the code does.
"""

from django.contrib.auth.management import create_permissions
from django.db import migrations

SEES = [
    *("training.view_job", "training.view_jobevent", "training.view_attempt"),
    *("training.view_sandboxproof", "training.view_builtenvironment"),
    *("training.view_waitingcontainer", "inference.view_modelserver"),
    *("inference.view_aliaschange", "inference.view_modelpolicy"),
    *("inference.view_batchprediction", "mlops_site.view_heartbeat"),
]
SENDS = [*SEES, "training.add_job"]
OPERATES = [
    *SENDS,
    *("training.change_job", "training.change_builtenvironment", "inference.change_modelserver"),
]
ADMINISTERS = [
    *OPERATES,
    *("auth.view_user", "auth.add_user", "auth.change_user", "auth.delete_user"),
    *("auth.view_group", "auth.add_group", "auth.change_group", "auth.delete_group"),
]
GROUPS = {
    "viewer": SEES,
    "data scientist": SENDS,
    "operator": OPERATES,
    "administrator": ADMINISTERS,
}
APPS = ("auth", "training", "inference", "mlops_site")


def make_groups(apps, schema_editor):
    make_permissions(apps)
    Group = apps.get_model("auth", "Group")
    Permission = apps.get_model("auth", "Permission")
    for name, rights in GROUPS.items():
        group, _ = Group.objects.get_or_create(name=name)
        for right in rights:
            app, _, codename = right.partition(".")
            group.permissions.add(
                Permission.objects.get(content_type__app_label=app, codename=codename)
            )


def make_permissions(apps):
    """Django makes them when all migrations are done, which is too late here."""
    for label in APPS:
        app = apps.get_app_config(label)
        app.models_module = True
        create_permissions(app, apps=apps, verbosity=0)
        app.models_module = None


def remove_groups(apps, schema_editor):
    """Who belonged to one keeps the account, and loses the rights."""
    apps.get_model("auth", "Group").objects.filter(name__in=GROUPS).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("mlops_site", "0002_installation"),
        ("training", "0009_artifact_limit_reason"),
        ("inference", "0005_batch_predictions"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(make_groups, remove_groups)]

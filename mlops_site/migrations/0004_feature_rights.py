"""What each group may do with features, as `mlops_site.rights` tells of it.

The table is written out here: what a migration makes does not change when the code does.
"""

from django.contrib.auth.management import create_permissions
from django.db import migrations

SEES = ["view_featurecatalog", "view_materialization"]
SENDS = [*SEES, "look_up_features"]
OPERATES = [*SENDS, "add_materialization"]
GROUPS = {
    "viewer": SEES,
    "data scientist": SENDS,
    "operator": OPERATES,
    "administrator": OPERATES,
}


def give(apps, schema_editor):
    """A group that somebody removed stays away."""
    app = apps.get_app_config("registry")
    # Django makes them when all migrations are done, which is too late here.
    app.models_module = True
    create_permissions(app, apps=apps, verbosity=0)
    app.models_module = None
    for group, rights in _rights(apps):
        group.permissions.add(*rights)


def take_back(apps, schema_editor):
    for group, rights in _rights(apps):
        group.permissions.remove(*rights)


def _rights(apps):
    Group = apps.get_model("auth", "Group")
    Permission = apps.get_model("auth", "Permission")
    rights = Permission.objects.filter(content_type__app_label="registry")
    for group in Group.objects.filter(name__in=GROUPS):
        yield group, rights.filter(codename__in=GROUPS[group.name])


class Migration(migrations.Migration):
    dependencies = [("mlops_site", "0003_groups"), ("registry", "0001_initial")]

    operations = [migrations.RunPython(give, take_back)]

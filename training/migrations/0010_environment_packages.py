"""Packages of environments as rows of their own, to be searched; and the indexes of their lists."""

import django.db.models.deletion
from django.db import migrations, models

AT_ONCE = 20


def packages_of(lock):
    """As the services do it today; what a migration makes does not change when they do."""
    lines = (line.strip() for line in lock.splitlines())
    for line in lines:
        if not line or line[0] in "-#":
            continue
        pin = line.removesuffix("\\").strip()
        name, equals, version = pin.partition("==")
        if not equals:
            name, _, address = pin.partition(" @ ")
            version = f"@ {address}" if address else ""
        yield name.strip()[:200], version.strip()[:100]


def fill(apps, schema_editor):
    Environment = apps.get_model("training", "BuiltEnvironment")
    Package = apps.get_model("training", "EnvironmentPackage")
    for key, lock in Environment.objects.values_list("key", "lock").iterator(AT_ONCE):
        Package.objects.bulk_create(
            Package(environment_id=key, name=name, version=version)
            for name, version in packages_of(lock)
        )


class Migration(migrations.Migration):

    dependencies = [("training", "0009_artifact_limit_reason")]

    operations = [
        migrations.CreateModel(
            name="EnvironmentPackage",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=200)),
                ("version", models.CharField(max_length=100)),
                (
                    "environment",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="contents",
                        to="training.builtenvironment",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        fields=["name", "version", "environment"], name="environment_package"
                    )
                ],
            },
        ),
        migrations.RemoveIndex(model_name="job", name="job_by_environment"),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                fields=["environment_key", "-created_at", "-id"], name="job_by_environment"
            ),
        ),
        migrations.AddIndex(
            model_name="builtenvironment",
            index=models.Index(
                fields=[
                    *("state", "last_used_at", "size_bytes", "python_version"),
                    *("created_at", "key"),
                ],
                name="environment_facts",
            ),
        ),
        # Last: PostgreSQL changes no table that rows were put into in the same transaction.
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]

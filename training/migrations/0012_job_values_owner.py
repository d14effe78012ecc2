from django.db import migrations, models


class Migration(migrations.Migration):
    """Whose the values of a job's variables are, where it runs another one again."""

    dependencies = [("training", "0011_usage_series")]

    operations = [
        migrations.AddField(
            model_name="job",
            name="values_owner",
            field=models.CharField(blank=True, default="", max_length=150),
        ),
    ]

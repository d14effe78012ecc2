from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('inference', '0003_replicas_policies_and_alias_history'),
    ]

    operations = [
        migrations.AddField(
            model_name='modelserver',
            name='form_asked_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
    ]

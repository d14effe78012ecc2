"""`manage.py prepare_platform`: brings the database up to date, makes the first admin user,
and forgets what was proved of the host in an earlier life.

The password comes in `MLOPS_ADMIN_PASSWORD`; it is used only when there is no admin yet, and
whoever called shows it. It is kept nowhere in clear.
"""

import os
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from mlops_site.models import Installation
from training.services.network import forget_proof

ADMIN_NAME = "admin"


class Command(BaseCommand):
    help = "Migrates the database and makes the admin user unless there is one."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        # Before anything of it is changed.
        _refuse_other(Installation.owner())
        call_command("migrate", verbosity=0, interactive=False)
        _refuse_other(Installation.claim(settings.INSTALLATION_ID))
        forget_proof()
        users = get_user_model().objects
        password = os.environ.get("MLOPS_ADMIN_PASSWORD", "")
        if password and not users.filter(is_superuser=True).exists():
            users.create_superuser(ADMIN_NAME, "", password)
            self.stdout.write("admin user made")


def _refuse_other(owner: str) -> None:
    """Raises CommandError when the database belongs to another installation."""
    if owner in ("", settings.INSTALLATION_ID):
        return
    raise CommandError(
        f"This database belongs to the installation {owner}, and this one is "
        f"{settings.INSTALLATION_ID}: two on one database would undo each other's work. Give "
        f"each a database of its own (DATABASE_URL). If {owner} is to go on from here, with all "
        f"else lost, start with an empty MLOPS_HOME and MLOPS_INSTALLATION_ID={owner}."
    )

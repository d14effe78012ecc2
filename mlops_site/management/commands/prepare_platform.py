"""`manage.py prepare_platform`: brings the database up to date, makes the first admin user,
and forgets what was proved of the host in an earlier life.

The password comes in `MLOPS_ADMIN_PASSWORD`; it is used only when there is no admin yet, and
whoever called shows it. It is kept nowhere in clear.
"""

import os
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand

from training.services.network import forget_proof

ADMIN_NAME = "admin"


class Command(BaseCommand):
    help = "Migrates the database and makes the admin user unless there is one."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0, interactive=False)
        forget_proof()
        users = get_user_model().objects
        password = os.environ.get("MLOPS_ADMIN_PASSWORD", "")
        if password and not users.filter(is_superuser=True).exists():
            users.create_superuser(ADMIN_NAME, "", password)
            self.stdout.write("admin user made")

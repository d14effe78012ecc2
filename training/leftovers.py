"""What killed processes and tidy operators leave: builds, networks, MLflow users.

Each look finds its leftovers from what is there, not from memory, so that it may be missed, or done
twice, at any time.
"""

import logging
import time
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from registry.mlflow_client import RegistryRefused, model_registry
from sandbox.container import Kind
from sandbox.engine import Engine
from sandbox.holders import HOLDER_LABEL, is_gone
from sandbox.network import ensure_networks, missing_networks
from sandbox.spec import PROBE
from training import containers, engine_room
from training.models import Attempt
from training.services import network

log = logging.getLogger(__name__)

USERS_SECONDS = 300.0
HELPER_SECONDS = 60


class Leftovers:
    """For the supervisor, which calls each look every few seconds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._users_at: float | None = None

    def restore_networks(self) -> None:
        """Makes a network again that was pruned, with its addresses: MLflow listens at one.

        Raises EngineError when they are somebody else's by now; jobs fail and say so until an
        operator starts the platform anew.
        """
        if not settings.JOBS_SUBNET:
            return  # the operator's own networks
        missing = missing_networks(self._engine, settings.INSTALLATION_ID)
        if not missing:
            return
        ensure_networks(
            self._engine,
            settings.INSTALLATION_ID,
            jobs_subnet=settings.JOBS_SUBNET,
            jobs_gateway=settings.JOBS_GATEWAY,
        )
        network.forget_rules()
        log.warning("networks.restored %s", ", ".join(missing))

    def remove_abandoned_builds(self) -> None:
        """Raises EngineError, EngineUnavailable."""
        for name in engine_room.environments().remove_abandoned():
            log.warning("build.abandoned %s", name)

    def remove_helpers(self) -> None:
        """Containers that tried or wrote the network's rules; their worker was killed meanwhile, or
        the engine was, between the making of one and its start or its removal.

        Raises EngineError, EngineUnavailable.
        """
        oldest = timezone.now() - timedelta(seconds=HELPER_SECONDS)
        for kind in (PROBE, Kind.FIREWALL):
            labels = {"mlops.installation": settings.INSTALLATION_ID, "mlops.kind": str(kind)}
            for state in self._engine.find(labels):
                died = is_gone(state.labels.get(HOLDER_LABEL, ""))
                old = not state.running and state.created_at < oldest
                if died or old:
                    self._engine.remove(state.id)

    def remove_forgotten_users(self) -> None:
        """MLflow users of attempts that are over or unknown. Raises RegistryUnavailable.

        The rows know most of them (`finish.delete_users_left_behind`); this finds those that a
        process made after it had been given up for dead.
        """
        now = time.monotonic()
        if self._users_at is not None and now - self._users_at < USERS_SECONDS:
            return
        # Listed before the rows are read: a name stands in its row before the user exists.
        names = [name for name in _user_names() if name.startswith(containers.user_prefix())]
        alive = set(
            Attempt.objects.filter(finished_at=None).values_list("mlflow_username", flat=True)
        )
        for name in names:
            if name not in alive:
                model_registry().delete_job_user(name)
                log.warning("user.forgotten %s", name)
        self._users_at = now


def _user_names() -> list[str]:
    """Empty when this MLflow does not list its users."""
    try:
        return model_registry().user_names()
    except RegistryRefused:
        return []

"""The one place of this room that makes Docker's objects from settings; worker and supervisor only.

The web process never calls it: it has no way to the engine.
"""

from functools import cache

from django.conf import settings

from sandbox.engine import Engine
from sandbox.environments import EnvironmentStore
from training.services import network


@cache
def engine() -> Engine:
    """Raises EngineUnavailable, and tries again at the next call."""
    return Engine.connect()


@cache
def environments() -> EnvironmentStore:
    """Raises EngineUnavailable when there is no engine."""
    return EnvironmentStore(
        root=settings.ENVIRONMENTS_DIR,
        engine=engine(),
        image=settings.RUNNER_IMAGE,
        network=settings.BUILDS_NETWORK,
        installation_id=settings.INSTALLATION_ID,
        build_seconds=settings.ENVIRONMENT_BUILD_SECONDS,
        rules=settings.BUILD_RULES,
        before_build=_before_build,
    )


def _before_build() -> None:
    network.ensure_for_builds(engine())

"""The one place of this room that makes Docker's objects from settings; worker and supervisor only.

The web process never calls it: it has no way to the engine.
"""

from functools import cache

from django.conf import settings

from sandbox.engine import Engine
from sandbox.environments import Environment, EnvironmentStore
from training.services import network


@cache
def engine() -> Engine:
    """Raises EngineUnavailable, and tries again at the next call."""
    return Engine.connect()


@cache
def environments(image: str = "") -> EnvironmentStore:
    """Those of one runner image, and so of one Python version; without one, of the default.

    Raises EngineUnavailable when there is no engine.
    """
    return EnvironmentStore(
        root=settings.ENVIRONMENTS_DIR,
        engine=engine(),
        image=image or default_image(),
        network=settings.BUILDS_NETWORK,
        installation_id=settings.INSTALLATION_ID,
        build_seconds=settings.ENVIRONMENT_BUILD_SECONDS,
        rules=settings.BUILD_RULES,
        before_build=_before_build,
    )


def _before_build() -> None:
    network.ensure_for_builds(engine())


def default_image() -> str:
    """The runner image with the Python of who asks for none."""
    return str(settings.PYTHON_IMAGES[settings.PYTHON_VERSIONS[0]])


def every_store() -> list[EnvironmentStore]:
    """One for each Python version, the default first; all of them share one folder."""
    return [environments(image) for image in settings.PYTHON_IMAGES.values()]


def environment(key: str) -> Environment | None:
    """By its key, whatever its Python; None when this host does not have it."""
    found = (store.get(key) for store in every_store())
    return next((one for one in found if one is not None), None)

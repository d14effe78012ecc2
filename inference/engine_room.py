"""The one place of this room that makes Docker's objects from settings; worker and supervisor only.

The web process never calls it: it has no way to the engine.
"""

from collections.abc import Callable
from functools import cache

from django.conf import settings

from sandbox.engine import Engine
from sandbox.environments import EnvironmentStore

_build_guards: list[Callable[[Engine], None]] = []
_start_guards: list[Callable[[Engine], str]] = []


def hold_network_with(
    *, before_build: Callable[[Engine], None], before_start: Callable[[Engine], str]
) -> None:
    """Another room keeps the network's rules.

    The one raises EngineUnavailable, the other says why no server may be started; empty: it may.
    """
    _build_guards.append(before_build)
    _start_guards.append(before_start)


def network_problem() -> str:
    """Why no model server may be started now; empty when it may. Raises EngineUnavailable."""
    return next((why for guard in _start_guards if (why := guard(engine()))), "")


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
    for guard in _build_guards:
        guard(engine())


def default_image() -> str:
    """The runner image with the Python of who asks for none."""
    return str(settings.PYTHON_IMAGES[settings.PYTHON_VERSIONS[0]])


def every_store() -> list[EnvironmentStore]:
    """One for each Python version, the default first; all of them share one folder."""
    return [environments(image) for image in settings.PYTHON_IMAGES.values()]

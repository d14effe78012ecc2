"""Tells a container that runs what is left to know; the other half is `image/launcher.py`.

Passwords come this way, and never by a container's configuration, which the engine keeps and shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sandbox.container_input import ContainerInput
from sandbox.engine import Engine
from sandbox.spec import job_environment

LENGTH_BYTES = 4
BEGAN_MARK = b"!began "
# No variable of a script's has such a name.
BOUND_MARK = ":"


@dataclass(frozen=True)
class Bounds:
    """What a container that waited for any script is told of the one that it gets."""

    path: str
    seconds: int
    grace_seconds: int
    log_bytes: int
    log_hard_bytes: int


@dataclass(frozen=True)
class Order:
    """Variables of a script, to which the platform's own are added; bounds where none are known."""

    variables: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds | None = None

    def encoded(self) -> bytes:
        bounds = vars(self.bounds) if self.bounds else {}
        pairs = {
            **job_environment(self.variables),
            **{f"{BOUND_MARK}{name}": value for name, value in bounds.items()},
        }
        data = b"\0".join(f"{name}={value}".encode() for name, value in pairs.items())
        return len(data).to_bytes(LENGTH_BYTES, "big") + data


def began_in(given: ContainerInput, *, timeout_seconds: float) -> datetime | None:
    """When the script began whose order was given; None when the container ended before.

    Raises EngineUnavailable, EngineError: then nobody knows, but its output tells
    (`output.began_at`).
    """
    told = given.answer(BEGAN_MARK, timeout_seconds=timeout_seconds)
    return None if told is None else datetime.fromtimestamp(float(told), UTC)


def hand_in(
    engine: Engine, container_id: str, order: Order, *, timeout_seconds: float
) -> datetime | None:
    """To a container that runs: when the script began, as `began_in` tells and raises."""
    with engine.attach(container_id) as given:
        given.give(order.encoded())
        return began_in(given, timeout_seconds=timeout_seconds)

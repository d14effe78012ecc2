"""Aliases of model versions: set in MLflow, and remembered here, with who did it and when."""

from dataclasses import dataclass

from django.utils import timezone
from rest_framework.exceptions import APIException

from inference.models import AliasChange
from inference.services import pool
from registry.doorbell import GATEWAY_BELL
from registry.mlflow_client import AliasNotFound, ModelRegistry, model_registry

HISTORY_SHOWN = 100


class NothingToRollBackTo(APIException):
    """The alias never named another version, as far as we know."""

    status_code = 409
    default_code = "nothing_to_roll_back_to"

    def __init__(self, name: str, alias: str) -> None:
        super().__init__(f"{name}@{alias} never named another version, as far as is known here.")
        self.hint = f"PUT /mlops/models/{name}/aliases/{alias} sets it to any version."


@dataclass(frozen=True)
class Alias:
    """What an alias names now, and what it named before."""

    model_name: str
    alias: str
    version: str
    history: tuple[AliasChange, ...]


def all_aliases(name: str) -> dict[str, str]:
    """Raises ModelNotFound."""
    return model_registry().aliases(name)


def look(name: str, alias: str) -> Alias:
    """Raises ModelNotFound and AliasNotFound."""
    current = _current(model_registry(), name, alias)
    _notice(name, alias, current)
    if not current:
        raise AliasNotFound(name, alias)
    return _alias(name, alias, current)


def point(name: str, alias: str, version: str, *, actor: str, how: str = "set") -> Alias:
    """From now on `alias` names `version`, whose server is started.

    Raises ModelVersionNotFound, RegistryRefused.
    """
    registry = model_registry()
    previous = _current(registry, name, alias)
    _notice(name, alias, previous)
    source = registry.version(name, version).source
    registry.set_alias(name, alias, version)
    if previous != version:
        _remember(name, alias, version, previous=previous, actor=actor, how=how)
    pool.ensure_server(name, version, source=source)
    GATEWAY_BELL.ring_on_commit()
    return _alias(name, alias, version)


def take_away(name: str, alias: str, *, actor: str) -> None:
    """Raises ModelNotFound and AliasNotFound."""
    registry = model_registry()
    previous = _current(registry, name, alias)
    _notice(name, alias, previous)
    if not previous:
        raise AliasNotFound(name, alias)
    registry.delete_alias(name, alias)
    _remember(name, alias, "", previous=previous, actor=actor, how="deleted")
    GATEWAY_BELL.ring_on_commit()


def roll_back(name: str, alias: str, *, actor: str) -> Alias:
    """To the version that it named before; twice brings it back to where it was.

    Raises NothingToRollBackTo and what `point` raises.
    """
    current = _current(model_registry(), name, alias)
    _notice(name, alias, current)
    before = AliasChange.objects.filter(model_name=name, alias=alias).exclude(version="")
    last = before.exclude(version=current).first()
    if last is None:
        raise NothingToRollBackTo(name, alias)
    return point(name, alias, last.version, actor=actor, how="rolled_back")


def _current(registry: ModelRegistry, name: str, alias: str) -> str:
    """Empty when there is no such alias. Raises ModelNotFound."""
    return registry.aliases(name).get(alias, "")


def _notice(name: str, alias: str, current: str) -> None:
    """What was changed in MLflow itself becomes part of the history when we see it."""
    newest = AliasChange.objects.filter(model_name=name, alias=alias).first()
    known = newest.version if newest else ""
    if known != current:
        _remember(name, alias, current, previous=known, actor="", how="seen")


def _remember(name: str, alias: str, version: str, *, previous: str, actor: str, how: str) -> None:
    AliasChange.objects.create(
        model_name=name,
        alias=alias,
        version=version,
        previous=previous,
        actor=actor,
        how=how,
        at=timezone.now(),
    )


def _alias(name: str, alias: str, version: str) -> Alias:
    rows = AliasChange.objects.filter(model_name=name, alias=alias)[:HISTORY_SHOWN]
    return Alias(name, alias, version, tuple(rows))

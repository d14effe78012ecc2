"""Aliases of model versions: set in MLflow, and remembered here, with who did it and when."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from rest_framework.exceptions import APIException

from inference.models import AliasChange
from inference.question import ALIAS, LATEST
from inference.services import pool
from registry import audit
from registry.audit import Act, Kind
from registry.doorbell import GATEWAY_BELL
from registry.mlflow_client import AliasNotFound, ModelRegistry, model_registry

HISTORY_SHOWN = 100
NOTE_CHARACTERS = 200
ACTS = {
    "set": Act.ALIAS_SET,
    "rolled_back": Act.ALIAS_ROLLED_BACK,
    "deleted": Act.ALIAS_DELETED,
}


class NothingToRollBackTo(APIException):
    """The alias never named another version, as far as we know."""

    status_code = 409
    default_code = "nothing_to_roll_back_to"

    def __init__(self, name: str, alias: str) -> None:
        super().__init__(f"{name}@{alias} never named another version, as far as is known here.")
        self.hint = f"PUT /mlops/models/{name}/aliases/{alias} sets it to any version."


class AliasMoved(APIException):
    """Somebody else moved the alias: what was asked for is not what would happen now."""

    status_code = 409
    default_code = "alias_moved"

    def __init__(self, name: str, alias: str, *, before: str) -> None:
        super().__init__(
            f"{name}@{alias} was moved meanwhile: a roll back would lead to version {before} now."
        )


@dataclass(frozen=True)
class Named:
    """What an alias names, and what a roll back would have it name again; empty: nothing."""

    alias: str
    version: str
    before: str


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


def alias_problem(alias: str) -> str:
    """Why it cannot be the name of an alias: it would be read as a version. Empty: it can."""
    if not ALIAS.fullmatch(alias) or alias.isdecimal() or alias.lower() == LATEST:
        return "Letters, digits, - and _; not `latest`, and not only digits."
    return ""


def named_now(name: str, current: Mapping[str, str]) -> list[Named]:
    """Every alias by its name; `current` is what MLflow says. One query, unless it was changed
    there: then the history is told of it."""
    pairs = AliasChange.objects.filter(model_name=name).order_by().values_list("alias", "version")
    lasted: dict[str, dict[str, int]] = {}
    for alias, version, last in pairs.annotate(last=Max("pk")):
        lasted.setdefault(alias, {})[version] = last
    for alias in sorted({*lasted, *current}):
        known = _newest(lasted.get(alias, {}))
        if known != current.get(alias, ""):
            now = current.get(alias, "")
            _remember(name, alias, now, previous=known, actor="", how="seen")
    return [
        Named(alias, version, _newest(lasted.get(alias, {}), without=version))
        for alias, version in sorted(current.items())
    ]


def history(name: str, *, limit: int = HISTORY_SHOWN) -> list[AliasChange]:
    """Of all aliases of a model, the newest first."""
    return list(AliasChange.objects.filter(model_name=name)[:limit])


def look(name: str, alias: str) -> Alias:
    """Raises ModelNotFound and AliasNotFound."""
    current = _current(model_registry(), name, alias)
    _notice(name, alias, current)
    if not current:
        raise AliasNotFound(name, alias)
    return _alias(name, alias, current)


def point(
    name: str, alias: str, version: str, *, actor: str, how: str = "set", note: str = ""
) -> Alias:
    """From now on `alias` names `version`, whose server is started.

    Raises ModelVersionNotFound, RegistryRefused.
    """
    registry = model_registry()
    previous = _current(registry, name, alias)
    _notice(name, alias, previous)
    source = registry.version(name, version).source
    registry.set_alias(name, alias, version)
    if previous != version:
        _remember(name, alias, version, previous=previous, actor=actor, how=how, note=note)
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


def roll_back(name: str, alias: str, *, actor: str, note: str = "", expected: str = "") -> Alias:
    """To the version that it named before; twice brings it back to where it was.

    `expected` is the version that who asked was told of. Raises NothingToRollBackTo, AliasMoved
    and what `point` raises.
    """
    current = _current(model_registry(), name, alias)
    _notice(name, alias, current)
    before = AliasChange.objects.filter(model_name=name, alias=alias).exclude(version="")
    last = before.exclude(version=current).first()
    if last is None:
        raise NothingToRollBackTo(name, alias)
    if expected and last.version != expected:
        raise AliasMoved(name, alias, before=last.version)
    return point(name, alias, last.version, actor=actor, how="rolled_back", note=note)


def _newest(lasted: Mapping[str, int], *, without: str | None = None) -> str:
    """Which version was named last; with `without`, the last one of the others that is any."""
    if without is not None:
        lasted = {version: last for version, last in lasted.items() if version not in ("", without)}
    return max(lasted, key=lambda version: lasted[version], default="")


def _current(registry: ModelRegistry, name: str, alias: str) -> str:
    """Empty when there is no such alias. Raises ModelNotFound."""
    return registry.aliases(name).get(alias, "")


def _notice(name: str, alias: str, current: str) -> None:
    """What was changed in MLflow itself becomes part of the history when we see it."""
    newest = AliasChange.objects.filter(model_name=name, alias=alias).first()
    known = newest.version if newest else ""
    if known != current:
        _remember(name, alias, current, previous=known, actor="", how="seen")


def _remember(
    name: str, alias: str, version: str, *, previous: str, actor: str, how: str, note: str = ""
) -> None:
    with transaction.atomic():
        AliasChange.objects.create(
            model_name=name,
            alias=alias,
            version=version,
            previous=previous,
            actor=actor,
            how=how,
            note=note[:NOTE_CHARACTERS],
            at=timezone.now(),
        )
        if how in ACTS:
            detail = f"{alias}: {previous or 'nothing'} to {version or 'nothing'}"
            audit.record(ACTS[how], Kind.MODEL, name, detail=detail, actor=actor)


def _alias(name: str, alias: str, version: str) -> Alias:
    rows = AliasChange.objects.filter(model_name=name, alias=alias)[:HISTORY_SHOWN]
    return Alias(name, alias, version, tuple(rows))

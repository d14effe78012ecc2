"""What the demo's people did beside their jobs, as the audit has it: logins, aliases, a pause."""

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from inference.models import AliasChange
from mlops_site.demo.projects import PROJECTS
from registry.audit import Act, Kind
from registry.models import AuditEntry
from registry.sources import Channel

HOURS = 60
LOGINS = 40
ALIAS_ACTS = {"set": Act.ALIAS_SET, "rolled_back": Act.ALIAS_ROLLED_BACK}
WHY_PAUSED = "New disks in engine-1."


def acts_of(
    rng: random.Random, changes: Sequence[AliasChange], *, now: datetime
) -> list[AuditEntry]:
    """In the order of time."""
    found = [*_logins(rng, now=now), *map(_alias_moved, changes), *_by_the_operator(now=now)]
    return sorted(found, key=lambda entry: entry.at)


def _logins(rng: random.Random, *, now: datetime) -> Iterator[AuditEntry]:
    names = sorted({owner for project in PROJECTS for owner in project.owners} - {"nightly"})
    for number in range(LOGINS):
        name, at = rng.choice(names), now - timedelta(hours=rng.uniform(1, HOURS))
        act = Act.LOGIN_FAILED if number % 13 == 0 else Act.LOGIN
        yield _entry(act, Kind.USER, name, at=at, actor=name)


def _alias_moved(change: AliasChange) -> AuditEntry:
    detail = f"{change.alias}: {change.previous or 'nothing'} to {change.version}"
    return _entry(
        ALIAS_ACTS[change.how],
        Kind.MODEL,
        change.model_name,
        at=change.at,
        actor=change.actor,
        detail=detail,
    )


def _by_the_operator(*, now: datetime) -> Iterator[AuditEntry]:
    paused = now - timedelta(hours=27)
    yield _entry(Act.PAUSE, Kind.PLATFORM, "admission", at=paused, actor="otto", detail=WHY_PAUSED)
    resumed = paused + timedelta(minutes=19)
    yield _entry(Act.RESUME, Kind.PLATFORM, "admission", at=resumed, actor="otto")
    stopped = now - timedelta(hours=4)
    name = PROJECTS[6].model
    yield _entry(Act.SERVER_STOP, Kind.SERVER, "7", at=stopped, actor="otto", name=name)
    made = now - timedelta(days=9)
    for person in ("dana", "emeka", "vera"):
        yield _entry(Act.USER_ADD, Kind.USER, person, at=made, actor="ada")


def _entry(
    act: Act,
    kind: Kind,
    key: str,
    *,
    at: datetime,
    actor: str,
    name: str = "",
    detail: str = "",
) -> AuditEntry:
    return AuditEntry(
        at=at,
        actor=actor,
        channel=Channel.CONSOLE,
        address="10.4.7.12" if actor in ("otto", "ada") else "10.4.7.31",
        act=act,
        kind=kind,
        key=key,
        name=name,
        detail=detail,
    )

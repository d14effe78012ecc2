"""A feature store as it was described last, read back from the JSON that the child wrote.

`registry/online/description.py` is who writes it. No Feast, no Django.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Where the values of a feature view come from."""

    BATCH = "batch"
    PUSHED = "pushed"
    STREAM = "stream"
    ON_DEMAND = "on_demand"
    LABEL = "label"


class Freshness(StrEnum):
    """What can be said about the values in the online store."""

    FRESH = "fresh"
    STALE = "stale"
    EMPTY = "empty"
    COMPUTED = "computed"
    OFF = "off"


FRESHNESS_WORDS: Mapping[Freshness, str] = {
    Freshness.FRESH: "fresh",
    Freshness.STALE: "older than its TTL",
    Freshness.EMPTY: "never materialised",
    Freshness.COMPUTED: "computed when asked",
    Freshness.OFF: "not served online",
}


@dataclass(frozen=True)
class Field:
    """One column: a feature, or a join key."""

    name: str
    type: str
    description: str = ""


@dataclass(frozen=True)
class Entity:
    """Whom features are about, and the key that they are looked up by."""

    name: str
    join_key: str
    type: str
    description: str = ""


@dataclass(frozen=True)
class Source:
    """Where a view's values are read from; `detail` is a table, or the name of a file."""

    name: str
    kind: str
    detail: str = ""
    timestamp: str = ""


@dataclass(frozen=True)
class View:
    """A feature view. `keys` are what it is looked up by, with Feast's names of their types.

    `newest_event` is known where the online store is SQLite; `ttl_seconds` of 0 is no bound.
    """

    name: str
    kind: Kind
    entities: Sequence[str]
    keys: Sequence[Field]
    features: Sequence[Field]
    sources: Sequence[Source]
    ttl_seconds: float
    online: bool
    enabled: bool
    is_fillable: bool
    filled_until: datetime | None = None
    newest_event: datetime | None = None
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def ttl(self) -> timedelta | None:
        return timedelta(seconds=self.ttl_seconds) if self.ttl_seconds else None

    @property
    def as_of(self) -> datetime | None:
        """No value in the online store is newer, as far as is known."""
        return self.newest_event or self.filled_until

    def freshness(self, now: datetime) -> Freshness:
        """STALE: whatever is in the online store is older than its TTL, so look-ups find nothing.

        What is pushed may be newer than what is known, unless the store tells its newest event.
        """
        if self.kind is Kind.ON_DEMAND and not self.is_fillable:
            return Freshness.COMPUTED
        if not (self.online and self.enabled):
            return Freshness.OFF
        if self.as_of is None:
            return Freshness.EMPTY
        too_old = self.ttl is not None and now - self.as_of > self.ttl
        return Freshness.STALE if too_old else Freshness.FRESH


@dataclass(frozen=True)
class Part:
    """Some features of a view, under the name that the service gives it."""

    view: str
    called: str
    features: Sequence[str]


@dataclass(frozen=True)
class Service:
    """A feature service: what one model asks for at once. `problem` says why it cannot be."""

    name: str
    parts: Sequence[Part]
    keys: Sequence[Field]
    description: str = ""
    owner: str = ""
    problem: str = ""

    @property
    def features(self) -> int:
        return sum(len(part.features) for part in self.parts)


@dataclass(frozen=True)
class Description:
    """Everything, by name. The stores are told by Feast's names of their kinds."""

    project: str
    registry: str
    offline_store: str
    online_store: str
    serves_meanwhile: bool
    entities: Mapping[str, Entity]
    views: Mapping[str, View]
    services: Mapping[str, Service]

    @property
    def fillable(self) -> list[str]:
        """The views that can be materialised."""
        return [view.name for view in self.views.values() if view.is_fillable]

    def services_with(self, view: str) -> list[Service]:
        return [
            service
            for service in self.services.values()
            if any(part.view == view for part in service.parts)
        ]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Description":
        """Of what the child wrote. Raises KeyError, TypeError and ValueError for anything else."""
        entities = [Entity(**each) for each in document["entities"]]
        views = [_view(each) for each in document["views"]]
        services = [_service(each) for each in document["services"]]
        return cls(
            project=document["project"],
            registry=document["registry"],
            offline_store=document["offline_store"],
            online_store=document["online_store"],
            serves_meanwhile=document["serves_meanwhile"],
            entities={entity.name: entity for entity in entities},
            views={view.name: view for view in views},
            services={service.name: service for service in services},
        )


def _view(document: Mapping[str, Any]) -> View:
    read = dict(document)
    for name in ("keys", "features"):
        read[name] = [Field(**each) for each in read[name]]
    read["sources"] = [Source(**each) for each in read["sources"]]
    for name in ("filled_until", "newest_event"):
        read[name] = datetime.fromisoformat(read[name]) if read[name] else None
    return View(**{**read, "kind": Kind(read["kind"])})


def _service(document: Mapping[str, Any]) -> Service:
    read = dict(document)
    read["parts"] = [Part(**each) for each in read["parts"]]
    read["keys"] = [Field(**each) for each in read["keys"]]
    return Service(**read)

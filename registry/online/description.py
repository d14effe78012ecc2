"""Describes a feature store, for people and for programs that know no Feast.

Names, types and ages only: no path of this host, no address, no password.
"""

import contextlib
import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast import FeatureStore
from feast.batch_feature_view import BatchFeatureView
from feast.data_source import DataSource, PushSource, RequestSource
from feast.feature_view import DUMMY_ENTITY_NAME, FeatureView
from feast.infra.offline_stores.file_source import FileSource
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.stream_feature_view import StreamFeatureView

from registry.feature_store.description import Kind
from registry.online.catalog import Catalog
from registry.online.frames import FeatureQuestion, NotReadable
from registry.online.frames import Source as Named

# For the newest events of all views together: the table of each is read as a whole.
EVENTS_SECONDS = 5.0
STEPS_BETWEEN_LOOKS = 10_000


def registry_file(store: FeatureStore) -> str:
    """Where the registry is, if it is a file of this host; empty otherwise."""
    path = str(store.config.registry.path).removeprefix("sqlite:///")
    file = Path(str(store.repo_path)) / path
    return str(file) if file.is_file() else ""


def described(store: FeatureStore) -> dict[str, Any]:
    """As `registry.feature_store.description` reads it. Raises whatever Feast raises."""
    registry, project, config = store.registry, store.project, store.config
    catalog = Catalog(store)
    # Without what they compute: a view whose code cannot be loaded must not hide the others.
    views = registry.list_all_feature_views(project, allow_cache=True, skip_udf=True)
    events = _newest_events(store, [view.name for view in views])
    services = registry.list_feature_services(project, allow_cache=True)
    serves = getattr(config.registry, "serve_features_while_materializing", False)
    return {
        "project": project,
        "registry": str(getattr(config.registry, "registry_type", "file")),
        "offline_store": _kind_of_store(config.offline_store),
        "online_store": _kind_of_store(config.online_store),
        "serves_meanwhile": bool(serves),
        "entities": [
            _entity(entity)
            for entity in registry.list_entities(project, allow_cache=True)
            if entity.name != DUMMY_ENTITY_NAME
        ],
        "views": [_view(view, catalog, events) for view in sorted(views, key=_name)],
        "services": [_service(service, catalog) for service in sorted(services, key=_name)],
    }


def _kind_of_store(config: Any) -> str:
    return str(getattr(config, "type", "") or "none")


def _name(thing: Any) -> str:
    return str(thing.name)


def _entity(entity: Any) -> dict[str, str]:
    return {
        "name": entity.name,
        "join_key": entity.join_key,
        "type": entity.value_type.name,
        "description": entity.description or "",
    }


def _view(view: Any, catalog: Catalog, events: Mapping[str, datetime]) -> dict[str, Any]:
    until = getattr(view, "most_recent_end_time", None)
    event = events.get(view.name)
    ttl = getattr(view, "ttl", None)
    online, enabled = getattr(view, "online", True), getattr(view, "enabled", True)
    return {
        "name": view.name,
        "kind": _kind(view),
        "entities": [name for name in getattr(view, "entities", []) if name != DUMMY_ENTITY_NAME],
        "keys": _keys(catalog, Named.VIEWS, view.name)[0],
        "features": [_field(feature) for feature in view.features],
        "sources": [_source(source) for source in _sources(view)],
        "ttl_seconds": ttl.total_seconds() if ttl else 0.0,
        "online": bool(online),
        "enabled": bool(enabled),
        "is_fillable": _is_fillable(view),
        "filled_until": _moment(until),
        "newest_event": _moment(event),
        "description": view.description or "",
        "owner": view.owner or "",
        "tags": {str(name): str(value) for name, value in (view.tags or {}).items()},
    }


def _kind(view: Any) -> Kind:
    if isinstance(view, OnDemandFeatureView):
        return Kind.ON_DEMAND
    if isinstance(view, StreamFeatureView):
        return Kind.STREAM
    if not isinstance(view, FeatureView):
        return Kind.LABEL
    source = view.stream_source
    if isinstance(source, PushSource):
        return Kind.PUSHED
    return Kind.BATCH if source is None or isinstance(view, BatchFeatureView) else Kind.STREAM


def _is_fillable(view: Any) -> bool:
    """As Feast itself decides, which raises for the others."""
    if not getattr(view, "enabled", True):
        return False
    if isinstance(view, OnDemandFeatureView):
        return bool(view.write_to_online_store)
    return isinstance(view, FeatureView) and bool(view.online) and view.batch_source is not None


def _field(field: Any) -> dict[str, str]:
    return {
        "name": field.name,
        "type": str(field.dtype),
        "description": getattr(field, "description", "") or "",
    }


def _sources(view: Any) -> list[Any]:
    if isinstance(view, OnDemandFeatureView):
        views = view.source_feature_view_projections.values()
        return [*views, *view.source_request_sources.values()]
    found = [getattr(view, "stream_source", None), getattr(view, "batch_source", None)]
    return [source for source in found if source is not None]


def _source(source: Any) -> dict[str, str]:
    if not isinstance(source, DataSource):
        return _told(source.name, "feature view")
    kind = type(source).__name__.removesuffix("Source").lower()
    if isinstance(source, RequestSource):
        return _told(source.name, "request")
    detail = str(getattr(source, "table", "") or "")
    if isinstance(source, FileSource):
        detail = Path(source.path).name
    return _told(source.name, kind, detail, source.timestamp_field or "")


def _told(name: str, kind: str, detail: str = "", timestamp: str = "") -> dict[str, str]:
    return {"name": name, "kind": kind, "detail": detail, "timestamp": timestamp}


def _service(service: Any, catalog: Catalog) -> dict[str, Any]:
    keys, problem = _keys(catalog, Named.SERVICE, service.name)
    return {
        "name": service.name,
        "parts": [
            {
                "view": projection.name,
                "called": projection.name_to_use(),
                "features": [feature.name for feature in projection.features],
            }
            for projection in service.feature_view_projections
        ],
        "keys": keys,
        "description": service.description or "",
        "owner": service.owner or "",
        "problem": problem,
    }


def _keys(catalog: Catalog, source: Named, name: str) -> tuple[list[dict[str, str]], str]:
    """What a look-up needs, as the one who looks up checks it; or why none is possible."""
    try:
        asked = catalog.asked(FeatureQuestion(source, (name,), {}))
    except NotReadable as wrong:
        return [], str(wrong)
    keys = [{"name": key, "type": kind, "description": ""} for key, kind in asked.keys.items()]
    return keys, ""


def _moment(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return known.astimezone(UTC).isoformat()


# -- the newest events ---------------------------------------------------------------------------
def _newest_events(store: FeatureStore, views: list[str]) -> dict[str, datetime]:
    """By view, where the online store is SQLite; others have no question for it.

    What is not told within the time is left out.
    """
    config = store.config.online_store
    file = Path(str(store.repo_path)) / str(getattr(config, "path", "") or "")
    if _kind_of_store(config) != "sqlite" or not file.is_file():
        return {}
    deadline = time.monotonic() + EVENTS_SECONDS
    found: dict[str, datetime] = {}
    # Read-only: whoever describes must not make files that their owner cannot write.
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
        for view in views:
            newest = _newest_event(connection, f"{store.project}_{view}")
            if newest is not None:
                found[view] = newest
    return found


def _newest_event(connection: sqlite3.Connection, table: str) -> datetime | None:
    quoted = table.replace('"', '""')
    try:
        row = connection.execute(f'SELECT max(event_ts) FROM "{quoted}"').fetchone()  # noqa: S608
        return _event_moment(row[0])
    except (sqlite3.Error, ValueError, OverflowError):
        return None


def _event_moment(told: Any) -> datetime | None:
    """Feast has SQLite keep seconds; what an older one wrote is text."""
    if isinstance(told, int | float):
        return datetime.fromtimestamp(told, UTC)
    return datetime.fromisoformat(told) if isinstance(told, str) else None

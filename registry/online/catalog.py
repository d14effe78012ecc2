"""What a feature store's registry knows, in the form in which a question is checked against it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from feast import FeatureStore
from feast.feature_view import DUMMY_ENTITY_NAME, FeatureView, FeatureViewState
from feast.on_demand_feature_view import OnDemandFeatureView

from registry.online.frames import FeatureQuestion, NotReadable, Source

SHOWN = 20


@dataclass(frozen=True)
class View:
    """A feature view. `keys` have Feast's name of their type, or nothing where nobody knows it."""

    name: str
    features: tuple[str, ...]
    keys: Mapping[str, str]
    ttl_seconds: float
    state: FeatureViewState
    enabled: bool


@dataclass(frozen=True)
class Part:
    """Some features of a view, under the names and keys that a service may give it."""

    view: View
    called: str
    features: tuple[str, ...]
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """A question whose names are all known; `feast` is what Feast itself is asked for."""

    parts: tuple[Part, ...]
    feast: Any

    @property
    def keys(self) -> dict[str, str]:
        return {key: kind for part in self.parts for key, kind in part.keys.items()}


class Catalog:
    """Of one moment."""

    def __init__(self, store: FeatureStore) -> None:
        registry, project = store.registry, store.project
        join_keys = {
            entity.name: entity.join_key
            for entity in registry.list_entities(project, allow_cache=True)
        }
        # Without what they compute: a view whose code cannot be loaded must not hide the others.
        listed = registry.list_all_feature_views(project, allow_cache=True, skip_udf=True)
        plain = [view for view in listed if isinstance(view, FeatureView)]
        self._views = {view.name: _stored(view, join_keys) for view in plain}
        computed = [view for view in listed if isinstance(view, OnDemandFeatureView)]
        self._views |= {view.name: self._computed(view) for view in computed}
        self._services = {
            service.name: service
            for service in registry.list_feature_services(project, allow_cache=True)
        }

    def asked(self, question: FeatureQuestion) -> Asked:
        """Raises NotReadable with every name that is not there."""
        if question.source is Source.SERVICE:
            return self._of_service(question.names[0])
        if question.source is Source.VIEWS:
            return self._of_names([(name, None) for name in question.names], question.source)
        pairs = [name.partition(":") for name in question.names]
        return self._of_names([(view, feature) for view, _, feature in pairs], question.source)

    def _of_service(self, name: str) -> Asked:
        service = self._services.get(name)
        if service is None:
            told = f"There is no feature service {name}; there is {_listed(self._services)}."
            raise NotReadable("unknown_feature_service", [("feature_service", told)])
        parts = tuple(self._part(each) for each in service.feature_view_projections)
        return Asked(parts, service)

    def _of_names(self, names: list[tuple[str, str | None]], source: Source) -> Asked:
        errors = [
            (str(source), told) for view, name in names if (told := self._problem(view, name))
        ]
        if errors:
            raise NotReadable("unknown_feature", errors)
        chosen: dict[str, list[str]] = {}
        for view, name in names:
            wanted = self._views[view].features if name is None else (name,)
            chosen.setdefault(view, []).extend(wanted)
        parts = tuple(
            Part(self._views[view], view, tuple(features), self._views[view].keys)
            for view, features in chosen.items()
        )
        references = [f"{part.called}:{name}" for part in parts for name in part.features]
        return Asked(parts, references)

    def _problem(self, view: str, name: str | None) -> str:
        if view not in self._views:
            return f"There is no feature view {view}; there is {_listed(self._views)}."
        features = self._views[view].features
        if name is not None and name not in features:
            return f"The feature view {view} has no feature {name}; it has {_listed(features)}."
        return ""

    def _part(self, projection: Any) -> Part:
        """Raises NotReadable: the service may be older than its views."""
        view = self._views.get(projection.name)
        if view is None:
            told = f"The service names a feature view {projection.name}, which is not there."
            raise NotReadable("unknown_feature", [("feature_service", told)])
        keys = {projection.join_key_map.get(key, key): kind for key, kind in view.keys.items()}
        features = tuple(field.name for field in projection.features)
        return Part(view, projection.name_to_use(), features, keys)

    def _computed(self, view: OnDemandFeatureView) -> View:
        """Computed when asked for: it needs its sources' keys, and what only a request knows."""
        keys: dict[str, str] = {}
        for projection in view.source_feature_view_projections.values():
            if projection.name in self._views:
                keys |= self._part(projection).keys
        keys |= {name: kind.name for name, kind in view.get_request_data_schema().items()}
        features = tuple(feature.name for feature in view.features)
        state = FeatureViewState.STATE_UNSPECIFIED
        return View(view.name, features, keys, 0.0, state, getattr(view, "enabled", True))


def _stored(view: Any, join_keys: Mapping[str, str]) -> View:
    kinds = {column.name: column.dtype.to_value_type().name for column in view.entity_columns}
    names = [name for name in view.entities if name != DUMMY_ENTITY_NAME]
    keys = {key: kinds.get(key, "") for key in (join_keys.get(name, name) for name in names)}
    ttl = getattr(view, "ttl", None) or timedelta(0)
    state = getattr(view, "state", FeatureViewState.STATE_UNSPECIFIED)
    features = tuple(feature.name for feature in view.features)
    enabled = getattr(view, "enabled", True)
    return View(view.name, features, keys, ttl.total_seconds(), state, enabled)


def _listed(names: Iterable[str]) -> str:
    items = sorted(names)
    if not items:
        return "none"
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")

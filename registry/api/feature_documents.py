"""The feature store as the API tells it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rest_framework import serializers

from registry.feature_store.description import Description, Field, Freshness, Kind, Service, View
from registry.feature_store.services import Look
from registry.models import Materialization


class ColumnSerializer(serializers.Serializer):
    """A feature or a join key."""

    name = serializers.CharField(help_text="Its name.")
    type = serializers.CharField(help_text="Feast's name of its type; empty where nobody knows it.")
    description = serializers.CharField(help_text="What its author says of it.")


class EntitySerializer(serializers.Serializer):
    """Whom features are about."""

    name = serializers.CharField(help_text="Its name.")
    join_key = serializers.CharField(help_text="What it is looked up by.")
    type = serializers.CharField(help_text="Feast's name of the key's type.")
    description = serializers.CharField(help_text="What its author says of it.")


class SourceSerializer(serializers.Serializer):
    """Where values are read from."""

    name = serializers.CharField(help_text="Its name in the feature store.")
    kind = serializers.CharField(help_text="Such as `file`, `push`, `bigquery`, `request`.")
    detail = serializers.CharField(help_text="The table, or the name of the file; often empty.")
    timestamp = serializers.CharField(help_text="The column that says when an event was.")


class FeatureViewSerializer(serializers.Serializer):
    """A feature view."""

    name = serializers.CharField(help_text="Its name.")
    kind = serializers.ChoiceField(
        choices=[kind.value for kind in Kind], help_text="Where its values come from."
    )
    entities = serializers.ListField(child=serializers.CharField(), help_text="Whom it is about.")
    join_keys = ColumnSerializer(many=True, help_text="What it is looked up by.")
    features = ColumnSerializer(many=True, help_text="Its features.")
    sources = SourceSerializer(many=True, help_text="Where its values are read from.")
    ttl_seconds = serializers.FloatField(
        allow_null=True, help_text="Older values are none; null: there is no bound."
    )
    can_materialize = serializers.BooleanField(help_text="It is filled from a batch source.")
    materialized_until = serializers.DateTimeField(
        allow_null=True, help_text="Until when events were brought into the online store."
    )
    newest_event_at = serializers.DateTimeField(
        allow_null=True,
        help_text="The newest event in the online store; null where that cannot be asked.",
    )
    freshness = serializers.ChoiceField(
        choices=[one.value for one in Freshness],
        help_text=(
            "`stale`: whatever is in the online store is older than the view's TTL, so that "
            "look-ups find nothing; `empty`: never materialised; `computed`: when asked for; "
            "`off`: not served online."
        ),
    )
    description = serializers.CharField(help_text="What its author says of it.")
    owner = serializers.CharField(help_text="Whose it is.")
    tags = serializers.DictField(child=serializers.CharField(), help_text="Its tags.")


class ServicePartSerializer(serializers.Serializer):
    """Some features of a view."""

    feature_view = serializers.CharField(help_text="The view.")
    name = serializers.CharField(help_text="What the service calls it.")
    features = serializers.ListField(
        child=serializers.CharField(), help_text="Which of its features."
    )


class FeatureServiceSerializer(serializers.Serializer):
    """What one model asks for at once."""

    name = serializers.CharField(help_text="Its name.")
    feature_views = ServicePartSerializer(many=True, help_text="What is in it.")
    join_keys = ColumnSerializer(many=True, help_text="What it is looked up by.")
    description = serializers.CharField(help_text="What its author says of it.")
    owner = serializers.CharField(help_text="Whose it is.")
    problem = serializers.CharField(
        allow_null=True, help_text="Why it cannot be asked for; null when it can."
    )


class FeatureStoreSerializer(serializers.Serializer):
    """The feature store as it was described last."""

    configured = serializers.BooleanField(help_text="There is a feature store.")
    described_at = serializers.DateTimeField(
        allow_null=True, help_text="When it was read; null while nobody has."
    )
    is_being_described = serializers.BooleanField(
        help_text="Something changed, or nobody has looked yet: a worker reads it anew."
    )
    error = serializers.CharField(
        allow_null=True, help_text="Why it could not be read the last time."
    )
    project = serializers.CharField(allow_null=True, help_text="Feast's project.")
    online_store = serializers.CharField(allow_null=True, help_text="Its kind, such as `redis`.")
    offline_store = serializers.CharField(allow_null=True, help_text="Its kind, such as `duckdb`.")
    entities = EntitySerializer(many=True, help_text="Whom features are about.")
    feature_views = FeatureViewSerializer(many=True, help_text="By name.")
    feature_services = FeatureServiceSerializer(many=True, help_text="By name.")


class OutcomeSerializer(serializers.Serializer):
    """What became of one feature view."""

    feature_view = serializers.CharField(help_text="Which one.")
    materialized_until = serializers.DateTimeField(
        allow_null=True, help_text="Until when its events are in the online store; null: it failed."
    )
    seconds = serializers.FloatField(help_text="How long it took.")
    error = serializers.CharField(allow_null=True, help_text="Why it failed.")


class MaterializationSerializer(serializers.Serializer):
    """An order to bring what is new of feature views into the online store."""

    id = serializers.IntegerField(help_text="Its number.")
    state = serializers.ChoiceField(
        choices=Materialization.State.choices, help_text="`failed`: of one view at least."
    )
    feature_views = serializers.ListField(
        child=serializers.CharField(), help_text="Which ones, by name."
    )
    outcomes = OutcomeSerializer(many=True, help_text="Of those that it has come to.")
    error = serializers.CharField(allow_null=True, help_text="Why it failed, as a whole.")
    asked_by = serializers.CharField(help_text="Who asked in the console; empty for the API.")
    asked_at = serializers.DateTimeField(help_text="When it was asked for.")
    started_at = serializers.DateTimeField(allow_null=True, help_text="When a worker began.")
    ended_at = serializers.DateTimeField(allow_null=True, help_text="When it was over.")


class MaterializationListSerializer(serializers.Serializer):
    """The newest orders."""

    materializations = MaterializationSerializer(many=True, help_text="Newest first.")


class MaterializeSerializer(serializers.Serializer):
    """Which feature views; without any, all that can be."""

    feature_views = serializers.ListField(
        child=serializers.CharField(max_length=250),
        required=False,
        default=list,
        max_length=1000,
        help_text="By name; empty or left out: all that are filled from a batch source.",
    )


def store_document(look: Look, *, now: datetime) -> dict[str, Any]:
    known = look.description
    return {
        "configured": look.is_configured,
        "described_at": look.described_at,
        "is_being_described": look.asked_at is not None,
        "error": look.error or None,
        "project": known.project if known else None,
        "online_store": known.online_store if known else None,
        "offline_store": known.offline_store if known else None,
        **_contents(known, now=now),
    }


def materialization_document(row: Materialization) -> dict[str, Any]:
    return {
        "id": row.pk,
        "state": row.state,
        "feature_views": row.feature_views,
        "outcomes": [
            {
                "feature_view": one["name"],
                "materialized_until": one["until"],
                "seconds": one["seconds"],
                "error": one["detail"] or None,
            }
            for one in row.outcome
        ],
        "error": row.error or None,
        "asked_by": row.asked_by,
        "asked_at": row.asked_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
    }


def _contents(known: Description | None, *, now: datetime) -> dict[str, list[dict[str, Any]]]:
    if known is None:
        return {"entities": [], "feature_views": [], "feature_services": []}
    return {
        "entities": [
            {
                "name": one.name,
                "join_key": one.join_key,
                "type": one.type,
                "description": one.description,
            }
            for one in known.entities.values()
        ],
        "feature_views": [_view(one, now=now) for one in known.views.values()],
        "feature_services": [_service(one) for one in known.services.values()],
    }


def _view(view: View, *, now: datetime) -> dict[str, Any]:
    return {
        "name": view.name,
        "kind": view.kind,
        "entities": view.entities,
        "join_keys": _columns(view.keys),
        "features": _columns(view.features),
        "sources": [
            {
                "name": one.name,
                "kind": one.kind,
                "detail": one.detail,
                "timestamp": one.timestamp,
            }
            for one in view.sources
        ],
        "ttl_seconds": view.ttl_seconds or None,
        "can_materialize": view.is_fillable,
        "materialized_until": view.filled_until,
        "newest_event_at": view.newest_event,
        "freshness": view.freshness(now),
        "description": view.description,
        "owner": view.owner,
        "tags": view.tags,
    }


def _service(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "feature_views": [
            {"feature_view": part.view, "name": part.called, "features": part.features}
            for part in service.parts
        ],
        "join_keys": _columns(service.keys),
        "description": service.description,
        "owner": service.owner,
        "problem": service.problem or None,
    }


def _columns(columns: Sequence[Field]) -> list[dict[str, str]]:
    return [{"name": one.name, "type": one.type, "description": one.description} for one in columns]

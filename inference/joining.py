"""Brings features from the feature store into a request, in the columns that its model takes.

A value that is not there is named and never made up. What the client sends itself wins over what
the store has; what the model does not take is not sent.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings

from inference.descriptions import Model
from inference.entities import Missing, Table, Wanted
from inference.refusals import Refused, field_error, refusal
from registry.online.client import FeatureClient, FeaturesAway, FeaturesBusy, FeaturesLate
from registry.online.frames import Feature, Gone, NotNow, NotReadable, Source

RETRY_SECONDS = 5
SHOWN = 5
ERRORS_MOST = 50
Errors = list[dict[str, str]]
WITHOUT_HINT = (
    'Send their values in `inputs`, or "missing_features": "null" where the model takes missing '
    "values."
)


@dataclass(frozen=True)
class Joined:
    """The body for the model's server, what the client is told beside the answer, and the time."""

    body: bytes
    told: dict[str, Any]
    milliseconds: float


class Features:
    """Of one event loop."""

    def __init__(self) -> None:
        self._client: FeatureClient | None = None

    async def join(self, wanted: Wanted, model: Model) -> Joined:
        """Raises Refused."""
        began = time.perf_counter()
        features = await self._read(wanted)
        columns, used = _columns(wanted, model, features)
        told = _told(wanted, model, used)
        body = orjson.dumps({"inputs": columns, "return_probabilities": wanted.probabilities})
        return Joined(body, told, (time.perf_counter() - began) * 1000)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def client(self) -> FeatureClient:
        """Who asks the process that reads features; it starts with the first question."""
        if self._client is None:
            self._client = FeatureClient(
                settings.FEAST_REPO_DIR,
                seconds=settings.FEATURES_SECONDS,
                answer_bytes=settings.INFERENCE_MAX_BYTES,
            )
        return self._client

    async def _read(self, wanted: Wanted) -> list[Feature]:
        try:
            return await self.client().ask(wanted.question)
        except NotReadable as wrong:
            errors = [field_error(field, detail) for field, detail in wrong.errors[:ERRORS_MOST]]
            raise _refused(wrong.code, errors) from wrong
        except NotNow as error:
            raise _later("features_not_ready", str(error)) from error
        except FeaturesAway as error:
            raise _later("feature_store_unavailable", str(error)) from error
        except FeaturesLate as error:
            told = f"The feature store did not answer within {settings.FEATURES_SECONDS:g} s."
            raise _later("features_timeout", told) from error
        except FeaturesBusy as error:
            told = "So many requests wait for features that no more are taken."
            raise _later("overloaded", told, seconds=1) from error


# -- the columns --------------------------------------------------------------------------------
def _columns(
    wanted: Wanted, model: Model, features: list[Feature]
) -> tuple[Table, dict[str, Feature]]:
    """What is sent, and which of its columns come from the store. Raises Refused."""
    if not model.columns:
        return _in_the_clients_order(wanted, model, features)
    columns: Table = {}
    used: dict[str, Feature] = {}
    for column in model.columns:
        name = column.name
        if name in wanted.inputs:
            columns[name] = wanted.inputs[name]
        elif (feature := _named(name, features)) is not None:
            columns[name], used[name] = feature.values, feature
        elif name in wanted.question.entities:
            columns[name] = wanted.question.entities[name]
    if not columns:
        raise _nothing_fits(model, features)
    # Those that the model does not take are refused by its server, in its own words.
    return {**columns, **wanted.inputs}, used


def _named(column: str, features: list[Feature]) -> Feature | None:
    """By its whole name, as a training may have it, or by its own. Raises Refused."""
    whole = [feature for feature in features if feature.full_name == column]
    found = whole or [feature for feature in features if feature.name == column]
    if len(found) > 1:
        views = " and ".join(feature.view for feature in found)
        told = f"The model's column {column} is a feature of {views}: name the one that is meant."
        raise _refused("ambiguous_feature", [field_error("features", told)])
    return found[0] if found else None


def _in_the_clients_order(
    wanted: Wanted, model: Model, features: list[Feature]
) -> tuple[Table, dict[str, Feature]]:
    """Of a model without names only the client knows the order. Raises Refused."""
    if wanted.question.source is not Source.NAMES or wanted.inputs:
        told = (
            f"{model.name} version {model.version} was trained without names of columns: list all "
            "of its columns in their order in `features`, without `inputs`."
        )
        raise _refused("columns_unknown", [field_error("features", told)])
    asked = {f"{feature.view}:{feature.name}": feature for feature in features}
    used = {name: asked[name] for name in wanted.question.names}
    return {name: feature.values for name, feature in used.items()}, used


def _nothing_fits(model: Model, features: list[Feature]) -> Refused:
    takes = _listed([column.name for column in model.columns])
    told = f"None of {_listed([each.name for each in features])} is a column of the model."
    return _refused("columns_mismatch", [field_error("features", f"{told} It takes {takes}.")])


# -- what is not there --------------------------------------------------------------------------
def _told(wanted: Wanted, model: Model, used: dict[str, Feature]) -> dict[str, Any]:
    """Raises Refused when values are missing that must not be."""
    absent = list(_absent(used))
    refused = [each for each in absent if not _may_miss(each[0], wanted, model)]
    unusable = [each for each in absent if each[2] == Gone.UNUSABLE]
    if unusable or refused:
        raise _without(wanted, unusable or refused)
    told: dict[str, Any] = {}
    if wanted.return_features:
        told["features"] = {name: feature.values for name, feature in used.items()}
    if absent:
        told["missing_features"] = [
            {"row": row, "entity": wanted.entity(row), "feature": name, "detail": why}
            for name, row, why in absent[:ERRORS_MOST]
        ]
    return told


def _may_miss(name: str, wanted: Wanted, model: Model) -> bool:
    """A column that the model's signature calls optional was missing in its training too."""
    if wanted.missing is not Missing.AS_MODEL:
        return wanted.missing is Missing.NULL
    return any(column.name == name and not column.required for column in model.columns)


def _absent(used: dict[str, Feature]) -> Iterator[tuple[str, int, str]]:
    return ((name, row, why) for name, feature in used.items() for row, why in feature.gone)


def _without(wanted: Wanted, absent: list[tuple[str, int, str]]) -> Refused:
    errors = [
        field_error(f"features.{name}", f"row {row}, {_entity(wanted, row)}: {why}")
        for name, row, why in absent[:ERRORS_MOST]
    ]
    shown = [f"{name} of {_entity(wanted, row)}" for name, row, _ in absent]
    return refusal(
        422,
        "features_missing",
        f"The feature store has no value for {_listed(shown)}.",
        errors=tuple(errors),
        hint=WITHOUT_HINT,
    )


def _entity(wanted: Wanted, row: int) -> str:
    return ", ".join(f"{key}={value!r}"[:80] for key, value in wanted.entity(row).items())


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    shown = ", ".join(names[:SHOWN]) or "nothing"
    return f"{shown} and {more} more" if more > 0 else shown


def _refused(code: str, errors: Errors) -> Refused:
    told = " ".join(f"{error['field']}: {error['detail']}" for error in errors[:SHOWN])
    return refusal(400, code, told, errors=tuple(errors))


def _later(code: str, told: str, *, seconds: int = RETRY_SECONDS) -> Refused:
    hint = "Send the request again in a moment, or send the values themselves in `inputs`."
    return refusal(503, code, told, hint=hint, retry_after_seconds=seconds)

"""The page of one model: its versions, what its aliases name and named, and how it is served."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from inference import rights
from inference.console import lookup, serving
from inference.console.models import ordered
from inference.console.origin import Origin, origin_of
from inference.console.serving import Serving
from inference.services import aliases
from inference.services.aliases import Named
from inference.services.policy import policy_of
from registry.console import visible
from registry.mlflow_client import ModelVersion, RegisteredModel

HISTORY_SHOWN = 20
LONGEST = 9


@dataclass(frozen=True)
class Row:
    """A version; without `version` MLflow was not asked."""

    number: str
    version: ModelVersion | None
    aliases: Sequence[str]
    serving: Serving
    origin: Origin | None


def model_page(request: HttpRequest, context: dict[str, Any], name: str) -> HttpResponse:
    """`context` is the frame's. Raises Http404 where nobody knows such a model."""
    below = _below(request.GET.get("below", ""))
    found = lookup.model(name, below=below)
    if found is None:
        raise Http404("There is no such model.")
    current = dict(found.model.aliases) if found.model else {}
    rows = _rows(name, found, current)
    told = {
        "title": visible(name),
        "name": name,
        "known": found,
        "rows": rows,
        "older": "" if found.is_last or not rows else f"?below={rows[-1].number}",
        "is_first": below is None,
        "named": named_of(name, found.model),
        "history": aliases.history(name, limit=HISTORY_SHOWN),
        "history_address": history_address(name),
        "policy": policy_of(name),
        "may_operate": rights.may_operate(request.user),
        "served_at": timezone.now(),
    }
    return render(request, "console/model.html", {**context, **told})


def named_of(name: str, model: RegisteredModel | None) -> list[Named]:
    """Its aliases, the champion first; none while MLflow does not say what they name."""
    if model is None:
        return []
    named = {one.alias: one for one in aliases.named_now(name, model.aliases)}
    return [named[alias] for alias, _ in ordered(dict(model.aliases))]


def history_address(name: str) -> str:
    """Of all that its aliases ever named."""
    query = urlencode({"model_name": name})
    return f"{reverse('admin:inference_aliaschange_changelist')}?{query}"


def _below(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= LONGEST else None


def _rows(name: str, found: lookup.OneModel, current: dict[str, str]) -> list[Row]:
    serves = serving.summed_by_version(name)
    numbers = [version.version for version in found.versions]
    if found.model is None:
        numbers = lookup.numbers_known_here(name)
    versions = {version.version: version for version in found.versions}
    return [
        Row(
            number,
            versions.get(number),
            [alias for alias, named in ordered(current) if named == number],
            serves.get(number, serving.NOTHING),
            origin_of(versions[number], None) if number in versions else None,
        )
        for number in numbers
    ]

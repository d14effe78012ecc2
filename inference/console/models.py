"""The list of models: what there is, what an alias names, what runs and what was asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from inference import figures, metrics
from inference.console import lookup, serving
from inference.console.lookup import Listed
from inference.console.serving import Serving
from inference.figures import Figures
from registry.mlflow_client import RegistryRefused

LIST = "admin:models"
TEXT_CHARACTERS = 200
REFRESH_SECONDS = 5
TABS = {"": "All", "running": "Running", "failed": "Failed"}
# The alias that stands first, wherever aliases are told.
FIRST = "champion"


@dataclass(frozen=True)
class Row:
    """One model; `number` tells its pieces of the page apart."""

    number: int
    listed: Listed
    aliases: Sequence[tuple[str, str]]
    serving: Serving
    figures: Figures


@dataclass(frozen=True)
class Tab:
    words: str
    address: str
    current: bool


@dataclass(frozen=True)
class Asked:
    """What the address asks for."""

    text: str
    state: str
    after: str
    past: str

    def address(self, **changed: str) -> str:
        """Of the same list with something else."""
        query = QueryDict(mutable=True)
        values = {"text": self.text, "state": self.state, **changed}
        query.update({name: value for name, value in values.items() if value})
        return f"{reverse(LIST)}?{query.urlencode()}" if query else reverse(LIST)

    @property
    def is_first(self) -> bool:
        return not (self.after or self.past)


def models_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """`context` is the frame's. With `HX-Request` what of some rows changes while one looks."""
    if "HX-Request" in request.headers:
        return _now(request)
    asked = _asked(request.GET)
    wrong = ""
    try:
        found = lookup.models(
            text=asked.text, after=asked.after, past=asked.past, state=asked.state
        )
    except RegistryRefused as refused:
        found, wrong = lookup.Models(), str(refused.detail)
    rows = _rows(found.listed)
    told = {
        "title": "Models",
        "asked": asked,
        "rows": rows,
        "tabs": [
            Tab(words, asked.address(state=state), state == asked.state)
            for state, words in TABS.items()
        ],
        "following": _following(asked, found),
        "problem": found.problem,
        "wrong": wrong,
        "counted_since": metrics.BEGAN,
        "served_at": timezone.now(),
        **_alive(rows),
    }
    return render(request, "console/models.html", {**context, **told})


def ordered(aliases: dict[str, str]) -> list[tuple[str, str]]:
    """The champion first, then by name."""
    return sorted(aliases.items(), key=lambda pair: (pair[0] != FIRST, pair[0]))


def _asked(sent: QueryDict) -> Asked:
    state = sent.get("state", "")
    return Asked(
        text=sent.get("text", "").strip()[:TEXT_CHARACTERS].replace("\x00", ""),
        state=state if state in TABS else "",
        after=sent.get("after", ""),
        past=sent.get("past", "").replace("\x00", ""),
    )


def _rows(listed: Sequence[Listed]) -> list[Row]:
    serves = serving.summed_by_model([one.name for one in listed])
    counted = figures.counted()
    return [
        Row(
            number,
            one,
            ordered(dict(one.model.aliases)) if one.model else [],
            serves.get(one.name, serving.NOTHING),
            counted.get(one.name, figures.NOTHING),
        )
        for number, one in enumerate(listed)
    ]


def _now(request: HttpRequest) -> HttpResponse:
    """Of the rows that were alive, by the names that the page was shown with."""
    names = request.GET.getlist("model")[: lookup.MODELS_SHOWN]
    numbers = request.GET.getlist("row")[: lookup.MODELS_SHOWN]
    known = [
        (int(number), Listed(name.replace("\x00", "")))
        for number, name in zip(numbers, names, strict=False)
        if number.isdecimal() and len(number) < 5
    ]
    rows = [
        Row(number, row.listed, row.aliases, row.serving, row.figures)
        for (number, _), row in zip(known, _rows([one for _, one in known]), strict=True)
    ]
    return render(request, "console/models_now.html", {"rows": rows, **_alive(rows), "oob": True})


def _alive(rows: Sequence[Row]) -> dict[str, Any]:
    """What asks for them again; for none in the end."""
    query = QueryDict(mutable=True)
    for row in rows:
        if row.serving.is_live:
            query.appendlist("model", row.listed.name)
            query.appendlist("row", str(row.number))
    address = f"{reverse(LIST)}?{query.urlencode()}" if query else ""
    return {"alive": address, "refresh_seconds": REFRESH_SECONDS}


def _following(asked: Asked, found: lookup.Models) -> str:
    if found.after:
        return asked.address(after=found.after)
    return asked.address(past=found.past) if found.past else ""

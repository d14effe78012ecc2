"""Looks up an entity: a form of its join keys, and what the online store has for it.

What was typed is made what the store's keys are, so that `7` is a number where it has numbers.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.lookup import LOOKUPS
from registry.console import visible
from registry.feature_store.description import Description, Field, Service, View
from registry.online.client import FeaturesAway, FeaturesBusy, FeaturesLate
from registry.online.frames import Feature, FeatureQuestion, NotNow, NotReadable, Source

WHOLE, NUMBER, TRUTH = ("INT32", "INT64"), ("FLOAT", "DOUBLE"), "BOOL"
PREFIX = "key."
TYPED_CHARACTERS, SHOWN_CHARACTERS = 1000, 2000
KINDS = {
    **dict.fromkeys(WHOLE, "whole number"),
    **dict.fromkeys(NUMBER, "number"),
    TRUTH: "true or false",
}


@dataclass(frozen=True)
class Input:
    """One field of the form: `wrong` says why what was typed is no such key."""

    name: str
    type: str
    typed: str
    wrong: str = ""

    @property
    def field(self) -> str:
        return f"{PREFIX}{self.name}"

    @property
    def kind(self) -> str:
        return KINDS.get(self.type, "text")

    @property
    def is_truth(self) -> bool:
        return self.type == TRUTH


@dataclass(frozen=True)
class Cell:
    """One feature of the entity; `missing` says why there is no value."""

    view: str
    name: str
    type: str
    value: str
    missing: str = ""


@dataclass(frozen=True)
class Answer:
    """`later` is a sentence where one has to ask again, `wrong` where asking again is of no use."""

    cells: Sequence[Cell] = ()
    later: str = ""
    wrong: Sequence[str] = ()

    @property
    def missing(self) -> list[str]:
        return [cell.name for cell in self.cells if cell.missing]


@dataclass(frozen=True)
class Form:
    """`is_asked`: something was typed. The answer is None until all of it is right."""

    inputs: Sequence[Input]
    is_asked: bool = False
    answer: Answer | None = None


def form_of(thing: View | Service, parameters: Mapping[str, str], *, known: Description) -> Form:
    """What was typed, and the answer to it."""
    typed = {key.name: parameters.get(f"{PREFIX}{key.name}", "").strip() for key in thing.keys}
    if not any(typed.values()):
        return Form([Input(key.name, key.type, "") for key in thing.keys])
    inputs: list[Input] = []
    entity: dict[str, list[Any]] = {}
    for key in thing.keys:
        value, wrong = _read(key, typed[key.name])
        inputs.append(Input(key.name, key.type, typed[key.name], wrong))
        entity[key.name] = [value]
    if any(one.wrong for one in inputs):
        return Form(inputs, is_asked=True)
    source = Source.SERVICE if isinstance(thing, Service) else Source.VIEWS
    question = FeatureQuestion(source, (thing.name,), entity)
    return Form(inputs, is_asked=True, answer=_answer(question, known))


def _read(key: Field, text: str) -> tuple[Any, str]:
    """The value, or why it is none."""
    if not text:
        return None, "Fill it in: these features are looked up by it."
    if len(text) > TYPED_CHARACTERS:
        return None, f"At most {TYPED_CHARACTERS} characters."
    if key.type in WHOLE:
        return _whole(text)
    if key.type in NUMBER:
        return _number(text)
    if key.type == TRUTH:
        truths = {"true": True, "false": False}
        return (truths[text], "") if text in truths else (None, "Choose true or false.")
    return text, ""


def _whole(text: str) -> tuple[int | None, str]:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        return None, "It is a whole number, such as 7."
    return int(text), ""


def _number(text: str) -> tuple[float | None, str]:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return (value, "") if math.isfinite(value) else (None, "It is a number, such as 0.5.")


def _answer(question: FeatureQuestion, known: Description) -> Answer:
    try:
        features = LOOKUPS.look_up(question)
    except NotReadable as wrong:
        return Answer(wrong=[detail for _, detail in wrong.errors])
    except NotNow as later:
        return Answer(later=str(later))
    except FeaturesAway as away:
        return Answer(wrong=[str(away)])
    except FeaturesLate:
        return Answer(later="The feature store did not answer in time.")
    except FeaturesBusy:
        return Answer(later="Others look up features at this moment.")
    types = _types(question, known)
    return Answer([_cell(feature, types) for feature in features])


def _types(question: FeatureQuestion, known: Description) -> dict[tuple[str, str], str]:
    """By what the answer calls view and feature: a service may give a view another name."""
    called = {name: name for name in question.names}
    if question.source is Source.SERVICE:
        service = known.services.get(question.names[0])
        called = {part.called: part.view for part in (service.parts if service else ())}
    return {
        (name, feature.name): feature.type
        for name, view in called.items()
        if view in known.views
        for feature in known.views[view].features
    }


def _cell(feature: Feature, types: Mapping[tuple[str, str], str]) -> Cell:
    kind = types.get((feature.view, feature.name), "")
    if feature.gone:
        return Cell(feature.view, feature.name, kind, "", feature.gone[0][1])
    value = feature.values[0]
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    cut = told if len(told) <= SHOWN_CHARACTERS else f"{told[:SHOWN_CHARACTERS]}…"
    return Cell(feature.view, feature.name, kind, visible(cut))

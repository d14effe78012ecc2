"""Reads which features a request wants, and for whom; which there are the feature store knows."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from inference.refusals import field_error
from registry.online.frames import FeatureQuestion, Source

ENTITIES = "entities"
MISSING = "missing_features"
RETURN = "return_features"
JOIN_FIELDS = frozenset({ENTITIES, *Source, MISSING, RETURN})
ENTITIES_MOST = 10_000
NAMES_MOST = 1000
SHAPES = 'columns {"name": [1, 2]}, or records [{"name": 1}, {"name": 2}]'
Errors = list[dict[str, str]]
Table = dict[str, list[Any]]


class Missing(StrEnum):
    """What is done about a feature without a value."""

    # Refused, unless the model's signature calls the column optional.
    AS_MODEL = ""
    REFUSE = "refuse"
    NULL = "null"


@dataclass(frozen=True)
class Wanted:
    """Features to look up. `inputs` are columns that the client sends itself; they win."""

    question: FeatureQuestion
    inputs: Table
    probabilities: bool
    missing: Missing
    return_features: bool

    @property
    def rows(self) -> int:
        return len(next(iter(self.question.entities.values())))

    def entity(self, row: int) -> dict[str, Any]:
        return {key: cells[row] for key, cells in self.question.entities.items()}


class _Wrong(Exception):
    """No table; says why."""


def wants_features(document: dict[str, Any]) -> bool:
    return not JOIN_FIELDS.isdisjoint(document)


def read_wanted(document: dict[str, Any]) -> tuple[Wanted | None, Errors]:
    """None when anything is wrong with it; all of that is in the errors."""
    errors: Errors = []
    entities = _table(document, ENTITIES, errors)
    inputs = _table(document, "inputs", errors) if document.get("inputs") else {}
    names = _names(document, errors)
    missing = document.get(MISSING) or Missing.AS_MODEL.value
    if missing not in tuple(Missing):
        errors.append(field_error(MISSING, 'Expected "refuse" or "null".'))
    if not isinstance(document.get(RETURN), bool | None):
        errors.append(field_error(RETURN, "Expected true or false."))
    if entities and inputs and _length(entities) != _length(inputs):
        told = f"{ENTITIES} has {_length(entities)} rows, and inputs {_length(inputs)}."
        errors.append(field_error(ENTITIES, told))
    if errors or not entities or names is None or inputs is None:
        return None, errors
    question = FeatureQuestion(*names, entities)
    return (
        Wanted(
            question=question,
            inputs=inputs,
            probabilities=document.get("return_probabilities") is True,
            missing=Missing(missing),
            return_features=document.get(RETURN) is True,
        ),
        [],
    )


def _names(document: dict[str, Any], errors: Errors) -> tuple[Source, tuple[str, ...]] | None:
    given = [source for source in Source if document.get(source) is not None]
    if len(given) != 1:
        told = f"Send one of {', '.join(Source)} with {ENTITIES}."
        errors.append(field_error(given[1] if given else Source.SERVICE, told))
        return None
    source, value = given[0], document[given[0]]
    if source is Source.SERVICE:
        if isinstance(value, str) and value:
            return source, (value,)
        errors.append(field_error(source, "Expected the name of a feature service as text."))
        return None
    problem = _listed_problem(source, value)
    if problem:
        errors.append(field_error(source, problem))
        return None
    return source, tuple(value)


def _listed_problem(source: Source, value: Any) -> str:
    example = '["customer_profile:age"]' if source is Source.NAMES else '["customer_profile"]'
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        return f"Expected a list of names, such as {example}."
    if len(value) > NAMES_MOST:
        return f"There are {len(value)} names; at most {NAMES_MOST} are looked up at once."
    if len(set(value)) != len(value):
        return "A name is there twice."
    if source is Source.NAMES and not all(":" in each for each in value):
        return f"A feature is named with its view, such as {example}."
    return ""


def _table(document: dict[str, Any], field: str, errors: Errors) -> Table | None:
    """Columns, whichever of the two shapes they came in."""
    value = document.get(field)
    try:
        if isinstance(value, dict) and value:
            table = dict(_columns(value))
        elif isinstance(value, list) and value:
            table = _from_records(value)
        else:
            raise _Wrong(f"Expected {SHAPES}.")
        lengths = {len(cells) for cells in table.values()}
        if len(lengths) != 1 or not all(lengths):
            raise _Wrong("Every column needs the same number of values, and at least one.")
        if _length(table) > ENTITIES_MOST:
            told = f"There are {_length(table)} rows; features are looked up for {ENTITIES_MOST}"
            raise _Wrong(f"{told} at once.")
    except _Wrong as wrong:
        where = "" if field == ENTITIES else f" (beside {ENTITIES}, rows need names)"
        errors.append(field_error(field, f"{wrong}{where}"))
        return None
    return table


def _columns(value: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(value.get("data"), list) and value.keys() <= {"columns", "data", "index"}:
        raise _Wrong(f"Expected {SHAPES}.")
    for name, cells in value.items():
        if not isinstance(cells, list):
            raise _Wrong(f"{name} must be a list of values.")
        yield name, cells


def _from_records(value: list[Any]) -> Table:
    if not all(isinstance(record, dict) for record in value):
        raise _Wrong(f"Expected {SHAPES}.")
    names = list(value[0])
    for row, record in enumerate(value):
        if record.keys() != value[0].keys():
            raise _Wrong(f"Record {row} has other names than record 0.")
    if not names:
        raise _Wrong("The records are empty.")
    return {name: [record[name] for record in value] for name in names}


def _length(table: Table) -> int:
    return len(next(iter(table.values())))

"""Opens the original, warms it up, and finds out whether its requests may share calls."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from served_answers import attempt
from served_desk import Batching
from served_estimators import parts_of
from served_model import Report, ServedModel, load
from served_parts import TREES
from served_paths import read_description
from served_probe import (
    MORE_ROWS,
    TRIAL_ROWS,
    Rows,
    batching_of,
    categories_in,
    example_in,
    logged_example,
    small_example,
    warm_up,
)
from served_steps import PIPELINE, kind_of


@dataclass(frozen=True)
class Opened:
    """A model that has answered once, if anybody knows with what it can be asked."""

    model: ServedModel
    batching: Batching
    example: Any


def opened(folder: Path, report: Report) -> Opened:
    """Raises whatever the model's code raises while it is loaded; its trial may fail."""
    model = load(folder, report)
    report("warming up")
    description = read_description(folder)
    logged = example_in(folder, description)
    rows = Rows(
        model.estimator.expected,
        example=logged,
        known=categories_in(parts_of(getattr(model.estimator, "model", None))),
    )
    _, refused = attempt(lambda: warm_up(model, rows))
    example = _example(model, small_example(rows) if refused is None else None, logged)
    most = MORE_ROWS if _is_trees(model) else TRIAL_ROWS
    batching, error = attempt(lambda: batching_of(model, rows, most_rows=most))
    if batching is None:
        reason = f"It could not be tried: {type(error or refused).__name__}."
        batching = Batching(on=False, reason=reason, most_rows=0)
    return Opened(model, batching, example)


def _example(model: ServedModel, made: Any, logged: Any) -> dict[str, Any] | None:
    """What the model answers, as a user may send it: rows of our making, or those that were logged
    with it. None where it takes neither."""
    if made is not None:
        return {"inputs": made}
    inputs = logged_example(logged)
    return {"inputs": inputs} if inputs is not None and _takes(model, inputs) else None


def _takes(model: ServedModel, inputs: Any) -> bool:
    _, refused = attempt(lambda: model.predict(inputs, probabilities=False))
    return refused is None


def _is_trees(model: ServedModel) -> bool:
    """Whether each row goes down the trees alone, whatever is beside it."""
    inner: Any = getattr(model.estimator, "model", None)
    last = inner.steps[-1][1] if kind_of(inner) == PIPELINE else inner
    return kind_of(last) in TREES

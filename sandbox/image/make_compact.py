"""Tries the compact form of a model, and compares it with the original on thousands of rows.

Runs in the model's own container, in a process of its own, at the lowest priority: it opens the
model, which is a stranger's code. Writes an outcome, and the form only when every answer
agreed, to the last bit or within the tolerance that the operator allows.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [*sys.path[1:], "/platform", sys.path[0]]

import numpy as np  # noqa: E402 (found through the line above, as all that follow)
from served_columns import NUMBER, TEXT, LeftToOriginal  # noqa: E402
from served_compact import (  # noqa: E402
    COMPACT,
    OUTCOME,
    CompactModel,
    CompactUnreadable,
    expected_document,
    pack,
)
from served_model import INPUT_ERRORS, ServedModel, first_line, load  # noqa: E402
from served_parts import Candidate, NoCompactForm, candidates_of  # noqa: E402
from served_rows import Samples  # noqa: E402
from served_scores import FormUnknown  # noqa: E402
from served_shapes import Table  # noqa: E402
from served_trees import TreesUnreadable  # noqa: E402

RANDOM_ROWS = 3000
WHOLE_ROWS = 500
# Every count up to here, since sums of a matrix product are ordered by its size.
EVERY_COUNT = 40
MORE_COUNTS = (64, 100, 256, 333, 1000)
TIMED_ROWS = (1, 3, 10, 30, 100, 300, 1000, 3000)
TIMED_REPEATS = 5
GAIN_ROWS = 3
NO_LIMIT = 100_000
# Where more overflows in single precision.
LARGE = 1e6
# More of them are tried all together or not at all.
COLUMNS_ONE_BY_ONE = 200
UNFIT = (CompactUnreadable, TreesUnreadable, FormUnknown, LeftToOriginal)


@dataclass
class Proof:
    """What was compared, and how it went; `covers` counts rows by what they are."""

    rows: int = 0
    largest_difference: float = 0.0
    covers: dict[str, int] = field(default_factory=dict)


class Differs(Exception):
    """An answer of the compact form is not the original's."""


@dataclass(frozen=True)
class Kept:
    """A form that passed, with what its trial found."""

    content: bytes
    proof: Mapping[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tolerance", type=float, default=0.0)
    arguments = parser.parse_args()
    model = load(arguments.model, lambda phase: None)
    try:
        kept = make(model, tolerance=arguments.tolerance)
    except NoCompactForm as refused:
        _write(arguments.out, {"state": "refused", "reason": str(refused), "proof": refused.proof})
        return 0
    (arguments.out / COMPACT).write_bytes(kept.content)
    reason = "Every answer agreed with the original's."
    _write(arguments.out, {"state": "kept", "reason": reason, "proof": kept.proof})
    return 0


def _write(folder: Path, outcome: Mapping[str, Any]) -> None:
    (folder / OUTCOME).write_text(json.dumps(outcome))


def make(model: ServedModel, *, tolerance: float = 0.0) -> Kept:
    """The first candidate that passes. Raises NoCompactForm."""
    reason, compared = "No form of it is known.", Proof()
    for candidate in candidates_of(model):
        proof = Proof()
        try:
            return _tried(model, candidate, proof, tolerance=tolerance)
        except Differs as error:
            reason, compared = str(error), proof
        except INPUT_ERRORS as error:
            reason = f"It refuses what was made for its trial: {first_line(error)}"
        except UNFIT as error:
            told = str(error) or "It does not take all that the model takes."
            reason = reason if compared.rows or compared.largest_difference else told
    raise NoCompactForm(reason, proof=vars(compared))


def _tried(model: ServedModel, candidate: Candidate, proof: Proof, *, tolerance: float) -> Kept:
    """Raises Differs, and what UNFIT names."""
    about = {
        **candidate.about,
        "name": model.estimator.name,
        "flavour": model.flavour,
        "classes": model.estimator.classes,
        "expected": expected_document(model.estimator.expected),
        "has_probabilities": model.has_probabilities,
        "takes_missing": False,
        "refuses_missing": "",
        "rows_most": NO_LIMIT,
        "description": model.description(),
    }
    samples = candidate.samples
    trial = _Trial(model, CompactModel(pack(about, candidate.arrays)), proof, tolerance)
    for name, rows in _groups(samples):
        trial.compare(name, rows)
    _compare_extremes(trial, samples)
    for count in (*range(1, EVERY_COUNT), *MORE_COUNTS):
        trial.compare("counts of rows", samples.rows(count))
    if about["takes"] is None:
        about |= trial.missing(samples)
    else:
        about["gaps"] = _gaps(trial, about, candidate)
        trial = trial.of(CompactModel(pack(about, candidate.arrays)))
        _compare_unknown(trial, samples)
    gain, limit = _timed(trial, samples)
    if limit <= GAIN_ROWS:
        raise Differs("It is no quicker than the original.")
    about["rows_most"] = limit
    told = {
        **vars(proof),
        "form": candidate.about["form"],
        "gain": round(gain, 1),
        "original_from_rows": None if limit == NO_LIMIT else limit + 1,
        "missing_values": _missing_words(about),
    }
    about["proof"] = told
    return Kept(pack(about, candidate.arrays), told)


def _gaps(trial: "_Trial", about: dict[str, Any], candidate: Candidate) -> list[bool]:
    """In which columns values may be missing: those of which both say the same."""
    samples = candidate.samples
    count = len(samples.sources)
    used = [source.takes in (NUMBER, TEXT) for source in samples.sources]

    def agree(which: list[bool]) -> bool:
        model = CompactModel(pack({**about, "gaps": which}, candidate.arrays))
        return trial.of(model).agrees("missing values", samples.with_gaps(which))

    if not any(used) or agree(used):
        return used
    if count > COLUMNS_ONE_BY_ONE:
        return [False] * count
    alone = [[at == place for at in range(count)] for place in range(count)]
    found = [used[place] and agree(alone[place]) for place in range(count)]
    return found if agree(found) else [False] * count


def _compare_extremes(trial: "_Trial", samples: Samples) -> None:
    """Raises Differs. Where the original refuses the largest, the form must leave them to it."""
    largest = samples.extremes()
    if trial.is_refused(largest):
        if trial.is_taken(largest):
            raise Differs("extremes: it answers what the original refuses.")
        trial.compare("extremes", samples.extremes(most=LARGE))
        return
    trial.compare("extremes", largest)


def _compare_unknown(trial: "_Trial", samples: Samples) -> None:
    """Raises Differs. What the form leaves to the original is not compared, column by column."""
    which = [bool(source.keys) for source in samples.sources]
    if sum(which) > COLUMNS_ONE_BY_ONE or not any(which):
        return
    count = len(which)
    taken = [False] * count
    for place in (place for place in range(count) if which[place]):
        rows = samples.with_unknown([at == place for at in range(count)])
        taken[place] = trial.compare_if_taken("unknown values", rows)
    if any(taken):
        trial.compare_if_taken("unknown values", samples.with_unknown(taken))


def _missing_words(about: Mapping[str, Any]) -> str:
    if about["takes"] is not None:
        used = [kind in (NUMBER, TEXT) for kind in about["takes"]]
        if any(about["gaps"]):
            return "compared" if about["gaps"] == used else "compared in some columns"
        return "left to the original"
    if about["takes_missing"]:
        return "compared"
    return "refused as by the original" if about["refuses_missing"] else "left to the original"


class _Trial:
    """Compares both answers, with probabilities and without."""

    def __init__(
        self, model: ServedModel, compact: CompactModel, proof: Proof, tolerance: float
    ) -> None:
        self._model = model
        self._compact = compact
        self._proof = proof
        self._tolerance = tolerance

    def of(self, compact: CompactModel) -> "_Trial":
        """The same trial of another compact form."""
        return _Trial(self._model, compact, self._proof, self._tolerance)

    def ask_original(self, rows: Any) -> tuple[Any, Any]:
        return self._model.estimator.predict(
            self._form(rows), probabilities=self._model.has_probabilities
        )

    def ask_compact(self, rows: Any) -> tuple[Any, Any]:
        """Raises LeftToOriginal."""
        prepared = self._compact.admitted(rows) if isinstance(rows, Table) else rows
        if prepared is None:
            raise LeftToOriginal
        return self._compact.labels_and_chances(prepared)

    def compare(self, name: str, rows: Any) -> None:
        """Raises Differs, LeftToOriginal, and whatever the original does."""
        wanted, chances = self.ask_original(rows)
        if chances is not None:
            plain = self._model.estimator.predict(self._form(rows), probabilities=False)[0]
            self._same(name, plain, wanted)
        got, got_chances = self.ask_compact(rows)
        self._same(name, got, wanted)
        if chances is not None:
            self._same(name, got_chances, chances)
        count = len(wanted)
        self._proof.rows += count
        self._proof.covers[name] = self._proof.covers.get(name, 0) + count

    def is_refused(self, rows: Any) -> bool:
        try:
            self.ask_original(rows)
        except INPUT_ERRORS:
            return True
        return False

    def is_taken(self, rows: Any) -> bool:
        try:
            self.ask_compact(rows)
        except LeftToOriginal:
            return False
        return True

    def compare_if_taken(self, name: str, rows: Any) -> bool:
        """Whether the compact form answers them at all. Raises Differs."""
        if not self.is_taken(rows):
            return False
        if self.is_refused(rows):
            raise Differs(f"{name}: it answers what the original refuses.")
        self.compare(name, rows)
        return True

    def agrees(self, name: str, rows: Any) -> bool:
        try:
            self.compare(name, rows)
        except (Differs, LeftToOriginal, *INPUT_ERRORS):
            return False
        return True

    def missing(self, samples: Samples) -> dict[str, Any]:
        """What the original does with missing values, and whether the compact form does too."""
        rows = samples.with_gaps([True] * len(samples.sources))
        try:
            self.compare("missing values", rows)
        except Differs:
            return {}
        except (ValueError, TypeError) as error:
            return {"refuses_missing": self._one_sentence(rows, str(error))}
        return {"takes_missing": True}

    def _form(self, rows: Any) -> Any:
        """As a request's: a table becomes what the model takes."""
        return self._model.estimator.form(rows) if isinstance(rows, Table) else rows

    def _one_sentence(self, rows: Any, sentence: str) -> str:
        """The original's refusal, where it is the same for other rows and another count of them."""
        first = sentence.strip().splitlines()[0] if sentence.strip() else ""
        for count in (1, 2, 5):
            some = rows[:count].copy()
            some[0, 0] = np.nan
            try:
                self._model.estimator.predict(some, probabilities=False)
            except (ValueError, TypeError) as error:
                if not str(error).strip().startswith(first):
                    return ""
            else:
                return ""
        return first

    def _same(self, name: str, got: Any, wanted: Any) -> None:
        got, wanted = np.asarray(got), np.asarray(wanted)
        if got.shape != wanted.shape:
            raise Differs(f"{name}: the shape {got.shape} is not {wanted.shape}.")
        if wanted.dtype.kind not in "fc":
            if not np.array_equal(got, wanted):
                raise Differs(f"{name}: {int((got != wanted).sum())} labels differ.")
            return
        if got.dtype != wanted.dtype:
            raise Differs(f"{name}: {got.dtype} is not {wanted.dtype}.")
        equal = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        if equal.all():
            return
        difference = float(np.nanmax(np.abs(got - wanted)))
        self._proof.largest_difference = max(self._proof.largest_difference, difference)
        if not difference <= self._tolerance:
            raise Differs(
                f"{name}: {int((~equal).sum())} of {equal.size} numbers differ, "
                f"by {difference:.2g} at most."
            )


def _groups(samples: Samples) -> Iterator[tuple[str, Any]]:
    yield "like the training's", samples.rows(RANDOM_ROWS)
    if any(source.takes == NUMBER for source in samples.sources):
        yield "whole numbers", samples.whole_numbers(WHOLE_ROWS)
    at_thresholds = samples.at_thresholds()
    if at_thresholds is not None:
        yield "at split thresholds", at_thresholds


def _timed(trial: _Trial, samples: Samples) -> tuple[float, int]:
    """How many times quicker at few rows, and the largest count of rows at which it is quicker."""
    gain, limit = 1.0, 0
    for count in TIMED_ROWS:
        rows = samples.rows(count)
        theirs = _quickest(partial(trial.ask_original, rows))
        ours = _quickest(partial(trial.ask_compact, rows))
        if count == GAIN_ROWS:
            gain = theirs / ours
        if ours > theirs:
            return gain, limit
        limit = count
    return gain, NO_LIMIT


def _quickest(call: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(TIMED_REPEATS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    sys.exit(main())

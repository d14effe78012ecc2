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
from served_compact import (  # noqa: E402
    COMPACT,
    OUTCOME,
    CompactModel,
    CompactUnreadable,
    expected_document,
    pack,
)
from served_model import ServedModel, load  # noqa: E402
from served_parts import Candidate, NoCompactForm, candidates_of  # noqa: E402
from served_trees import TreesUnreadable  # noqa: E402

RANDOM_ROWS = 3000
THRESHOLD_ROWS = 6000
# Every count up to here, since sums of a matrix product are ordered by its size.
EVERY_COUNT = 40
MORE_COUNTS = (64, 100, 256, 333, 1000)
TIMED_ROWS = (1, 3, 10, 30, 100, 300, 1000, 3000)
TIMED_REPEATS = 5
GAIN_ROWS = 3
NO_LIMIT = 100_000
FLOAT32_MAX = float(np.finfo(np.float32).max)


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
        except (CompactUnreadable, TreesUnreadable) as error:
            reason = reason if compared.rows or compared.largest_difference else str(error)
    raise NoCompactForm(reason, proof=vars(compared))


def _tried(model: ServedModel, candidate: Candidate, proof: Proof, *, tolerance: float) -> Kept:
    """Raises Differs, CompactUnreadable, TreesUnreadable."""
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
    compact = CompactModel(pack(about, candidate.arrays))
    trial = _Trial(model, compact, proof, tolerance)
    for name, rows in _groups(candidate):
        trial.compare(name, _laid_out(rows, model))
    for count in (*range(1, EVERY_COUNT), *MORE_COUNTS):
        trial.compare("counts of rows", _laid_out(candidate.rows(count), model))
    about |= trial.missing(_laid_out(_with_gaps(candidate), model))
    gain, limit = _timed(model, compact, candidate)
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


def _missing_words(about: Mapping[str, Any]) -> str:
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

    def compare(self, name: str, rows: Any) -> None:
        """Raises Differs."""
        wanted, chances = self._model.estimator.predict(
            rows, probabilities=self._model.has_probabilities
        )
        if chances is not None:
            self._same(name, self._model.estimator.predict(rows, probabilities=False)[0], wanted)
        got, got_chances = self._compact.labels_and_chances(rows)
        self._same(name, got, wanted)
        if chances is not None:
            self._same(name, got_chances, chances)
        self._proof.rows += len(rows)
        self._proof.covers[name] = self._proof.covers.get(name, 0) + len(rows)

    def missing(self, rows: Any) -> dict[str, Any]:
        """What the original does with missing values, and whether the compact form does too."""
        try:
            self.compare("missing values", rows)
        except Differs:
            return {}
        except (ValueError, TypeError) as error:
            return {"refuses_missing": self._one_sentence(rows, str(error))}
        return {"takes_missing": True}

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


def _groups(candidate: Candidate) -> Iterator[tuple[str, Any]]:
    yield "like the training's", candidate.rows(RANDOM_ROWS)
    if candidate.thresholds is not None:
        yield "at split thresholds", _at_thresholds(candidate)
    yield "extremes", _extremes(candidate)


def _at_thresholds(candidate: Candidate) -> Any:
    """Each threshold, and its neighbours in both widths of floating point, in its own column."""
    columns = []
    most = THRESHOLD_ROWS
    for own in candidate.thresholds or []:
        values = np.unique(own[np.isfinite(own)]) if len(own) else np.zeros(1)
        single = values.astype(np.float32)
        near = [
            values,
            single.astype(np.float64),
            *(np.nextafter(values, end) for end in (-np.inf, np.inf)),
            *(
                np.nextafter(single, np.float32(end)).astype(np.float64)
                for end in (-np.inf, np.inf)
            ),
        ]
        columns.append(np.concatenate(near))
    height = min(most, max(map(len, columns)))
    rng = np.random.default_rng(7)
    return np.column_stack(
        [rng.permutation(np.resize(rng.permutation(column), height)) for column in columns]
    )


def _extremes(candidate: Candidate) -> Any:
    rows = candidate.rows(400)
    values = np.array(
        [0.0, -0.0, 1e-45, -1e-45, 1e-300, 1.0, -1.0, 1e10, -1e10, 1e30, -1e30, 3e38, -3e38]
    )
    rng = np.random.default_rng(8)
    where = rng.random(rows.shape) < 0.3
    rows[where] = rng.choice(values, size=int(where.sum()))
    return np.vstack([rows, np.tile(values[:, None], (1, rows.shape[1]))])


def _with_gaps(candidate: Candidate) -> Any:
    rows = candidate.rows(500)
    rng = np.random.default_rng(9)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    rows[:5] = np.nan
    return rows


def _laid_out(rows: Any, model: ServedModel) -> Any:
    """As requests of this model lie in memory."""
    if model.estimator.expected.columns is None:
        return np.ascontiguousarray(rows)
    return np.asfortranarray(rows)


def _timed(model: ServedModel, compact: CompactModel, candidate: Candidate) -> tuple[float, int]:
    """How many times quicker at few rows, and the largest count of rows at which it is quicker."""
    gain, limit = 1.0, 0
    ask = partial(model.estimator.predict, probabilities=model.has_probabilities)
    for count in TIMED_ROWS:
        rows = _laid_out(candidate.rows(count), model)
        theirs = _quickest(partial(ask, rows))
        ours = _quickest(partial(compact.labels_and_chances, rows))
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

"""From a matrix to scores, and from scores to probabilities: the original's sums in its order."""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from served_trees import EACH_TREE, SUMMED, Trees

Transform = Callable[[Any], Any]
# What the trees of one block of rows may give, in numbers: 16 MiB.
BLOCK_NUMBERS = 2 * 1024 * 1024


class FormUnknown(Exception):
    """The file names a form that there is not, or its numbers do not fit each other."""


def scores_of(form: str, arrays: Mapping[str, Any]) -> Transform:
    """Raises FormUnknown, KeyError, TreesUnreadable."""
    if form not in _FORMS:
        raise FormUnknown(f"There is no form {form}.")
    return _FORMS[form](arrays)


def _trees(arrays: Mapping[str, Any]) -> Transform:
    trees = Trees(arrays["trees"].tobytes(), SUMMED)

    def from_trees(rows: Any) -> Any:
        found = trees.answer(rows)
        return found.reshape(len(found), -1) if found.shape[-1] > 1 else found.reshape(-1)

    return from_trees


def _trees_in_turn(arrays: Mapping[str, Any]) -> Transform:
    """Each tree's number added to those before it, the base first: boosting's own order."""
    trees = Trees(arrays["trees"].tobytes(), EACH_TREE)
    base = arrays["base"]

    def of_block(rows: Any) -> Any:
        found = trees.answer(rows)
        each = found.reshape(len(rows), -1, len(base))
        begin = np.broadcast_to(base.astype(each.dtype), (len(rows), 1, len(base)))
        return np.cumsum(np.concatenate([begin, each], axis=1), axis=1)[:, -1]

    def from_trees(rows: Any) -> Any:
        height = max(1, BLOCK_NUMBERS // max(1, trees.numbers))
        blocks = [of_block(rows[at : at + height]) for at in range(0, len(rows), height)]
        found = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return found if len(base) > 1 else found.reshape(-1)

    return from_trees


def _line(arrays: Mapping[str, Any]) -> Transform:
    weights, offset = arrays["weights"], arrays["offset"]

    def from_line(rows: Any) -> Any:
        return _one_or_more(rows @ weights.T + offset)

    return from_line


def _line_by_column(arrays: Mapping[str, Any]) -> Transform:
    """As SciPy's product of a sparse matrix: column after column, and only what is not zero."""
    weights, offset = arrays["weights"], arrays["offset"]
    across = np.ascontiguousarray(np.atleast_2d(weights).T)

    def from_line(rows: Any) -> Any:
        total = np.zeros((len(rows), across.shape[1]))
        for place in np.flatnonzero(rows.any(axis=0)).tolist():
            total += rows[:, place, None] * across[place]
        return _one_or_more((total if weights.ndim > 1 else total[:, 0]) + offset)

    return from_line


def _one_or_more(scores: Any) -> Any:
    return scores.reshape(-1) if scores.ndim > 1 and scores.shape[1] == 1 else scores


_FORMS: Mapping[str, Callable[[Mapping[str, Any]], Transform]] = {
    "trees": _trees,
    "trees in turn": _trees_in_turn,
    "linear": _line,
    "linear by column": _line_by_column,
}


# -- probabilities --------------------------------------------------------------------------------


def _two(second: Any) -> Any:
    if second.ndim != 1:
        raise FormUnknown("It gives more than the chance of the second class.")
    return np.vstack((1.0 - second, second)).transpose()


def _pair(scores: Any) -> Any:
    return np.c_[-scores, scores]


def _softmax(scores: Any) -> Any:
    """As `sklearn.utils.extmath.softmax`."""
    scores = scores - np.max(scores, axis=1).reshape((-1, 1))
    np.exp(scores, out=scores)
    scores /= np.sum(scores, axis=1).reshape((-1, 1))
    return scores


def _logistic(scores: Any) -> Any:
    with np.errstate(over="ignore"):
        return _two(1 / (1 + np.exp(-scores)))


def _logistic_of_scipy(scores: Any) -> Any:
    # Here and not above: only where numpy's own exponential gives other bits than SciPy's.
    from scipy.special import expit  # noqa: PLC0415

    return _two(expit(scores))


def _logistic_of_libm(scores: Any) -> Any:
    """As XGBoost's `common::Sigmoid`, in single precision."""
    smallest = np.minimum(-scores, np.float32(88.7))
    return _two(np.float32(1) / (_exp_of_libm(smallest) + np.float32(1)))


def _softmax_of_libm(scores: Any) -> Any:
    """As XGBoost's `common::Softmax`: single precision, but for the sum."""
    raised = _exp_of_libm(scores - scores.max(axis=1, keepdims=True))
    total = np.cumsum(raised, axis=1, dtype=np.float64)[:, -1:]
    return raised / total.astype(np.float32)


def _exp_of_libm(values: Any) -> Any:
    """The function that XGBoost calls: numpy's own has other bits in single precision."""
    exp = single_of_libm("expf")
    found = [exp(value) for value in values.ravel().tolist()]
    return np.array(found, dtype=np.float32).reshape(values.shape)


def single_of_libm(name: str) -> Callable[[float], float]:
    """A function of the C library of one number in single precision. Raises FormUnknown."""
    try:
        found: Any = getattr(ctypes.CDLL("libm.so.6"), name)
    except (OSError, AttributeError) as error:
        raise FormUnknown(f"The C library has no {name}.") from error
    found.restype, found.argtypes = ctypes.c_float, [ctypes.c_float]
    call: Callable[[float], float] = found
    return call


def _same(scores: Any) -> Any:
    return scores


# By the name that a file gives: from scores to probabilities, or to the numbers of a regression.
LINKS: Mapping[str, Transform] = {
    "same": _same,
    "two": _two,
    "softmax": _softmax,
    "softmax_of_pair": lambda scores: _softmax(_pair(scores)),
    "logistic": _logistic,
    "logistic_of_scipy": _logistic_of_scipy,
    "logistic_of_libm": _logistic_of_libm,
    "softmax_of_libm": _softmax_of_libm,
}


# -- labels ---------------------------------------------------------------------------------------


def places_of(label: str, scores: Any, chances: Any, count: int) -> Any:
    """Which class each row has. Raises FormUnknown."""
    if label == "chance":
        if chances.ndim != 2 or chances.shape[1] != count:
            raise FormUnknown("It does not give a chance for each class.")
        return chances.argmax(axis=1)
    if scores.ndim > 1:
        return scores.argmax(axis=1)
    # At zero itself the two kinds of boosting differ.
    second = scores >= 0 if label == "score from zero" else scores > 0
    return second.astype(np.int64)

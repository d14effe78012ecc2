"""What a compact form may be made of: which models are known, and the numbers that are in them.

A model is known by its exact class: one that is derived from it may have another idea of anything.
"""

import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from served_model import ServedModel

FORESTS = frozenset(
    f"sklearn.ensemble._forest.{kind}{task}"
    for kind in ("RandomForest", "ExtraTrees")
    for task in ("Classifier", "Regressor")
)
BOOSTED = frozenset(
    {
        "sklearn.ensemble._gb.GradientBoostingClassifier",
        "sklearn.ensemble._gb.GradientBoostingRegressor",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
    }
)
XGBOOST = frozenset(f"xgboost.sklearn.XGB{kind}" for kind in ("Classifier", "Regressor"))
LIGHTGBM = frozenset(f"lightgbm.sklearn.LGBM{kind}" for kind in ("Classifier", "Regressor"))
LINEAR = frozenset(
    f"sklearn.linear_model.{name}"
    for name in (
        "_logistic.LogisticRegression",
        "_logistic.LogisticRegressionCV",
        "_base.LinearRegression",
        "_ridge.Ridge",
        "_ridge.RidgeCV",
        "_ridge.RidgeClassifier",
        "_coordinate_descent.Lasso",
        "_coordinate_descent.LassoCV",
        "_coordinate_descent.ElasticNet",
        "_coordinate_descent.ElasticNetCV",
    )
)
PIPELINE = "sklearn.pipeline.Pipeline"
SCALERS = {
    "sklearn.preprocessing._data.StandardScaler": "standard",
    "sklearn.preprocessing._data.MinMaxScaler": "minmax",
    "sklearn.preprocessing._data.MaxAbsScaler": "maxabs",
}
IMPORT_ERRORS = (ValueError, TypeError, AttributeError, NotImplementedError)
TREES_MAX_BYTES = 128 * 1024 * 1024


class NoCompactForm(Exception):
    """Why there is none, in one sentence; `proof` is what was compared, where it came to that."""

    def __init__(self, reason: str, *, proof: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.proof = proof


@dataclass(frozen=True)
class Candidate:
    """A form that may turn out equal. `rows` makes rows like those of the training."""

    about: Mapping[str, Any]
    arrays: Mapping[str, Any]
    rows: Callable[[int], Any]
    thresholds: list[Any] | None = None


def candidates_of(model: ServedModel) -> Iterator[Candidate]:
    """Forms to try, the likeliest first. Raises NoCompactForm."""
    inner = getattr(model.estimator, "model", None)
    if inner is None or not model.estimator.takes_matrix:
        raise NoCompactForm("It takes more than a plain table of numbers.")
    steps, arrays, last = _taken_apart(inner)
    kind = _kind(last)
    if kind in LINEAR:
        yield from _linear(last, steps, arrays)
    elif kind in FORESTS | BOOSTED | XGBOOST | LIGHTGBM:
        yield from _trees(last, kind, steps, arrays)
    else:
        raise NoCompactForm(f"No compact form is known for {type(last).__name__}.")


def _kind(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _taken_apart(model: Any) -> tuple[tuple[str, ...], dict[str, Any], Any]:
    """Scalers before it, their numbers, and the model itself. Raises NoCompactForm."""
    if _kind(model) != PIPELINE:
        return (), {}, model
    kinds, arrays = [], {}
    parts = [part for _, part in model.steps[:-1] if part not in (None, "passthrough")]
    for place, part in enumerate(parts):
        kind = SCALERS.get(_kind(part))
        if kind is None or getattr(part, "clip", False):
            raise NoCompactForm(f"No compact form is known for the step {type(part).__name__}.")
        kinds.append(kind)
        first, second = {
            "standard": ("mean_", "scale_"),
            "minmax": ("scale_", "min_"),
            "maxabs": ("scale_", ""),
        }[kind]
        for letter, name in (("a", first), ("b", second)):
            value = getattr(part, name, None) if name else None
            if value is not None and (kind != "standard" or _is_used(part, name)):
                arrays[f"step{place}_{letter}"] = np.array(value)
    return tuple(kinds), arrays, model.steps[-1][1]


def _is_used(scaler: Any, name: str) -> bool:
    return bool(scaler.with_mean if name == "mean_" else scaler.with_std)


def _about(
    form: str, link: str, steps: tuple[str, ...], *, label: str, casts: bool
) -> dict[str, Any]:
    return {"form": form, "link": link, "label": label, "steps": steps, "casts": casts}


# -- linear models --------------------------------------------------------------------------------


def _linear(last: Any, steps: tuple[str, ...], arrays: dict[str, Any]) -> Iterator[Candidate]:
    # In memory as they lie there: a product of matrices sums in the order of that.
    weights = np.array(last.coef_, dtype=np.float64, order="K")
    width = weights.shape[-1]
    arrays = {**arrays, "weights": weights, "offset": np.array(last.intercept_)}
    rows = _rows_before(arrays, steps, width)
    if not hasattr(last, "classes_") or not hasattr(last, "predict_proba"):
        links = ["same"]
    elif len(last.classes_) > 2:
        links = ["softmax"]
    else:
        links = ["logistic", "logistic_of_scipy", "softmax_of_pair"]
    for link in links:
        yield Candidate(_about("linear", link, steps, label="score", casts=False), arrays, rows)


def _rows_before(
    arrays: Mapping[str, Any], steps: tuple[str, ...], width: int
) -> Callable[[int], Any]:
    """Rows that a first scaler makes standard ones of; without one, of several magnitudes."""
    rng = np.random.default_rng(11)
    middle, spread = np.zeros(width), 10 ** rng.uniform(-1, 1, size=width)
    first = arrays.get("step0_a")
    if steps and steps[0] == "standard":
        middle = first if first is not None else middle
        spread = arrays.get("step0_b", spread)
    elif steps and steps[0] == "minmax":
        scale = np.asarray(first)
        spread = 1 / np.where(scale == 0, 1.0, scale)
        middle = -arrays["step0_b"] * spread
    elif steps and first is not None:
        spread = first
    return lambda count: middle + rng.normal(size=(count, width)) * spread


# -- tree ensembles -------------------------------------------------------------------------------


def _trees(
    last: Any, kind: str, steps: tuple[str, ...], arrays: dict[str, Any]
) -> Iterator[Candidate]:
    checkpoint, thresholds = _imported(last, kind)
    arrays = {**arrays, "trees": np.frombuffer(checkpoint, dtype=np.uint8)}
    classes = getattr(last, "classes_", None)
    links = ["same"] if classes is None or len(classes) > 2 else ["two", "same"]
    # A forest of scikit-learn's compares single precision with thresholds of double precision.
    casts = [True] if kind in FORESTS | XGBOOST else [False, True]
    rows = _rows_between(thresholds) if not steps else _rows_before(arrays, steps, len(thresholds))
    for link, cast in itertools.product(links, casts):
        about = _about("trees", link, steps, label="chance", casts=cast)
        yield Candidate(about, arrays, rows, thresholds if not steps else None)


def _imported(last: Any, kind: str) -> tuple[bytes, list[Any]]:
    """Treelite's checkpoint, and the thresholds of each column. Raises NoCompactForm."""
    try:
        treelite = importlib.import_module("treelite")
        importlib.import_module("treelite.sklearn")
    except ImportError as error:
        raise NoCompactForm("treelite is not installed beside the server.") from error
    try:
        if kind in XGBOOST:
            found = treelite.frontend.from_xgboost(last.get_booster())
        elif kind in LIGHTGBM:
            found = treelite.frontend.from_lightgbm(last.booster_)
        else:
            found = treelite.sklearn.import_model(last)
        checkpoint = found.serialize_bytes()
    except (
        treelite.TreeliteError,
        ValueError,
        TypeError,
        AttributeError,
        NotImplementedError,
    ) as e:
        told = str(e).strip().splitlines()
        raise NoCompactForm(f"treelite does not take it: {told[0] if told else e!r}") from e
    if len(checkpoint) > TREES_MAX_BYTES:
        raise NoCompactForm(f"Its trees have {len(checkpoint) // 1024**2} MB.")
    return checkpoint, _thresholds(json.loads(found.dump_as_json()), found.num_feature)


def _thresholds(document: Mapping[str, Any], width: int) -> list[Any]:
    found: list[list[float]] = [[] for _ in range(width)]
    for tree in document["trees"]:
        for node in tree["nodes"]:
            if "threshold" in node:
                found[node["split_feature_id"]].append(node["threshold"])
            elif "category_list" in node:
                raise NoCompactForm("Its trees split by categories.")
    return [np.array(values, dtype=np.float64) for values in found]


def _rows_between(thresholds: list[Any]) -> Callable[[int], Any]:
    """Each column about where its thresholds are, and somewhat beyond."""
    rng = np.random.default_rng(12)
    low = np.array([own.min() if len(own) else -1.0 for own in thresholds])
    high = np.array([own.max() if len(own) else 1.0 for own in thresholds])
    margin = np.maximum((high - low) * 0.2, 1e-3)
    return lambda count: rng.uniform(low - margin, high + margin, size=(count, len(thresholds)))

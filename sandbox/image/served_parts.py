"""What a compact form may be made of: which models are known, and the numbers that are in them.

A model is known by its exact class: one that is derived from it may have another idea of anything.
"""

import importlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from served_estimators import SklearnLike
from served_inputs import Expected
from served_model import ServedModel
from served_rows import Samples, Source, sources_of
from served_scores import FormUnknown, single_of_libm
from served_steps import PIPELINE, NoStep, Origins, Steps, kind_of

FORESTS = frozenset(
    f"sklearn.ensemble._forest.{kind}{task}"
    for kind in ("RandomForest", "ExtraTrees")
    for task in ("Classifier", "Regressor")
)
SKLEARN_GRADIENT = frozenset(
    f"sklearn.ensemble._gb.GradientBoosting{task}" for task in ("Classifier", "Regressor")
)
HISTOGRAMS = frozenset(
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoosting" + task
    for task in ("Classifier", "Regressor")
)
GRADIENT = SKLEARN_GRADIENT | HISTOGRAMS
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
FITTED_TREES = {
    "sklearn.tree._classes.DecisionTreeClassifier": "RandomForestClassifier",
    "sklearn.tree._classes.DecisionTreeRegressor": "RandomForestRegressor",
    "sklearn.tree._classes.ExtraTreeClassifier": "RandomForestClassifier",
    "sklearn.tree._classes.ExtraTreeRegressor": "RandomForestRegressor",
}
TREES = FORESTS | GRADIENT | XGBOOST | LIGHTGBM | FITTED_TREES.keys()
IMPORT_ERRORS = (ValueError, TypeError, AttributeError, KeyError, NotImplementedError)
TREES_MAX_BYTES = 128 * 1024 * 1024


class NoCompactForm(Exception):
    """Why there is none, in one sentence; `proof` is what was compared, where it came to that."""

    def __init__(self, reason: str, *, proof: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.proof = proof


@dataclass(frozen=True)
class Candidate:
    """A form that may turn out equal, and rows to find out by."""

    about: Mapping[str, Any]
    arrays: Mapping[str, Any]
    samples: Samples


@dataclass(frozen=True)
class _Before:
    """What stands before the model itself, as steps."""

    steps: Steps
    made: list[dict[str, Any]]
    origins: Origins
    expected: Expected
    as_table: bool

    def candidate(self, scored: "_Scored", sources: list[Source], order: str) -> Candidate:
        about = {
            "form": scored.form,
            "link": scored.link,
            "label": scored.label,
            "casts": scored.casts,
            "blanks": scored.blanks,
            "steps": self.made,
            "order": order,
            "takes": [source.takes for source in sources] if self.as_table else None,
            "gaps": [False] * len(sources),
        }
        samples = Samples(sources, self.expected, as_table=self.as_table)
        return Candidate(about, {**self.steps.arrays, **scored.arrays}, samples)

    def sources(self, thresholds: list[Any] | None = None) -> list[Source]:
        return sources_of(self.expected, self.steps.domains, self.origins, thresholds)


@dataclass(frozen=True)
class _Scored:
    """How a form gets from its matrix to an answer."""

    form: str
    link: str
    label: str
    arrays: Mapping[str, Any]
    casts: bool = False
    blanks: bool = False


def candidates_of(model: ServedModel) -> Iterator[Candidate]:
    """Forms to try, the likeliest first. Raises NoCompactForm."""
    inner = getattr(model.estimator, "model", None)
    if inner is None or not isinstance(model.estimator, SklearnLike):
        raise NoCompactForm(f"No compact form is known for {model.estimator.name}.")
    last = inner.steps[-1][1] if kind_of(inner) == PIPELINE else inner
    kind = kind_of(last)
    if kind not in LINEAR | TREES:
        raise NoCompactForm(f"No compact form is known for {type(last).__name__}.")
    before = _before(model, inner)
    yield from _linear(last, before) if kind in LINEAR else _trees(last, kind, before)


def _before(model: ServedModel, inner: Any) -> _Before:
    """Raises NoCompactForm."""
    expected = model.estimator.expected
    names = None if expected.columns is None else [column.name for column in expected.columns]
    width = len(names) if names is not None else expected.n_features
    if not width:
        raise NoCompactForm("Nobody wrote down how many columns it takes.")
    steps = Steps(names, width)
    made: list[dict[str, Any]] = []
    origins = steps.start()
    try:
        for _, part in inner.steps[:-1] if kind_of(inner) == PIPELINE else ():
            found, origins = steps.of(part, origins)
            made += found
    except NoStep as error:
        raise NoCompactForm(str(error)) from error
    steps.number(origins)
    return _Before(steps, made, origins, expected, not model.estimator.takes_matrix)


# -- linear models --------------------------------------------------------------------------------


def _linear(last: Any, before: _Before) -> Iterator[Candidate]:
    # In memory as they lie there: a product of matrices sums in the order of that.
    arrays = {
        "weights": np.array(last.coef_, order="K"),
        "offset": np.array(last.intercept_),
    }
    if not hasattr(last, "classes_") or not hasattr(last, "predict_proba"):
        links = ["same"]
    elif len(last.classes_) > 2:
        links = ["softmax"]
    else:
        links = ["logistic", "logistic_of_scipy", "softmax_of_pair"]
    form = "linear by column" if before.steps.sparse else "linear"
    # Without steps the rows stay as they came.
    orders = ["K", "C", "F"] if before.made and not before.steps.sparse else ["K"]
    sources = before.sources()
    for link, order in itertools.product(links, orders):
        yield before.candidate(_Scored(form, link, "score", arrays), sources, order)


# -- tree ensembles -------------------------------------------------------------------------------


def _trees(last: Any, kind: str, before: _Before) -> Iterator[Candidate]:
    found = _imported(last, kind)
    sources = before.sources(found.thresholds)
    classes = getattr(last, "classes_", None)
    # Where zeros of a sparse matrix are values that XGBoost does not have.
    blanks = before.steps.sparse and kind in XGBOOST
    arrays = {"trees": np.frombuffer(found.checkpoint, dtype=np.uint8)}
    links = ["same"] if classes is None or len(classes) > 2 else ["two", "same"]
    # scikit-learn compares single precision with thresholds of double precision.
    casts = kind not in HISTOGRAMS | LIGHTGBM
    at_once = [_Scored("trees", link, "chance", arrays, casts, blanks) for link in links]
    in_turn = [
        _Scored("trees in turn", link, label, {**arrays, "base": base}, casts, blanks)
        for base in [_base(last, kind, found)]
        if base is not None
        for link, label in _links_in_turn(kind, classes)
    ]
    # XGBoost and LightGBM make a chance of two classes themselves, as treelite does.
    for scored in [*in_turn, *at_once] if kind in GRADIENT else [*at_once, *in_turn]:
        yield before.candidate(scored, sources, "K")


def _links_in_turn(kind: str, classes: Any) -> list[tuple[str, str]]:
    if classes is None:
        return [("same", "score")]
    label = "chance" if kind in XGBOOST | LIGHTGBM else "score"
    if kind in SKLEARN_GRADIENT:
        label = "score from zero"
    if kind in XGBOOST:
        return [("softmax_of_libm" if len(classes) > 2 else "logistic_of_libm", label)]
    if len(classes) > 2:
        return [("softmax", label)]
    return [("logistic", label), ("logistic_of_scipy", label)]


def _base(last: Any, kind: str, found: "_Imported") -> Any:
    """What the sums of boosting begin with; None for what is no boosting."""
    try:
        if kind in HISTOGRAMS:
            return np.array(last._baseline_prediction, dtype=np.float64).reshape(-1)
        if kind in SKLEARN_GRADIENT:
            return _base_of_gradient(last)
        if kind in XGBOOST:
            return _base_of_xgboost(last, found)
    except (*IMPORT_ERRORS, FormUnknown):
        return None
    return np.zeros(len(found.base_scores)) if kind in LIGHTGBM else None


def _base_of_xgboost(last: Any, found: "_Imported") -> Any:
    """XGBoost keeps a probability and makes a margin of it in single precision, by libm."""
    scores = np.array(found.base_scores, dtype=np.float32)
    if last.objective != "binary:logistic":
        return scores
    kept = json.loads(last.get_booster().save_config())["learner"]["learner_model_param"]
    chance = np.float32(kept["base_score"].strip("[]"))
    odds = np.float32(1) / chance - np.float32(1)
    return np.array([-single_of_libm("logf")(float(odds))], dtype=np.float32)


def _base_of_gradient(last: Any) -> Any:
    """The same for all rows only where no model of its own begins."""
    if not (last.init_ == "zero" or type(last.init_).__name__.startswith("Dummy")):
        return None
    row = np.zeros((1, last.n_features_in_), dtype=np.float32)
    return np.array(last._raw_predict_init(row), dtype=np.float64).reshape(-1)


@dataclass(frozen=True)
class _Imported:
    """Treelite's checkpoint, the thresholds of each column, and what it begins with."""

    checkpoint: bytes
    thresholds: list[Any]
    base_scores: list[float]


def _imported(last: Any, kind: str) -> _Imported:
    """Raises NoCompactForm."""
    try:
        treelite = importlib.import_module("treelite")
        importlib.import_module("treelite.sklearn")
    except ImportError as error:
        raise NoCompactForm("treelite is not installed beside the server.") from error
    try:
        if kind in XGBOOST:
            found = treelite.frontend.from_xgboost(_used_rounds(last))
        elif kind in LIGHTGBM:
            found = treelite.frontend.from_lightgbm(last.booster_)
        else:
            found = treelite.sklearn.import_model(_forest_of(last, kind))
        checkpoint = found.serialize_bytes()
    except (treelite.TreeliteError, *IMPORT_ERRORS) as error:
        told = str(error).strip().splitlines()
        raise NoCompactForm(f"treelite does not take it: {told[0] if told else error!r}") from error
    if len(checkpoint) > TREES_MAX_BYTES:
        raise NoCompactForm(f"Its trees have {len(checkpoint) // 1024**2} MB.")
    document = json.loads(found.dump_as_json())
    thresholds = _thresholds(document, found.num_feature)
    return _Imported(checkpoint, thresholds, document["base_scores"])


def _used_rounds(last: Any) -> Any:
    """The booster up to where its training stopped early, which is what it predicts with."""
    booster = last.get_booster()
    best = getattr(last, "best_iteration", None) if booster.attr("best_iteration") else None
    return booster if best is None else booster[: int(best) + 1]


def _forest_of(last: Any, kind: str) -> Any:
    """A forest of one for a single tree, which treelite knows none of."""
    name = FITTED_TREES.get(kind)
    if name is None:
        return last
    forest = getattr(importlib.import_module("sklearn.ensemble"), name)(n_estimators=1)
    forest.estimators_ = [last]
    for attribute in ("n_features_in_", "n_outputs_", "n_classes_", "classes_"):
        if hasattr(last, attribute):
            setattr(forest, attribute, getattr(last, attribute))
    return forest


def _thresholds(document: Mapping[str, Any], width: int) -> list[Any]:
    found: list[list[float]] = [[] for _ in range(width)]
    for tree in document["trees"]:
        for node in tree["nodes"]:
            if "threshold" in node:
                found[node["split_feature_id"]].append(node["threshold"])
            elif "category_list" in node:
                raise NoCompactForm("Its trees split by categories.")
    return [np.array(values, dtype=np.float64) for values in found]

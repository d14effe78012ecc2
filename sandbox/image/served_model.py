"""Loads a logged model the shortest way that gives probabilities, and predicts with it.

Runs inside the model container: a model is a stranger's code, so nothing here runs anywhere else.
scikit-learn, XGBoost and LightGBM models are opened without MLflow, whose import takes 1.4 s;
everything else, and every storage format not known here, goes through MLflow.
"""

import importlib
import json
import math
import pickle  # noqa: S403
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import yaml
from served_inputs import Column, Expected, InputsRefused, Table, read_table

Report = Callable[[str], None]
LABEL_THRESHOLD = 0.5
XGBOOST_KEEPS_CATEGORIES = (3, 1)
# Parts of a scikit-learn model that take text, or that drop columns which may be text.
TEXT_TAKERS = frozenset(
    {"ColumnTransformer", "FunctionTransformer", "OneHotEncoder", "OrdinalEncoder", "TargetEncoder"}
)
# What a model's own code raises when it does not like what it is given.
INPUT_ERRORS = (ValueError, TypeError, KeyError, IndexError)
MESSAGE_CHARACTERS = 300


@dataclass(frozen=True)
class Prediction:
    """Plain Python values, one label for each row, and what they were chosen from."""

    predictions: Any
    probabilities: list[list[float | None]] | None
    classes: list[Any] | None
    inference_time_ms: float


class Estimator(Protocol):
    """What a flavour gives: labels, and with them probabilities if it has any."""

    name: str
    classes: list[Any] | None
    expected: Expected

    def predict(self, table: Table, *, probabilities: bool) -> tuple[Any, Any]: ...


class ServedModel:
    """One loaded model with what it expects."""

    def __init__(self, estimator: Estimator, *, flavour: str, has_probabilities: bool) -> None:
        self._estimator = estimator
        self._flavour = flavour
        self._has_probabilities = has_probabilities

    def description(self) -> dict[str, Any]:
        """What `/ready` answers."""
        expected = self._estimator.expected
        columns = expected.columns
        return {
            "flavour": self._flavour,
            "model_type": self._estimator.name,
            "probabilities": self._has_probabilities,
            "classes": self._estimator.classes,
            "columns": None if columns is None else [vars(column) for column in columns],
            "n_features": len(columns) if columns is not None else expected.n_features,
        }

    def predict(self, inputs: Any, *, probabilities: bool) -> Prediction:
        """Raises InputsRefused, and whatever else the model's own code raises."""
        if probabilities and not self._has_probabilities:
            raise InputsRefused(
                "no_probabilities",
                f"This model ({self._estimator.name}) has no probabilities; "
                "send the request without `return_probabilities`.",
                [("return_probabilities", f"{self._estimator.name} has no probabilities")],
            )
        table = read_table(inputs, self._estimator.expected)
        started = time.perf_counter()
        try:
            labels, chances = self._estimator.predict(table, probabilities=probabilities)
        except INPUT_ERRORS as error:
            raise _refused(error, table) from error
        milliseconds = (time.perf_counter() - started) * 1000
        return Prediction(
            predictions=plain(labels),
            probabilities=None if chances is None else plain(chances),
            classes=None if chances is None else self._estimator.classes,
            inference_time_ms=milliseconds,
        )


def load(folder: Path, report: Report) -> ServedModel:
    """Opens the model in `folder`; `report` is told each phase. Raises what the model raises."""
    # Whatever warns here warns about how the model was made; nobody can act on it at each request.
    warnings.simplefilter("ignore")
    description = yaml.safe_load((folder / "MLmodel").read_text())
    flavours = description.get("flavors") or {}
    signature = _signature(description)
    _add_code_paths(folder, flavours)
    for flavour in ("sklearn", "xgboost", "lightgbm"):
        if flavour in flavours:
            return _native(flavour, folder, flavours[flavour], signature, report)
    report("importing mlflow")
    pyfunc = importlib.import_module("mlflow.pyfunc")
    report("loading the model")
    name = str(flavours.get("python_function", {}).get("loader_module", "pyfunc"))
    model = pyfunc.load_model(str(folder))
    estimator = PyFunc(model, name=name.removeprefix("mlflow."), signature=signature)
    return ServedModel(estimator, flavour="pyfunc", has_probabilities=False)


def _native(
    flavour: str, folder: Path, about: Mapping[str, Any], signature: "Signature", report: Report
) -> ServedModel:
    report(f"importing {flavour}")
    importlib.import_module(flavour)
    report("loading the model")
    opened = {"sklearn": _open_pickled, "xgboost": _open_xgboost, "lightgbm": _open_lightgbm}
    model = opened[flavour](folder, about)
    if model is None:
        report("importing mlflow")
        model = importlib.import_module(f"mlflow.{flavour}").load_model(str(folder))
    if type(model).__name__ == "Booster":
        booster = _booster(flavour, model, signature)
        return ServedModel(booster, flavour=flavour, has_probabilities=booster.classes is not None)
    like = SklearnLike(model, flavour=flavour, signature=signature)
    chances = hasattr(model, "predict_proba") and not like.many_outputs
    return ServedModel(like, flavour=flavour, has_probabilities=chances)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without folders and places in source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    text = re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", text)
    return re.sub(r"(?:/[\w.@+-]+)+/", "", text)[:MESSAGE_CHARACTERS]


def _refused(error: Exception, table: Table) -> InputsRefused:
    """The model's own words, and the cells that they quote."""
    sentence = first_line(error)
    names = table.names or tuple(map(str, range(len(table.columns))))
    places = [
        (f"inputs.{name}", f"row {row}: {cell!r}")
        for name, column in zip(names, table.columns, strict=True)
        if pd.api.types.is_string_dtype(column.dtype)
        for row, cell in enumerate(column)
        if isinstance(cell, str) and repr(cell) in sentence
    ]
    return InputsRefused(
        "model_refused_inputs",
        f"The model refused the inputs: {sentence}",
        places or [("inputs", sentence)],
    )


# -- what MLmodel says --------------------------------------------------------------------------


@dataclass(frozen=True)
class Signature:
    """The inputs as the model's author declared them; all None when he did not."""

    columns: tuple[Column, ...] | None = None
    n_features: int | None = None
    tensor: tuple[str, tuple[int, ...]] | None = None


def _signature(description: Mapping[str, Any]) -> Signature:
    declared = (description.get("signature") or {}).get("inputs")
    if not declared:
        return Signature()
    items = json.loads(declared)
    if any(item["type"] == "tensor" for item in items):
        return _tensor_signature(items)
    if any(item.get("name") is None for item in items):
        return Signature(n_features=len(items))
    known = {"double", "float", "long", "integer", "boolean", "string", "datetime"}
    return Signature(
        columns=tuple(
            Column(
                name=str(item["name"]),
                type=item["type"] if item["type"] in known else "any",
                required=bool(item.get("required", True)),
            )
            for item in items
        )
    )


def _tensor_signature(items: list[dict[str, Any]]) -> Signature:
    if len(items) > 1 or items[0].get("name"):
        return Signature()
    spec = items[0]["tensor-spec"]
    shape = tuple(spec["shape"])
    width = shape[1] if len(shape) == 2 and shape[1] > 0 else None
    return Signature(n_features=width, tensor=(spec["dtype"], shape))


def _add_code_paths(folder: Path, flavours: Mapping[str, Any]) -> None:
    """Modules that were logged beside the model, as MLflow's own loader finds them."""
    for flavour in flavours.values():
        code = flavour.get("code") if isinstance(flavour, dict) else None
        if code and str(folder / code) not in sys.path:
            sys.path.insert(0, str(folder / code))


# -- opening files ------------------------------------------------------------------------------


def _open_pickled(folder: Path, about: Mapping[str, Any]) -> Any:
    """None for a storage format that is MLflow's own business."""
    if about.get("serialization_format", "pickle") not in ("cloudpickle", "pickle"):
        return None
    name = about.get("pickled_model")
    return _unpickled(folder / name) if name else None


def _open_xgboost(folder: Path, about: Mapping[str, Any]) -> Any:
    kind = about.get("model_class")
    if not kind or not str(kind).startswith("xgboost."):
        return None
    module, _, name = str(kind).rpartition(".")
    model = getattr(importlib.import_module(module), name)()
    model.load_model(str(folder / about["data"]))
    return model


def _open_lightgbm(folder: Path, about: Mapping[str, Any]) -> Any:
    data = str(about.get("data", ""))
    if str(about.get("model_class", "")).endswith(".Booster"):
        return importlib.import_module("lightgbm").Booster(model_file=str(folder / data))
    return _unpickled(folder / data) if data.endswith(".pkl") else None


def _unpickled(path: Path) -> Any:
    importlib.import_module("cloudpickle")
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301


# -- estimators with scikit-learn's interface ---------------------------------------------------


class SklearnLike:
    """`predict`, `predict_proba` and `classes_`, of scikit-learn, XGBoost or LightGBM."""

    def __init__(self, model: Any, *, flavour: str, signature: Signature) -> None:
        self.name = type(model).__name__
        self._model = model
        self._flavour = flavour
        self._one_thread()
        chances = hasattr(model, "predict_proba")
        labels = getattr(model, "classes_", None) if chances else None
        self.many_outputs = isinstance(labels, list)
        self.classes = None if labels is None or self.many_outputs else plain(np.asarray(labels))
        self.expected = self._expectation(signature)
        self._label_is_argmax = self._votes_by_probability()
        self._text_series = getattr(model, "n_features_in_", None) is None

    def predict(self, table: Table, *, probabilities: bool) -> tuple[Any, Any]:
        frame = self._frame(table)
        if not probabilities:
            return self._model.predict(frame), None
        chances = np.asarray(self._model.predict_proba(frame))
        if self.classes is None:
            # A mixture model has components and no labels for them.
            self.classes = list(range(chances.shape[1]))
        if self._label_is_argmax:
            return self._model.classes_.take(chances.argmax(axis=1)), chances
        return self._model.predict(frame), chances

    def _expectation(self, signature: Signature) -> Expected:
        names = _trained_names(self._model)
        columns = signature.columns
        if columns is None and names is not None:
            columns = tuple(Column(name) for name in names)
        count = signature.n_features or getattr(self._model, "n_features_in_", None)
        return Expected(
            columns=columns,
            n_features=None if count is None else int(count),
            numbers_only=self._numbers_only(),
            spaces_become_underscores=self._flavour == "lightgbm",
        )

    def _numbers_only(self) -> bool:
        if self._flavour == "xgboost":
            return not _xgboost_takes_categories(self._model)
        if self._flavour == "lightgbm":
            return not self._model.booster_.pandas_categorical
        return not any(_takes_text(part) for part in _parts(self._model))

    def _frame(self, table: Table) -> Any:
        if self._flavour != "sklearn":
            return _categorical(_frame(table))
        if table.names is not None and self.expected.columns is not None:
            return _frame(table)
        if self._text_series and len(table.columns) == 1 and table.columns[0].dtype == object:
            # A vectoriser takes a list of texts, not a table with one column.
            return table.columns[0]
        return _matrix(table)

    def _votes_by_probability(self) -> bool:
        """Forests define their label as the most probable class: one pass over the trees, not two.

        True only for scikit-learn's own method: a subclass may have another idea.
        """
        forests = sys.modules.get("sklearn.ensemble._forest")
        own = getattr(getattr(forests, "ForestClassifier", None), "predict", None)
        return own is not None and type(self._model).predict is own and not self.many_outputs

    def _one_thread(self) -> None:
        """A thread pool costs more than the few rows of a request take."""
        for part in _parts(self._model):
            if getattr(part, "n_jobs", 1) != 1:
                part.n_jobs = 1
        if self._flavour == "xgboost":
            self._model.get_booster().set_param({"nthread": 1})


def _parts(model: Any) -> Iterator[Any]:
    """The estimator and every estimator inside it, each once."""
    waiting, seen = [model], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, list | tuple):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif hasattr(item, "get_params") and not isinstance(item, type):
            yield item
            waiting.extend(vars(item).values())


def _takes_text(part: Any) -> bool:
    """Whether text may be right; of a class that is not scikit-learn's nobody can say."""
    module = type(part).__module__
    return (
        type(part).__name__ in TEXT_TAKERS
        or not module.startswith("sklearn.")
        or module.startswith("sklearn.feature_extraction.")
        or getattr(part, "categorical_features", None) is not None
    )


def _trained_names(model: Any) -> list[str] | None:
    names = getattr(model, "feature_names_in_", None)
    return None if names is None else _real_names([str(name) for name in names])


def _real_names(names: list[str]) -> list[str] | None:
    """None for names that LightGBM made up for a table without any."""
    made_up = [f"Column_{index}" for index in range(len(names))]
    return None if names == made_up else names


def _xgboost_takes_categories(model: Any) -> bool:
    """Before 3.1 a category is the place of its text in the request: silently wrong, so refused."""
    booster = model if type(model).__name__ == "Booster" else model.get_booster()
    version = tuple(map(int, sys.modules["xgboost"].__version__.split(".")[:2]))
    return version >= XGBOOST_KEEPS_CATEGORIES and "c" in (booster.feature_types or ())


# -- boosters: XGBoost's and LightGBM's own interface -------------------------------------------


class Boosted:
    """A booster of which the objective says what its raw numbers mean."""

    def __init__(
        self, raw: Callable[[Any], Any], *, name: str, meaning: str, expected: Expected, count: int
    ) -> None:
        self.name = name
        self._raw = raw
        self._meaning = meaning
        self.expected = expected
        counted = {"binary": 2, "multiclass": count}.get(meaning)
        self.classes: list[Any] | None = None if counted is None else list(range(counted))

    def predict(self, table: Table, *, probabilities: bool) -> tuple[Any, Any]:
        raw = np.asarray(self._raw(_categorical(_frame(table))))
        if self._meaning == "binary":
            labels = (raw > LABEL_THRESHOLD).astype(int)
            return labels, np.column_stack([1 - raw, raw]) if probabilities else None
        if self._meaning == "multiclass":
            return raw.argmax(axis=1), raw if probabilities else None
        return raw.astype(int) if self._meaning == "labels" else raw, None


def _booster(flavour: str, model: Any, signature: Signature) -> Boosted:
    return (
        _xgboost_booster(model, signature)
        if flavour == "xgboost"
        else _lightgbm_booster(model, signature)
    )


def _xgboost_booster(model: Any, signature: Signature) -> Boosted:
    model.set_param({"nthread": 1})
    learner = json.loads(model.save_config())["learner"]
    objective = learner["objective"]["name"]
    meanings = {
        "binary:logistic": "binary",
        "multi:softprob": "multiclass",
        "multi:softmax": "labels",
        "binary:hinge": "labels",
    }
    categories = _xgboost_takes_categories(model)
    xgboost = sys.modules["xgboost"]
    return Boosted(
        lambda frame: model.predict(xgboost.DMatrix(frame, enable_categorical=categories)),
        name=f"xgboost Booster, {objective}",
        meaning=meanings.get(objective, "numbers"),
        expected=_booster_expectation(
            model.feature_names, model.num_features(), signature, numbers_only=not categories
        ),
        count=int(learner["learner_model_param"].get("num_class", 0)),
    )


def _lightgbm_booster(model: Any, signature: Signature) -> Boosted:
    about = model.dump_model(num_iteration=1)
    objective = str(about.get("objective", "")).split(" ")[0]
    meanings = {"binary": "binary", "multiclass": "multiclass", "multiclassova": "multiclass"}
    return Boosted(
        lambda frame: model.predict(frame, num_threads=1),
        name=f"lightgbm Booster, {objective or 'no objective'}",
        meaning=meanings.get(objective, "numbers"),
        expected=_booster_expectation(
            model.feature_name(),
            model.num_feature(),
            signature,
            numbers_only=not model.pandas_categorical,
            spaces_become_underscores=True,
        ),
        count=int(about.get("num_class", 0)),
    )


def _booster_expectation(
    names: list[str] | None,
    count: int,
    signature: Signature,
    *,
    numbers_only: bool,
    spaces_become_underscores: bool = False,
) -> Expected:
    real = _real_names(list(names)) if names else None
    columns = signature.columns
    if columns is None and real is not None:
        columns = tuple(Column(name) for name in real)
    return Expected(
        columns=columns,
        n_features=int(count),
        numbers_only=numbers_only,
        spaces_become_underscores=spaces_become_underscores,
    )


# -- everything else ----------------------------------------------------------------------------


class PyFunc:
    """MLflow's common denominator: a table in, whatever the model returns out."""

    classes: list[Any] | None = None

    def __init__(self, model: Any, *, name: str, signature: Signature) -> None:
        self.name = name
        self._model = model
        self._tensor = signature.tensor
        self.expected = Expected(
            columns=signature.columns, n_features=signature.n_features, nested_cells=True
        )

    def predict(self, table: Table, *, probabilities: bool) -> tuple[Any, Any]:
        if self._tensor is not None:
            return self._model.predict(_matrix(table).astype(self._tensor[0])), None
        return self._model.predict(_frame(table)), None


# -- tables and results -------------------------------------------------------------------------


def _frame(table: Table) -> pd.DataFrame:
    names = table.names or tuple(range(len(table.columns)))
    frame = pd.DataFrame(dict(enumerate(table.columns)))
    frame.columns = pd.Index(names)
    return frame


def _matrix(table: Table) -> Any:
    if any(column.dtype == object for column in table.columns):
        return np.column_stack([np.asarray(column, dtype=object) for column in table.columns])
    return np.column_stack(table.columns).astype(np.float64, copy=False)


def _categorical(frame: pd.DataFrame) -> pd.DataFrame:
    """Text as categories: the boosters map them to their own by value."""
    text = [index for index, kind in enumerate(frame.dtypes) if pd.api.types.is_string_dtype(kind)]
    if not text:
        return frame
    return frame.astype({frame.columns[index]: "category" for index in text})


def plain(value: Any) -> Any:
    """Numbers, texts and lists that JSON knows; what is not a number becomes null."""
    if isinstance(value, pd.DataFrame):
        return [plain(record) for record in value.to_dict(orient="records")]
    if isinstance(value, pd.Series | pd.Index):
        return plain(value.to_numpy())
    if isinstance(value, np.ndarray):
        finite = value.dtype.kind in "biu" or (value.dtype.kind == "f" and np.isfinite(value).all())
        return value.tolist() if finite else [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool) or value is None else str(value)

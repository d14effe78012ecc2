"""Loads a logged model the shortest way that gives probabilities, and predicts with it.

Runs inside the model container: a model is a stranger's code, so nothing here runs anywhere else.
scikit-learn, XGBoost, LightGBM and CatBoost models are opened without MLflow, whose import takes
1.4 s; everything else, and every storage format not known here, goes through MLflow.
"""

import importlib
import inspect
import os
import pickle  # noqa: S403
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from served_answers import Result, attempt, plain, row_count
from served_catboost import CatBoosted, open_catboost
from served_estimators import Estimator, PyFunc, SklearnLike, open_booster
from served_inputs import InputsRefused, check_probabilities, read_matrix, read_table, told_together
from served_pandas import pandas, put_pandas_off
from served_paths import read_description
from served_signature import ANY, NONE, Signature, read_signature
from served_versions import MadeElsewhere, differences

Report = Callable[[str], None]
# What a model's own code raises when it does not like what it is given.
INPUT_ERRORS = (ValueError, TypeError, KeyError, IndexError)
MESSAGE_CHARACTERS = 300
NATIVE = ("sklearn", "xgboost", "lightgbm", "catboost")


@dataclass(frozen=True)
class Prediction:
    """Plain Python values, one label for each row, and what they were chosen from."""

    predictions: Any
    probabilities: list[list[float | None]] | None
    classes: list[Any] | None
    inference_time_ms: float


@dataclass(frozen=True)
class Prepared:
    """A request in the form that its model takes. Those with one `key` may go in one call.

    `by_column`: how a matrix of several rows lies in memory; one row lies both ways.
    """

    form: Any
    rows: int
    probabilities: bool
    key: Any
    by_column: bool
    inputs: Any


class ServedModel:
    """One loaded model with what it expects."""

    def __init__(self, estimator: Estimator, *, flavour: str, has_probabilities: bool) -> None:
        self.estimator = estimator
        self.flavour = flavour
        self.has_probabilities = has_probabilities
        # How the versions that it was made with differ from those here; told when it fails.
        self.elsewhere = ""
        # How its author declared what it takes.
        self.declared = NONE

    def description(self) -> dict[str, Any]:
        """What a caller needs to know of the model."""
        expected = self.estimator.expected
        columns = expected.columns
        return {
            "flavour": self.flavour,
            "model_type": self.estimator.name,
            "probabilities": self.has_probabilities,
            "classes": self.estimator.classes,
            "columns": None if columns is None else [vars(column) for column in columns],
            "n_features": len(columns) if columns is not None else expected.n_features,
            "signature": self.declared,
        }

    def predict(self, inputs: Any, *, probabilities: bool) -> Prediction:
        """Raises InputsRefused, and whatever else the model's own code raises."""
        result = self.answer(self.prepare(inputs, probabilities=probabilities))
        return Prediction(
            predictions=plain(result.labels),
            probabilities=None if result.chances is None else plain(result.chances),
            classes=None if result.chances is None else result.classes,
            inference_time_ms=result.milliseconds,
        )

    def prepare(self, inputs: Any, *, probabilities: bool) -> Prepared:
        """Raises InputsRefused."""
        refused = check_probabilities(probabilities, self.has_probabilities, self.estimator.name)
        return told_together(refused, lambda: self._prepared(inputs, probabilities))

    def _prepared(self, inputs: Any, probabilities: bool) -> Prepared:
        expected = self.estimator.expected
        matrix = read_matrix(inputs, expected) if self.estimator.takes_matrix else None
        form, rows = matrix, 0 if matrix is None else len(matrix)
        if form is None:
            table = read_table(inputs, expected)
            form, rows = self.estimator.form(table), table.rows
        by_column = self.estimator.takes_matrix and expected.columns is not None
        return Prepared(form, rows, probabilities, _key(form, probabilities), by_column, inputs)

    def answer(self, prepared: Prepared) -> Result:
        """One call for one request. Raises as `predict`."""
        started = time.perf_counter()
        try:
            labels, chances = self._ask(prepared.form, probabilities=prepared.probabilities)
        except INPUT_ERRORS as error:
            raise self._refused(error, prepared) from error
        return self._result(labels, chances, started)

    def answer_together(self, waiting: Sequence[Prepared]) -> list[Result] | None:
        """One call for several requests of one key; None when they are to be asked one by one."""
        started = time.perf_counter()
        rows = sum(one.rows for one in waiting)
        try:
            form = joined([one.form for one in waiting], by_column=waiting[0].by_column)
            labels, chances = self._ask(form, probabilities=waiting[0].probabilities)
        except (*INPUT_ERRORS, ArithmeticError, AttributeError, RuntimeError):
            # Whose fault it is shows when each is asked alone.
            return None
        if row_count(labels) != rows or (chances is not None and row_count(chances) != rows):
            return None
        whole, results, begin = self._result(labels, chances, started), [], 0
        for one in waiting:
            results.append(_rows_of(whole, begin, begin + one.rows))
            begin += one.rows
        return results

    def _ask(self, form: Any, *, probabilities: bool) -> tuple[Any, Any]:
        return self.estimator.predict(form, probabilities=probabilities)

    def _result(self, labels: Any, chances: Any, started: float) -> Result:
        milliseconds = (time.perf_counter() - started) * 1000
        return Result(labels, chances, self.estimator.classes, milliseconds)

    def _refused(self, error: Exception, prepared: Prepared) -> InputsRefused:
        """The model's own words, and the cells that they quote."""
        table = read_table(prepared.inputs, self.estimator.expected)
        sentence = first_line(error)
        names = table.names or tuple(map(str, range(len(table.columns))))
        places = [
            (f"inputs.{name}", f"row {row}: {cell!r}")
            for name, column in zip(names, table.columns, strict=True)
            for row, cell in enumerate(np.asarray(column).tolist())
            if isinstance(cell, str) and cell and repr(cell) in sentence
        ]
        return InputsRefused(
            "model_refused_inputs",
            f"The model refused the inputs: {sentence}",
            places or [("inputs", sentence)],
        )


def joined(forms: Sequence[Any], *, by_column: bool) -> Any:
    """Rows under rows, laid out as a request with that many would be."""
    if len(forms) == 1:
        return forms[0]
    if isinstance(forms[0], np.ndarray):
        whole = np.concatenate(forms)
        return np.asfortranarray(whole) if by_column else whole
    return pandas().concat(forms, ignore_index=True)


def _key(form: Any, probabilities: bool) -> Any:
    """What two requests must share; None for one that goes alone."""
    if isinstance(form, np.ndarray):
        return probabilities, form.dtype.str, form.shape[1:]
    kinds = tuple(form.dtypes)
    if any(str(kind) == "category" for kind in kinds):
        return None
    return probabilities, tuple(form.columns), kinds


def _rows_of(whole: Result, begin: int, end: int) -> Result:
    chances = None if whole.chances is None else whole.chances[begin:end]
    return Result(whole.labels[begin:end], chances, whole.classes, whole.milliseconds)


def load(folder: Path, report: Report) -> ServedModel:
    """Opens the model in `folder`; `report` is told each phase. Raises what the model raises, and
    MadeElsewhere where that may come of other versions."""
    # Whatever warns here warns about how the model was made; nobody can act on it at each request.
    warnings.simplefilter("ignore")
    description = read_description(folder)
    elsewhere = differences(folder, description)
    model, error = attempt(lambda: _loaded(folder, description, report))
    if model is None and error is not None:
        if not elsewhere:
            raise error
        raise MadeElsewhere(f"{elsewhere}: {type(error).__name__}: {first_line(error)}") from error
    if model is None:
        raise ValueError("The model is None.")
    model.elsewhere = elsewhere
    model.declared = read_signature(description).declared
    return model


def _loaded(folder: Path, description: Mapping[str, Any], report: Report) -> ServedModel:
    flavours = description.get("flavors") or {}
    signature = read_signature(description)
    _add_code_paths(folder, flavours)
    for flavour in NATIVE:
        if flavour in flavours:
            return _native(flavour, folder, flavours[flavour], signature, report)
    _choose_backend(flavours)
    report("importing mlflow")
    pyfunc = importlib.import_module("mlflow.pyfunc")
    report("loading the model")
    name = str(flavours.get("python_function", {}).get("loader_module", "pyfunc"))
    model = _loaded_by(pyfunc, folder)
    if signature.declared == ANY:
        # MLflow would give the model the first column alone.
        model.metadata.signature = None
    estimator = PyFunc(model, name=name.removeprefix("mlflow."), signature=signature)
    return ServedModel(estimator, flavour="pyfunc", has_probabilities=False)


def _choose_backend(flavours: Mapping[str, Any]) -> None:
    """Keras reads at its import what it computes with; MLflow notes it and leaves it to chance."""
    backend = (flavours.get("keras") or {}).get("keras_backend")
    if backend:
        os.environ.setdefault("KERAS_BACKEND", str(backend))


def _native(
    flavour: str, folder: Path, about: Mapping[str, Any], signature: Signature, report: Report
) -> ServedModel:
    report(f"importing {flavour}")
    if flavour == "sklearn":
        put_pandas_off()
    importlib.import_module(flavour)
    report("loading the model")
    opened = {
        "sklearn": _open_pickled,
        "xgboost": _open_xgboost,
        "lightgbm": _open_lightgbm,
        "catboost": open_catboost,
    }
    model = opened[flavour](folder, about)
    if model is None:
        report("importing mlflow")
        model = _loaded_by(importlib.import_module(f"mlflow.{flavour}"), folder)
    if flavour == "catboost":
        boosted = CatBoosted(model, signature=signature)
        return ServedModel(boosted, flavour=flavour, has_probabilities=boosted.classes is not None)
    if type(model).__name__ == "Booster":
        booster = open_booster(flavour, model, signature)
        return ServedModel(booster, flavour=flavour, has_probabilities=booster.classes is not None)
    like = SklearnLike(model, flavour=flavour, signature=signature)
    if not like.takes_matrix:
        # Now, and not in the first request.
        pandas()
    chances = hasattr(model, "predict_proba") and not like.many_outputs
    return ServedModel(like, flavour=flavour, has_probabilities=chances)


def _loaded_by(module: ModuleType, folder: Path) -> Any:
    """Without the switch for tracing that MLflow puts around its loader: where the switch fails, an
    error of the model's is lost, and None comes back as the model."""
    return inspect.unwrap(module.load_model)(str(folder))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without folders and places in source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    text = re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", text)
    return re.sub(r"(?:/[\w.@+-]+)+/", "", text)[:MESSAGE_CHARACTERS]


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

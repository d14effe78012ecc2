"""CatBoost models, which give labels in a shape of their own and errors of a class of their own.

Runs inside the model container, without MLflow.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from served_answers import plain
from served_estimators import frame_of, matrix_of
from served_inputs import Column, Expected, Table
from served_signature import Signature


def open_catboost(folder: Path, about: Mapping[str, Any]) -> Any:
    """As MLflow's own loader; None for a class that is not known here."""
    kind = str(about.get("model_type", ""))
    if kind not in ("CatBoost", "CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker"):
        return None
    model = getattr(importlib.import_module("catboost"), kind)()
    model.load_model(str(folder / about["data"]), about.get("save_format", "cbm"))
    return model


class CatBoosted:
    """`predict`, `predict_proba` and `classes_` of CatBoost."""

    def __init__(self, model: Any, *, signature: Signature) -> None:
        self.name = type(model).__name__
        self.model = model
        labels = getattr(model, "classes_", None) if hasattr(model, "predict_proba") else None
        self.classes = plain(np.asarray(labels)) if labels is not None and len(labels) else None
        self.expected = _expectation(model, signature)
        self.takes_matrix = self.expected.numbers_only

    def form(self, table: Table) -> Any:
        if not self.takes_matrix:
            return frame_of(table)
        # Laid out as the quick way to a matrix has it.
        matrix = matrix_of(table)
        return matrix if self.expected.columns is None else np.asfortranarray(matrix)

    def predict(self, form: Any, *, probabilities: bool) -> tuple[Any, Any]:
        """Raises ValueError with CatBoost's own words for inputs that it does not take."""
        try:
            # One thread: a pool costs more than the few rows of a request take.
            labels = np.asarray(self.model.predict(form, thread_count=1))
            chances = self.model.predict_proba(form, thread_count=1) if probabilities else None
        except importlib.import_module("catboost").CatBoostError as error:
            raise ValueError(str(error)) from error
        # Of several classes each label comes in a list of its own.
        one_each = self.classes is not None and labels.ndim == 2 and labels.shape[1] == 1
        return labels[:, 0] if one_each else labels, chances


def _expectation(model: Any, signature: Signature) -> Expected:
    names = [str(name) for name in model.feature_names_ or ()]
    columns = signature.columns
    if columns is None and names and names != [str(place) for place in range(len(names))]:
        columns = tuple(Column(name) for name in names)
    other = (
        model.get_cat_feature_indices(),
        model.get_text_feature_indices(),
        model.get_embedding_feature_indices(),
    )
    return Expected(
        columns=columns,
        n_features=signature.n_features or len(names) or None,
        numbers_only=not any(len(places) for places in other),
    )

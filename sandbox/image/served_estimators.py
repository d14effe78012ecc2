"""What answers: estimators with scikit-learn's interface, boosters, and MLflow's pyfunc.

Runs inside the model container. Each turns a typed table into the form that its model takes
(`form`) and asks the model (`predict`); it never looks at JSON.
"""

import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from served_answers import plain
from served_inputs import Column, Expected, Table
from served_pandas import pandas
from served_signature import Signature

if TYPE_CHECKING:
    import pandas as pd

LABEL_THRESHOLD = 0.5
XGBOOST_KEEPS_CATEGORIES = (3, 1)
# Parts of a scikit-learn model that take text, or that drop columns which may be text.
TEXT_TAKERS = frozenset(
    {"ColumnTransformer", "FunctionTransformer", "OneHotEncoder", "OrdinalEncoder", "TargetEncoder"}
)


class Estimator(Protocol):
    """What a flavour gives: labels, and with them probabilities if it has any.

    `takes_matrix`: a plain matrix of numbers is all that it needs.
    """

    name: str
    classes: list[Any] | None
    expected: Expected
    takes_matrix: bool

    def form(self, table: Table) -> Any: ...

    def predict(self, form: Any, *, probabilities: bool) -> tuple[Any, Any]: ...


# -- estimators with scikit-learn's interface ---------------------------------------------------


class SklearnLike:
    """`predict`, `predict_proba` and `classes_`, of scikit-learn, XGBoost or LightGBM."""

    def __init__(self, model: Any, *, flavour: str, signature: Signature) -> None:
        self.name = type(model).__name__
        self.model = model
        self._flavour = flavour
        self._one_thread()
        chances = hasattr(model, "predict_proba")
        labels = getattr(model, "classes_", None) if chances else None
        self.many_outputs = isinstance(labels, list)
        self.classes = None if labels is None or self.many_outputs else plain(np.asarray(labels))
        self.expected = self._expectation(signature)
        self._label_is_argmax = self._votes_by_probability()
        self._text_series = getattr(model, "n_features_in_", None) is None
        # A booster that was trained on names compares them; scikit-learn only warns.
        self.takes_matrix = self.expected.numbers_only and (
            flavour == "sklearn" or self.expected.columns is None
        )

    def form(self, table: Table) -> Any:
        return self._matrix(table) if self.takes_matrix else self._frame(table)

    def predict(self, form: Any, *, probabilities: bool) -> tuple[Any, Any]:
        if not probabilities:
            return self.model.predict(form), None
        chances = np.asarray(self.model.predict_proba(form))
        if self.classes is None:
            # A mixture model has components and no labels for them.
            self.classes = list(range(chances.shape[1]))
        if self._label_is_argmax:
            return self.model.classes_.take(chances.argmax(axis=1)), chances
        return self.model.predict(form), chances

    def _expectation(self, signature: Signature) -> Expected:
        names = _trained_names(self.model)
        columns = signature.columns
        if columns is None and names is not None:
            columns = tuple(Column(name) for name in names)
        count = signature.n_features or getattr(self.model, "n_features_in_", None)
        return Expected(
            columns=columns,
            n_features=None if count is None else int(count),
            numbers_only=self._numbers_only(),
            spaces_become_underscores=self._flavour == "lightgbm",
        )

    def _numbers_only(self) -> bool:
        if self._flavour == "xgboost":
            return not _xgboost_takes_categories(self.model)
        if self._flavour == "lightgbm":
            return not self.model.booster_.pandas_categorical
        return not any(_takes_text(part) for part in parts_of(self.model))

    def _matrix(self, table: Table) -> Any:
        """In memory as a table of pandas is, where there are names: sums keep their order."""
        if self.expected.columns is None:
            return matrix_of(table)
        single = all(column.dtype == np.float32 for column in table.columns)
        return np.array(table.columns, dtype=np.float32 if single else np.float64).T

    def _frame(self, table: Table) -> Any:
        if self._flavour != "sklearn":
            return _categorical(frame_of(table))
        if table.names is not None and self.expected.columns is not None:
            return frame_of(table)
        if self._text_series and len(table.columns) == 1 and table.columns[0].dtype == object:
            # A vectoriser takes a list of texts, not a table with one column.
            return table.columns[0]
        return matrix_of(table)

    def _votes_by_probability(self) -> bool:
        """Forests define their label as the most probable class: one pass over the trees, not two.

        True only for scikit-learn's own method: a subclass may have another idea.
        """
        forests = sys.modules.get("sklearn.ensemble._forest")
        own = getattr(getattr(forests, "ForestClassifier", None), "predict", None)
        return own is not None and type(self.model).predict is own and not self.many_outputs

    def _one_thread(self) -> None:
        """A thread pool costs more than the few rows of a request take."""
        for part in parts_of(self.model):
            if getattr(part, "n_jobs", 1) != 1:
                part.n_jobs = 1
        if self._flavour == "xgboost":
            self.model.get_booster().set_param({"nthread": 1})


def parts_of(model: Any) -> Iterator[Any]:
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
        self.takes_matrix = False
        counted = {"binary": 2, "multiclass": count}.get(meaning)
        self.classes: list[Any] | None = None if counted is None else list(range(counted))

    def form(self, table: Table) -> Any:
        return _categorical(frame_of(table))

    def predict(self, form: Any, *, probabilities: bool) -> tuple[Any, Any]:
        raw = np.asarray(self._raw(form))
        if self._meaning == "binary":
            labels = (raw > LABEL_THRESHOLD).astype(int)
            return labels, np.column_stack([1 - raw, raw]) if probabilities else None
        if self._meaning == "multiclass":
            return raw.argmax(axis=1), raw if probabilities else None
        return raw.astype(int) if self._meaning == "labels" else raw, None


def open_booster(flavour: str, model: Any, signature: Signature) -> Boosted:
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
    takes_matrix = False

    def __init__(self, model: Any, *, name: str, signature: Signature) -> None:
        self.name = name
        self.model = model
        self._tensor = signature.tensor
        self.expected = Expected(
            columns=signature.columns, n_features=signature.n_features, nested_cells=True
        )

    def form(self, table: Table) -> Any:
        if self._tensor is not None:
            return matrix_of(table).astype(self._tensor[0])
        return frame_of(table)

    def predict(self, form: Any, *, probabilities: bool) -> tuple[Any, Any]:
        return self.model.predict(form), None


# -- tables -------------------------------------------------------------------------------------


def frame_of(table: Table) -> "pd.DataFrame":
    pd = pandas()
    names = table.names or tuple(range(len(table.columns)))
    frame = pd.DataFrame(dict(enumerate(table.columns)))
    frame.columns = pd.Index(names)
    return frame


def matrix_of(table: Table) -> Any:
    if any(column.dtype == object for column in table.columns):
        return np.column_stack([np.asarray(column, dtype=object) for column in table.columns])
    return np.column_stack(table.columns).astype(np.float64, copy=False)


def _categorical(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Text as categories: the boosters map them to their own by value."""
    pd = pandas()
    text = [index for index, kind in enumerate(frame.dtypes) if pd.api.types.is_string_dtype(kind)]
    if not text:
        return frame
    return frame.astype({frame.columns[index]: "category" for index in text})

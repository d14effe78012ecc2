"""Takes apart what stands before a model: each known transformer becomes a step of numbers.

A transformer is known by its exact class. What is known here is only tried: `make_compact.py`
compares all of it with the original. Runs where the model was opened, as that model's own code.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from served_pandas import pandas

PIPELINE = "sklearn.pipeline.Pipeline"
DATA = "sklearn.preprocessing._data"
ENCODERS = "sklearn.preprocessing._encoders"
# What no training had among its values.
UNHEARD_TEXT = "\u2205 unheard of"
MISSING = float("nan")
KEYS_MOST = 50_000
WHOLE_MAX = 2**53
STEP_ERRORS = (ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError)


class NoStep(Exception):
    """Why a transformer cannot be a step, in one sentence."""


@dataclass(frozen=True)
class Origin:
    """A column of a matrix is column `place` of the inputs: `value * scale + shift` of it."""

    place: int
    scale: float = 1.0
    shift: float = 0.0


# None: made of something else than one input's number.
Origins = Sequence[Origin | None]


@dataclass
class Domain:
    """What is known of the values of one input column."""

    keys: list[Any] = field(default_factory=list)
    computed: bool = False
    text: bool = False
    middle: float | None = None
    spread: float = 1.0


class Steps:
    """Collects the numbers of all steps, and what they tell about the input columns."""

    def __init__(self, names: Sequence[str] | None, width: int) -> None:
        self.names = names
        self.width = width
        self.arrays: dict[str, Any] = {}
        self.domains = [Domain() for _ in range(width)]
        # Whether the last matrix is a sparse one for the original.
        self.sparse = False

    def start(self) -> Origins:
        return [Origin(place) for place in range(self.width)]

    def of(self, part: Any, origins: Origins) -> tuple[list[dict[str, Any]], Origins]:
        """The steps of a transformer, and where its columns come from. Raises NoStep."""
        if part is None or (isinstance(part, str) and part == "passthrough"):
            return [], origins
        known = _KNOWN.get(kind_of(part))
        if known is None:
            raise NoStep(f"No compact form is known for the step {type(part).__name__}.")
        try:
            return known(self, part, origins)
        except STEP_ERRORS as error:
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            raise NoStep(f"The step {type(part).__name__} was not understood: {told}") from error

    def place(self, *values: Any) -> str:
        """Keeps arrays under a name of their own, and gives it."""
        name = f"s{len(self.arrays)}"
        for letter, value in zip("abc", values, strict=False):
            if value is not None:
                self.arrays[f"{name}_{letter}"] = np.asarray(value)
        self.arrays.setdefault(f"{name}_", np.zeros(0))
        return name

    def number(self, origins: Origins) -> None:
        for origin in origins:
            if origin is not None:
                self.domains[origin.place].computed = True


def kind_of(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


# -- pipelines and columns ------------------------------------------------------------------------


def _pipeline(steps: Steps, part: Any, origins: Origins) -> tuple[list[Any], Origins]:
    made: list[Any] = []
    for _, inner in part.steps:
        found, origins = steps.of(inner, origins)
        made += found
    return made, origins


def _column_transformer(steps: Steps, part: Any, origins: Origins) -> tuple[list[Any], Origins]:
    if part.transformer_weights:
        raise NoStep("Its ColumnTransformer has weights.")
    own = _places(steps, part, len(origins))
    branches: list[Any] = []
    joined: list[Origin | None] = []
    for name, inner, _ in part.transformers_:
        indices = part._transformer_to_input_indices[name]
        if not len(indices) or (isinstance(inner, str) and inner == "drop"):
            continue
        columns = [own[index] for index in indices]
        made, found = steps.of(inner, [origins[column] for column in columns])
        if not made:
            steps.number(found)
        branches.append({"columns": columns, "steps": made})
        joined += found
    steps.sparse = bool(part.sparse_output_)
    return [{"kind": "split", "branches": branches}], joined


def _places(steps: Steps, part: Any, count: int) -> list[int]:
    """For each column that it was trained on its place in what it is given now."""
    trained = getattr(part, "feature_names_in_", None)
    if trained is None or steps.names is None:
        return list(range(count))
    if count != steps.width:
        raise NoStep("Its ColumnTransformer stands behind another step.")
    places = {name: place for place, name in enumerate(steps.names)}
    return [places.get(str(name), -1) for name in trained]


def _function(steps: Steps, part: Any, origins: Origins) -> tuple[list[Any], Origins]:
    if part.func is not None:
        raise NoStep("It calls a function of its author's.")
    return [], origins


# -- numbers --------------------------------------------------------------------------------------


def _scaler(first: str, second: str, uses: tuple[str, str]) -> Callable[..., Any]:
    def made(steps: Steps, part: Any, origins: Origins) -> tuple[list[Any], Origins]:
        steps.number(origins)
        middle = getattr(part, first) if first and getattr(part, uses[0]) else None
        spread = getattr(part, second) if getattr(part, uses[1], True) else None
        shifts = np.zeros(len(origins)) if middle is None else np.asarray(middle)
        scales = np.ones(len(origins)) if spread is None else np.asarray(spread)
        for origin, shift, scale in zip(origins, shifts, scales, strict=True):
            _learn(steps, origin, float(shift), float(scale))
        moved = [
            _moved(origin, float(scale), float(shift))
            for origin, scale, shift in zip(origins, scales, shifts, strict=True)
        ]
        return [{"kind": "standard", "at": steps.place(middle, spread)}], moved

    return made


def _minmax(steps: Steps, part: Any, origins: Origins) -> tuple[list[Any], Origins]:
    if part.clip:
        raise NoStep("Its MinMaxScaler clips.")
    steps.number(origins)
    scales = np.where(part.scale_ == 0, 1.0, part.scale_)
    moved = []
    for origin, scale, shift in zip(origins, scales, part.min_, strict=True):
        _learn(steps, origin, float(-shift / scale), float(1 / scale))
        moved.append(_moved(origin, float(1 / scale), float(-shift / scale)))
    return [{"kind": "minmax", "at": steps.place(part.scale_, part.min_)}], moved


def _learn(steps: Steps, origin: Origin | None, middle: float, spread: float) -> None:
    """Only of the inputs as they come."""
    if origin is None or origin != Origin(origin.place):
        return
    domain = steps.domains[origin.place]
    if domain.middle is None and math.isfinite(middle) and math.isfinite(spread):
        domain.middle, domain.spread = middle, abs(spread) or 1.0


def _moved(origin: Origin | None, scale: float, shift: float) -> Origin | None:
    """What was z is z * scale + shift."""
    if origin is None:
        return None
    return Origin(origin.place, scale * origin.scale, shift * origin.scale + origin.shift)


def _imputer(steps: Steps, part: Any, origins: Origins) -> tuple[list[Any], Origins]:
    values = list(part.statistics_)
    sign = part.missing_values
    missing_is_missing = sign is None or sign is pandas().NA or sign != sign
    if any(isinstance(value, str) for value in values):
        if part.add_indicator or not missing_is_missing:
            raise NoStep("Its SimpleImputer of text does more than fill in.")
        if not all(isinstance(value, str) for value in values):
            raise NoStep("Its SimpleImputer fills in text and other values.")
        for origin in origins:
            if origin is not None:
                steps.domains[origin.place].text = True
        return [{"kind": "fill", "fills": [str(value) for value in values]}], origins
    steps.number(origins)
    numbers = np.array(values, dtype=np.float64)
    empty = np.isnan(numbers) if not part.keep_empty_features else np.zeros(len(numbers), bool)
    keep = [place for place, gone in enumerate(empty.tolist()) if not gone]
    marks = list(part.indicator_.features_) if part.add_indicator else []
    for origin, value in zip(origins, numbers, strict=True):
        _learn(steps, origin, float(value), max(1.0, abs(float(value)) / 2))
    step = {
        "kind": "impute",
        "at": steps.place(
            np.nan_to_num(numbers), np.array(keep, dtype=np.int64), np.array(marks, dtype=np.int64)
        ),
        "missing": None if missing_is_missing else float(sign),
    }
    return [step], [*[origins[place] for place in keep], *[None for _ in marks]]


# -- encoders -------------------------------------------------------------------------------------


def _one_hot(steps: Steps, part: Any, origins: Origins) -> tuple[list[Any], Origins]:
    found = _tables(steps, part, origins)
    width = found.tables[0].shape[1]
    spots = []
    for own, places in zip(found.tables, found.widths, strict=True):
        lit = own[:, places[0] : places[1]]
        if not np.isin(lit, (0.0, 1.0)).all() or (lit.sum(axis=1) > 1).any():
            raise NoStep("Its OneHotEncoder gives more than a one.")
        spots.append(np.where(lit.any(axis=1), lit.argmax(axis=1) + places[0], -1))
    steps.sparse = bool(part.sparse_output)
    step = {"kind": "one_hot", "at": found.keep(spots), "columns": found.known, "width": width}
    return [step], [None] * width


def _lookup(steps: Steps, part: Any, origins: Origins) -> tuple[list[Any], Origins]:
    found = _tables(steps, part, origins)
    own = [
        table[:, places[0] : places[1]].astype(np.float64)
        for table, places in zip(found.tables, found.widths, strict=True)
    ]
    step = {"kind": "lookup", "at": found.keep(own), "columns": found.known}
    return [step], [None] * sum(table.shape[1] for table in own)


@dataclass
class _Tables:
    """What an encoder makes of each value of each column; the last two: unknown, missing."""

    steps: Steps
    known: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Any] = field(default_factory=list)
    widths: list[tuple[int, int]] = field(default_factory=list)

    def keep(self, arrays: Sequence[Any]) -> str:
        name = self.steps.place()
        for place, array in enumerate(arrays):
            self.steps.arrays[f"{name}_{place}"] = array
        return name


def _tables(steps: Steps, part: Any, origins: Origins) -> _Tables:
    """The encoder itself is asked, one column at a time."""
    found = _Tables(steps)
    lists = [_keys(values) for values in part.categories_]
    names = getattr(part, "feature_names_in_", range(len(lists)))
    plain = {
        place: np.asarray(values, dtype=object)[:1] for place, values in enumerate(part.categories_)
    }
    begin = 0
    for place, keys in enumerate(lists):
        ask = _asking(part, plain, names, place)
        unheard = _unheard(keys)
        rows = ask(keys)
        others = [_or_none(ask, [unheard]), _or_none(ask, [MISSING])]
        found.known.append(
            {"keys": keys, "unknown": others[0] is not None, "missing": others[1] is not None}
        )
        nothing = np.zeros((1, rows.shape[1]))
        found.tables.append(np.vstack([rows, *[nothing if o is None else o for o in others]]))
        end = begin + _width_of(part, place, rows.shape[1], len(lists))
        found.widths.append((begin, end))
        begin = end
        origin = origins[place]
        if origin is not None:
            steps.domains[origin.place].keys += keys
            steps.domains[origin.place].text |= isinstance(keys[0], str)
    if begin != found.tables[0].shape[1]:
        raise NoStep(f"The columns of its {type(part).__name__} cannot be told apart.")
    return found


def _keys(values: Any) -> list[Any]:
    keys = [value for value in np.asarray(values, dtype=object).tolist() if value == value]
    keys = [key for key in keys if key is not None]
    kinds = set(map(type, keys))
    if not keys or len(keys) > KEYS_MOST:
        raise NoStep(f"An encoder knows {len(keys)} values of a column.")
    if kinds == {str} or kinds == {bool}:
        return keys
    if not kinds <= {int, float} or any(not abs(key) < WHOLE_MAX for key in keys):
        raise NoStep("An encoder knows values of several kinds.")
    return keys


def _unheard(keys: Sequence[Any]) -> Any:
    return UNHEARD_TEXT if isinstance(keys[0], str) else max(map(float, keys)) + 0.5


def _asking(
    part: Any, plain: dict[int, Any], names: Any, column: int
) -> Callable[[Sequence[Any]], Any]:
    """Asks for rows that differ in one column."""

    def ask(values: Sequence[Any]) -> Any:
        pd, data = pandas(), {}
        for place, first in plain.items():
            cells = list(values) if place == column else [first[0]] * len(values)
            data[place] = pd.Series(cells, dtype=object).infer_objects()
        frame = pd.DataFrame(data)
        frame.columns = pd.Index(list(names))
        given = frame if hasattr(part, "feature_names_in_") else frame.to_numpy(dtype=object)
        answer = part.transform(given)
        return np.asarray(answer.todense() if hasattr(answer, "todense") else answer)

    return ask


def _or_none(ask: Callable[[Sequence[Any]], Any], values: Sequence[Any]) -> Any:
    try:
        return ask(values)
    except (ValueError, TypeError):
        return None


def _width_of(part: Any, place: int, whole: int, count: int) -> int:
    features = getattr(part, "_n_features_outs", None)
    return whole // count if features is None else int(features[place])


_SCALED = _scaler("mean_", "scale_", ("with_mean", "with_std"))
_KNOWN: dict[str, Callable[[Steps, Any, Origins], tuple[list[Any], Origins]]] = {
    PIPELINE: _pipeline,
    "sklearn.compose._column_transformer.ColumnTransformer": _column_transformer,
    "sklearn.preprocessing._function_transformer.FunctionTransformer": _function,
    f"{DATA}.StandardScaler": _SCALED,
    f"{DATA}.RobustScaler": _scaler("center_", "scale_", ("with_centering", "with_scaling")),
    f"{DATA}.MaxAbsScaler": _scaler("", "scale_", ("", "")),
    f"{DATA}.MinMaxScaler": _minmax,
    "sklearn.impute._base.SimpleImputer": _imputer,
    f"{ENCODERS}.OneHotEncoder": _one_hot,
    f"{ENCODERS}.OrdinalEncoder": _lookup,
    "sklearn.preprocessing._target_encoder.TargetEncoder": _lookup,
}

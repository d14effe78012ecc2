"""Reads features from Feast's online store. It never writes there.

Feast alone would take `"1"` and 1.5 for customer 1, an entity without its key for one that is not
known, and a value that is older than its `ttl`, which its history would not give to a training. So
all of these are looked at here.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast import FeatureStore
from feast.feature_view import FeatureViewState
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from registry.online.catalog import Asked, Catalog, Part
from registry.online.frames import Feature, FeatureQuestion, Gone, NotNow, NotReadable

CONFIGURATION = "feature_store.yaml"
# A registry that is a file is looked at so often; of any other nobody can tell whether it changed.
LOOK_SECONDS = 1.0
REFRESH_SECONDS = 10.0
# SQLite takes 32,766 keys in one query, and a piece must not hold up everybody.
PIECE_ROWS = 1000
# Of one answer, which is parsed where requests are answered.
CELLS_MOST = 500_000
ERRORS_MOST = 50
TEXT_SHOWN = 60
WHOLE = frozenset({"INT32", "INT64"})
NUMBER = frozenset({"FLOAT", "DOUBLE"})
NEVER_FILLED = (FeatureViewState.CREATED, FeatureViewState.GENERATED)
SIMPLE = frozenset({type(None), int, bool, str})


class _Unusable(Exception):
    """The value has no form in JSON."""


class FeatureReader:
    """One feature repository; any number of threads may read."""

    def __init__(self, repo: Path) -> None:
        self._repo = repo
        self._lock = threading.Lock()
        self._store: FeatureStore | None = None
        self._catalog: Catalog | None = None
        self._configured = self._marked = self._looked = -math.inf

    def open(self) -> None:
        """Raises whatever Feast raises."""
        self._current()

    def read(self, question: FeatureQuestion) -> list[Feature]:
        """In the order of the question. Raises NotReadable, NotNow, and what the store raises."""
        store, asked = self._asked(question)
        _check_state(asked, store)
        _check_entities(question.entities, asked)
        rows = len(next(iter(question.entities.values())))
        gathered = [Feature(part.called, name, [], []) for part, name in _each(asked)]
        if rows * len(gathered) > CELLS_MOST:
            told = f"{rows} rows of {len(gathered)} features are more than {CELLS_MOST} values."
            raise NotReadable("too_many_rows", [("entities", told)])
        for at in range(0, rows, PIECE_ROWS):
            piece = {key: cells[at : at + PIECE_ROWS] for key, cells in question.entities.items()}
            self._gather(store, asked, piece, at, gathered)
        return gathered

    def _asked(self, question: FeatureQuestion) -> tuple[FeatureStore, Asked]:
        """What is not known may have been made a moment ago."""
        store, catalog = self._current()
        try:
            return store, catalog.asked(question)
        except NotReadable:
            store, catalog = self._current(anew=True)
            return store, catalog.asked(question)

    def _gather(
        self,
        store: FeatureStore,
        asked: Asked,
        entities: dict[str, list[Any]],
        at: int,
        gathered: list[Feature],
    ) -> None:
        answer = store.get_online_features(asked.feast, entities, full_feature_names=True)
        values = answer.to_dict()
        names = answer.proto.metadata.feature_names.val
        vectors = dict(zip(names, answer.proto.results, strict=True))
        for feature, (part, _) in zip(gathered, _each(asked), strict=True):
            cells, vector = list(values[feature.full_name]), vectors[feature.full_name]
            ttl = part.view.ttl_seconds
            gone = _absent(cells, vector, oldest=time.time() - ttl if ttl else 0.0)
            gone |= _made_plain(cells)
            feature.values.extend(cells)
            feature.gone.extend((at + row, why) for row, why in sorted(gone.items()))

    # -- the store ------------------------------------------------------------------------------
    def _current(self, *, anew: bool = False) -> tuple[FeatureStore, Catalog]:
        with self._lock:
            moment = time.monotonic()
            if anew or moment - self._looked >= LOOK_SECONDS:
                self._look(moment, anew=anew)
            assert self._store is not None and self._catalog is not None  # noqa: S101 - _look
            return self._store, self._catalog

    def _look(self, moment: float, *, anew: bool) -> None:
        """Marks are read before what they mark: a change in between is seen the next time."""
        configuration = self._repo / CONFIGURATION
        if not configuration.is_file():
            raise NotNow(f"There is no feature store: its {CONFIGURATION} is missing.")
        configured = configuration.stat().st_mtime
        if self._store is None or configured != self._configured:
            self._store, self._catalog = FeatureStore(repo_path=str(self._repo)), None
            self._configured = configured
        marked = self._mark(self._store, moment)
        if self._catalog is None or anew or marked != self._marked:
            self._store.refresh_registry()
            self._catalog = Catalog(self._store)
            self._marked = marked
        self._looked = moment

    def _mark(self, store: FeatureStore, moment: float) -> float:
        path = str(store.config.registry.path).removeprefix("sqlite:///")
        file = self._repo / path
        return file.stat().st_mtime if file.is_file() else moment // REFRESH_SECONDS


def _each(asked: Asked) -> Iterator[tuple[Part, str]]:
    return ((part, name) for part in asked.parts for name in part.features)


# -- before it is asked -------------------------------------------------------------------------
def _check_state(asked: Asked, store: FeatureStore) -> None:
    """Feast refuses these in words for its operator. Raises NotReadable, NotNow."""
    serves_meanwhile = getattr(store.config.registry, "serve_features_while_materializing", False)
    for part in asked.parts:
        state = part.view.state
        if not part.view.enabled:
            told = f"The feature view {part.view.name} is disabled."
            raise NotReadable("feature_view_disabled", [(part.view.name, told)])
        if state in NEVER_FILLED:
            told = f"The feature view {part.view.name} was never materialised: it has no values."
            raise NotReadable("features_not_materialised", [(part.view.name, told)])
        if state is FeatureViewState.MATERIALIZING and not serves_meanwhile:
            raise NotNow(f"The feature view {part.view.name} is being materialised.")


def _check_entities(entities: dict[str, list[Any]], asked: Asked) -> None:
    """Raises NotReadable with every key that is missing or unknown, and every wrong cell."""
    wanted = asked.keys
    known = ", ".join(sorted(wanted)) or "none"
    errors = [
        (f"entities.{key}", f"These features are not looked up by it, but by: {known}.")
        for key in entities
        if key not in wanted
    ]
    errors += [
        (f"entities.{key}", "It is missing: these features are looked up by it.")
        for key in wanted
        if key not in entities
    ]
    if errors:
        raise NotReadable("entities_mismatch", errors)
    for key, cells in entities.items():
        errors += _wrong_cells(key, cells, wanted[key])
    if errors:
        raise NotReadable("wrong_type", errors[:ERRORS_MOST])


def _wrong_cells(key: str, cells: list[Any], kind: str) -> list[tuple[str, str]]:
    fits, noun = _kind(kind)
    wrong = [row for row, cell in enumerate(cells) if not fits(cell)][:ERRORS_MOST]
    return [
        (f"entities.{key}", f"row {row}: expected {noun}, got {repr(cells[row])[:TEXT_SHOWN]}")
        for row in wrong
    ]


def _kind(kind: str) -> tuple[Callable[[Any], bool], str]:
    if kind in WHOLE:
        bits = 31 if kind == "INT32" else 63
        return lambda cell: type(cell) is int and -(2**bits) <= cell < 2**bits, "a whole number"
    if kind in NUMBER:
        return lambda cell: type(cell) in (int, float), "a number"
    if kind == "BOOL":
        return lambda cell: type(cell) is bool, "true or false"
    if kind:
        return lambda cell: type(cell) is str, "text"
    return lambda cell: type(cell) in (int, float, bool, str), "a single value"


# -- what it says -------------------------------------------------------------------------------
def _absent(cells: list[Any], vector: Any, *, oldest: float) -> dict[int, Gone]:
    """Why a row has no value; one that is too old is taken away, as it is from history."""
    gone: dict[int, Gone] = {}
    if None in cells:
        statuses = list(vector.statuses)
        for row in (row for row, cell in enumerate(cells) if cell is None):
            unknown = statuses[row] == FieldStatus.NOT_FOUND
            gone[row] = Gone.UNKNOWN if unknown else Gone.NULL
    if oldest:
        for row, moment in enumerate(vector.event_timestamps):
            if 0 < moment.seconds < oldest and row not in gone:
                cells[row], gone[row] = None, Gone.EXPIRED
    return gone


def _made_plain(cells: list[Any]) -> dict[int, Gone]:
    """Puts JSON's form in the place of each value; what has none, and NaN, becomes nothing."""
    if set(map(type, cells)) <= SIMPLE:
        return {}
    gone: dict[int, Gone] = {}
    for row, cell in enumerate(cells):
        if isinstance(cell, float) and math.isnan(cell):
            cells[row], gone[row] = None, Gone.NULL
            continue
        try:
            cells[row] = _plain(cell)
        except _Unusable:
            cells[row], gone[row] = None, Gone.UNUSABLE
    return gone


def _plain(cell: Any) -> Any:
    """Numbers keep every bit: JSON's text of a double leads back to it. Raises _Unusable."""
    if type(cell) in SIMPLE:
        return cell
    if isinstance(cell, float):
        if not math.isfinite(cell):
            raise _Unusable
        return cell
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(cell, list):
        return [_plain(each) for each in cell]
    if isinstance(cell, dict):
        return {str(name): _plain(each) for name, each in cell.items()}
    raise _Unusable

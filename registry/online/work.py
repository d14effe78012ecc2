"""`python -m registry.online.work REPO`: describes a feature store, or fills its online part.

A worker starts it with one order on its standard input, and reads one JSON document a line from its
standard output. It ends with its order, or with the worker, whose end of the input it watches:
Feast takes 5 to 13 seconds and 180 MB, changes how the whole process reads dates out of SQLite, and
may load what a feature view computes, none of which belongs into a worker.
"""

import json
import os
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.feature_store.marks import is_configured, mark_of

Send = Callable[[dict[str, Any]], None]


def main() -> None:
    told = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What Feast prints is for nobody, and no line of ours.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with, args=[sys.stdin.fileno()], daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        told.write(json.dumps(message).encode() + b"\n")
        told.flush()

    try:
        _work(Path(sys.argv[1]), order, send)
    except Exception as error:  # noqa: BLE001 - whatever a store raises is told in words
        traceback.print_exc()
        send({"failed": words_of(error)})


def _end_with(line: int) -> None:
    """When whoever asked is gone: what is done is for nobody then."""
    while os.read(line, 1):
        pass
    os._exit(0)


def _work(repo: Path, order: Mapping[str, Any], send: Send) -> None:
    if not is_configured(repo):
        send({"failed": "There is no feature store: its feature_store.yaml is missing."})
        return
    # Here and not above: it takes 5 to 13 seconds, and an order may be wrong before that.
    from feast import FeatureStore  # noqa: PLC0415

    from registry.online.description import described, registry_file  # noqa: PLC0415

    store = FeatureStore(repo_path=str(repo))
    for name in order.get("materialize", ()):
        send({"started": name})
        send({"view": _materialized(store, name)})
    store.refresh_registry()
    # The mark before what it marks: a change in between is seen the next time.
    file = registry_file(store)
    mark = mark_of(repo, file)
    send({"description": described(store), "mark": mark, "registry_file": file})


def _materialized(store: Any, name: str) -> dict[str, Any]:
    """From where the last one ended until now; one that fails keeps none of the others from it."""
    began, end = time.monotonic(), datetime.now(UTC)
    outcome: dict[str, Any] = {"name": name, "until": end.isoformat(), "detail": ""}
    try:
        store.materialize_incremental(end, feature_views=[name])
    except Exception as error:  # noqa: BLE001 - whatever a store raises is told in words
        traceback.print_exc()
        outcome |= {"detail": words_of(error), "until": None}
    return {**outcome, "seconds": round(time.monotonic() - began, 1)}


def words_of(error: Exception) -> str:
    """A sentence for users: an error's own text may hold paths, addresses and passwords."""
    if isinstance(error, ModuleNotFoundError):
        return f"The Python package {error.name} is not installed, which the store needs."
    named = WORDS_BY_NAME.get(type(error).__name__)
    if named is not None:
        return named
    for kind, words in WORDS.items():
        if isinstance(error, kind):
            return words
    return f"Feast could not do it ({type(error).__name__}); the worker's log says more."


# Of packages that are imported late, or perhaps not at all.
WORDS_BY_NAME: Mapping[str, str] = {
    "FeatureViewNotFoundException": "There is no such feature view any more.",
    "IOException": "A file that the feature store names is not there, or cannot be read.",
}
WORDS: Mapping[type[Exception], str] = {
    FileNotFoundError: "A file that the feature store names is not there.",
    PermissionError: "A file that the feature store names may not be read or written.",
    ConnectionError: "A store that the feature store names does not answer.",
    TimeoutError: "A store that the feature store names does not answer in time.",
    sqlite3.OperationalError: "A file of the feature store is locked or cannot be used.",
    MemoryError: "There is not enough memory for it.",
}

if __name__ == "__main__":
    main()

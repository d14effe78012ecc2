"""Predictions through the platform, and asked of the model's container itself."""

import contextlib
import http.client
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.by_hand import Recipe, started
from bench.contract_job import MODEL
from deploy.trial import POST_SECONDS, TrialFailed, wait_for
from sandbox.engine import Engine
from sandbox.spec import SERVER_PORT

ROWS = 3
COLUMNS = 20
START_SECONDS = 60
LOOK_SECONDS = 0.01
TOKEN_VARIABLE = "MLOPS_SERVER_TOKEN"  # noqa: S105
INPUTS = [
    [round(0.1 * column * (-1) ** row, 3) for column in range(COLUMNS)] for row in range(ROWS)
]


@dataclass(frozen=True)
class Server:
    """A model server's row: its container and the way in."""

    container: str
    address: str
    token: str


def server_of(home: Path, version: str) -> Server:
    """From the installation's database, which is only read. Raises TrialFailed."""
    path = home / "db" / "platform.sqlite3"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        row = database.execute(
            "SELECT container_id, address, token FROM inference_modelserver"
            " WHERE model_name = ? AND version = ? AND status = 'ready'",
            (MODEL, version),
        ).fetchone()
    if row is None:
        raise TrialFailed(f"No server of {MODEL} version {version} is ready.")
    return Server(*row)


class Asker:
    """One kept connection to one address; every question is the same."""

    def __init__(self, address: str, path: str, *, token: str = "", version: str = "") -> None:
        host, _, port = address.partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=POST_SECONDS)
        self._path = path
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        document = {"model_name": MODEL, "inputs": INPUTS, "return_probabilities": True}
        if version:
            document["model_version"] = version
        self._body = json.dumps(document).encode()

    def ask(self) -> float:
        """Seconds to the whole answer. Raises TrialFailed when it is not labels and chances."""
        begin = time.perf_counter()
        self._connection.request("POST", self._path, self._body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        seconds = time.perf_counter() - begin
        if answer.status != 200 or len(json.loads(content)["probabilities"]) != ROWS:
            raise TrialFailed(f"{answer.status} {content.decode(errors='replace')}")
        return seconds

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def platform_asker(url: str, *, version: str = "") -> Iterator[Asker]:
    """Asks the platform; without a version it has to know the newest one, as most callers want."""
    asker = Asker(url.removeprefix("http://"), "/mlops/inference", version=version)
    with contextlib.closing(asker):
        yield asker


@contextlib.contextmanager
def direct_asker(address: str, token: str) -> Iterator[Asker]:
    with contextlib.closing(Asker(address, "/predict", token=token)) as asker:
        yield asker


def first_answer_by_hand(engine: Engine, recipe: Recipe, *, installation_id: str) -> float:
    """Seconds from making a model server's container by hand to its first answer."""
    token = recipe.variables[TOKEN_VARIABLE]
    begin = time.monotonic()
    with started(engine, recipe, installation_id=installation_id) as container:
        state = engine.state(container)
        if state is None or state.ip_address is None:
            raise TrialFailed("The model server has no address.")
        address = f"{state.ip_address}:{SERVER_PORT}"

        def answered() -> float | None:
            # A server that is not there yet refuses; one that still loads answers 503.
            with contextlib.suppress(OSError, TrialFailed), direct_asker(address, token) as asker:
                return asker.ask()
            return None

        wait_for(answered, seconds=START_SECONDS, what="a model server", every=LOOK_SECONDS)
        return time.monotonic() - begin

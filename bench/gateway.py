"""`python -m bench.gateway`: what the gateway adds to a direct call of a model's server.

The web process is the real one; MLflow and the model's server are stood in for by one small process
that answers at once, so that nothing but the gateway is measured, without Docker, in seconds. Both
ways are asked in turn over kept connections, one request at a time.
"""

import contextlib
import http.client
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from deploy.accounts import CHECKOUT
from deploy.process_plan import CONNECTION
from deploy.servers import free_port
from deploy.trial import wait_for

ASKED = int(os.environ.get("BENCH_ASKED", "3000"))
WARM_UP = 200
ROWS, COLUMNS = 3, 20
BODY = json.dumps(
    {"model_name": "bench", "model_version": "1", "inputs": [[0.5] * COLUMNS] * ROWS}
).encode()
LATEST_BODY = json.dumps({"model_name": "bench", "inputs": [[0.5] * COLUMNS] * ROWS}).encode()
SAID = orjson.dumps(
    {"predictions": [1] * ROWS, "probabilities": None, "classes": None, "inference_time_ms": 0.01}
)
VERSION = {
    "name": "bench",
    "version": "1",
    "status": "READY",
    "source": "models:/m-1",
    "creation_timestamp": 0,
    "last_updated_timestamp": 0,
}
MLFLOW = orjson.dumps({"model_version": VERSION, "model_versions": [VERSION]})
BAR_MS = 0.4


async def stand_in(scope: Any, receive: Any, send: Any) -> None:
    """A model's server at /predict, MLflow everywhere else."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        continue
    content = SAID if scope["path"] == "/predict" else MLFLOW
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    headers += [(name, value) for name, value in scope["headers"] if name == b"x-mlops-request"]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@contextlib.contextmanager
def running(*command: str, variables: dict[str, str], port: int) -> Iterator[int]:
    """A process that listens at `port`; its id."""
    with subprocess.Popen(
        [sys.executable, *command], cwd=CHECKOUT, env={**os.environ, **variables}
    ) as process:
        try:
            wait_for(lambda: _answers(port), seconds=120, what=f"port {port}")
            yield process.pid
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", "/mlops/none")
        connection.getresponse().read()
        return True
    return False


def make_row(home: Path, address: str) -> None:
    """One server that is ready, in columns that every state of the schema has."""
    with contextlib.closing(sqlite3.connect(home / "db" / "platform.sqlite3")) as database:
        wanted = {
            "model_name": "bench",
            "version": "1",
            "status": "ready",
            "source": "models:/m-1",
            "container_id": "c",
            "address": address,
            "token": "t",
            "claim": uuid.uuid4().hex,
        }
        columns = database.execute("PRAGMA table_info(inference_modelserver)").fetchall()
        for _, name, kind, required, _, key in columns:
            if name in wanted or key or not required:
                continue
            wanted[name] = "2025-01-01 00:00:00" if kind == "datetime" else _nothing(kind)
        names = ", ".join(wanted)
        places = ", ".join("?" * len(wanted))
        database.execute(
            f"INSERT INTO inference_modelserver ({names}) VALUES ({places})",  # noqa: S608
            list(wanted.values()),
        )
        database.commit()


def _nothing(kind: str) -> Any:
    return "" if "char" in kind or kind == "text" else 1


class Asker:
    """One kept connection and one question."""

    def __init__(self, port: int, path: str, body: bytes) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        self._path, self._body = path, body

    def ask(self) -> float:
        """Milliseconds to the whole answer."""
        begin = time.perf_counter()
        headers = {"content-type": "application/json", "authorization": "Bearer t"}
        self._connection.request("POST", self._path, self._body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status} {content.decode()}")
        return (time.perf_counter() - begin) * 1000


def cpu_seconds(pid: int) -> float:
    """Used by the process: it counts on a busy machine too, where waits do not."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(web_port: int, stand_in_port: int, web_pid: int) -> None:
    straight = Asker(stand_in_port, "/predict", BODY)
    through = Asker(web_port, "/mlops/inference", BODY)
    latest = Asker(web_port, "/mlops/inference", LATEST_BODY)
    for _ in range(WARM_UP):
        straight.ask(), through.ask(), latest.ask()
    begun = cpu_seconds(web_pid)
    times = [(straight.ask(), through.ask(), latest.ask()) for _ in range(ASKED)]
    used = (cpu_seconds(web_pid) - begun) * 1000 / (2 * ASKED)
    direct = statistics.median(each[0] for each in times)
    print(f"{ROWS}×{COLUMNS}, c=1, {ASKED} each, load {os.getloadavg()[0]:.1f}")
    print(f"  direct              p50 {direct:.3f} ms")
    for name, index in (("by number", 1), ("the latest", 2)):
        own = statistics.median(each[index] for each in times)
        added = statistics.median(each[index] - each[0] for each in times)
        print(f"  gateway, {name:<10} p50 {own:.3f} ms, adds {added:.3f} ms (bar {BAR_MS} ms)")
    print(f"  CPU of the web process for one request: {used:.3f} ms")


@contextlib.contextmanager
def gateway(home: Path, *, port: int, stand_in_port: int, server_port: int) -> Iterator[int]:
    """The web process at `port`, that knows one model's server; its id. `home` is an empty folder.

    At `stand_in_port` is who answers for MLflow, and for a model's server to who has none.
    """
    for name in ("db", "secrets"):
        (home / name).mkdir(parents=True)
    variables = {
        "MLOPS_HOME": str(home),
        "MLOPS_INSTALLATION_ID": "bench-gateway",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{stand_in_port}",
        "DJANGO_SETTINGS_MODULE": "mlops_site.settings",
        "MLOPS_LOG_LEVEL": "ERROR",
    }
    command = [sys.executable, "manage.py", "migrate", "-v", "0"]
    subprocess.run(command, cwd=CHECKOUT, env={**os.environ, **variables}, check=True)
    make_row(home, f"127.0.0.1:{server_port}")
    web: tuple[str, ...] = ("-m", "uvicorn", "mlops_site.asgi:application", "--port", str(port))
    web += ("--loop", "uvloop", "--http", CONNECTION, "--no-access-log", "--log-level", "warning")
    helper = ("-m", "bench.gateway", "stand-in", str(stand_in_port))
    with (
        running(*helper, variables=variables, port=stand_in_port),
        running(*web, variables=variables, port=port) as web_pid,
    ):
        yield web_pid


def main() -> None:
    stand_in_port, web_port = free_port(), free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        gateway(
            Path(folder), port=web_port, stand_in_port=stand_in_port, server_port=stand_in_port
        ) as web_pid,
    ):
        measure(web_port, stand_in_port, web_pid)


if __name__ == "__main__":
    if sys.argv[1:2] == ["stand-in"]:
        uvicorn.run(
            stand_in,
            port=int(sys.argv[2]),
            loop="uvloop",
            http="httptools",
            lifespan="off",
            log_level="warning",
            access_log=False,
        )
    else:
        main()

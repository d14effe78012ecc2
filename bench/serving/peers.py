"""Who is measured, each in an environment of its own that is made once and kept in `.cache`."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from deploy.accounts import CHECKOUT
from deploy.report import step
from deploy.servers import free_port
from deploy.trial import TrialFailed, wait_for

CACHE = CHECKOUT / ".cache" / "bench-serving"
INSIDE = Path(__file__).parent / "inside"
IMAGE = CHECKOUT / "sandbox" / "image"
SKLEARN = "scikit-learn==1.8.*"
START_SECONDS = 180
ASK_SECONDS = 120
STOP_SECONDS = 20
LOG_CHARACTERS = 2000
# Ours, and everybody's: the machine has two cores, and the rows of a request are few.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
JSON = {"content-type": "application/json"}
Rows = list[list[float]]


@dataclass(frozen=True)
class Peer:
    """How to install, start and ask one of them."""

    name: str
    packages: Sequence[str]
    form: str
    command: Callable[[Path, Path, int], list[str]]
    path: str
    body: Callable[[Rows], Any]
    labels: Callable[[Any], list[Any]]
    variables: Mapping[str, str] = field(default_factory=dict)
    # Of a whole platform's parts that run for others too, what one model needs cannot be told.
    footprint_known: bool = True
    files: Callable[[Path, int], None] | None = None

    @property
    def environment(self) -> Path:
        wanted = hashlib.sha256("\n".join(self.packages).encode()).hexdigest()[:12]
        return CACHE / f"env-{wanted}"

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    def install(self) -> None:
        """Raises TrialFailed."""
        if self.python.exists():
            return
        step(f"Installing {self.name}")
        aside = self.environment.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        uv = str(CHECKOUT / ".venv" / "bin" / "uv")
        make = [uv, "venv", "--quiet", "--relocatable", "--python"]
        _run([*make, str(CHECKOUT / ".venv" / "bin" / "python"), str(aside)])
        _run(
            [uv, "pip", "install", "--quiet", "--python", str(aside / "bin/python"), *self.packages]
        )
        aside.rename(self.environment)


@dataclass
class Running:
    """A peer that answers."""

    peer: Peer
    url: str
    process: "subprocess.Popen[bytes]"
    first_answer_seconds: float

    def megabytes(self) -> float:
        """Of the process and all that came of it, shared pages shared out."""
        return sum(_pss_kilobytes(pid) for pid in _family(self.process.pid)) / 1024

    def stop(self) -> None:
        _end_session(self.process)


def trained(peer: Peer, model: str) -> Path:
    """The folder with the peer's own copy of the model."""
    how = hashlib.sha256((INSIDE / "train.py").read_bytes()).hexdigest()[:12]
    folder = peer.environment / "models" / f"{model}-{peer.form}-{how}"
    if not folder.exists():
        aside = folder.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        command = [str(peer.python), str(INSIDE / "train.py"), model, str(aside), peer.form]
        _run(command, MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT="0", MLFLOW_TRACKING_URI=str(aside))
        if peer.form == "mlflow":
            _make_lane(peer, aside)
        aside.rename(folder)
    return folder


def _make_lane(peer: Peer, folder: Path) -> None:
    """What our server does after its first start, made before: a busy machine starves its trial."""
    if "treelite" not in peer.packages:
        return
    kept = folder / "model" / ".mlops"
    kept.mkdir()
    command = [str(peer.python), str(IMAGE / "make_compact.py"), "--out", str(kept)]
    _run([*command, "--model", str(folder / "model")], **ONE_THREAD, PYTHONPATH=str(INSIDE))


def started(peer: Peer, model: str, rows: Rows, work: Path) -> Running:
    """The peer, once it has answered. Raises TrialFailed, and nothing of it runs then."""
    folder, port = trained(peer, model), free_port()
    work.mkdir(parents=True)
    if peer.files is not None:
        peer.files(work, port)
    variables = {**os.environ, **ONE_THREAD, **peer.variables, "PYTHONPATH": str(INSIDE)}
    variables |= {"BENCH_MODEL": str(folder / "model.joblib")}
    variables["PATH"] = f"{peer.python.parent}:{variables['PATH']}"
    begin, output = time.monotonic(), work / "log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            peer.command(folder, work, port),
            cwd=work,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}{peer.path}"
    with contextlib.ExitStack() as otherwise:
        otherwise.callback(_end_session, process)
        _await_answer(peer, url, rows, process, output)
        otherwise.pop_all()
    return Running(peer, url, process, time.monotonic() - begin)


def _await_answer(
    peer: Peer, url: str, rows: Rows, process: "subprocess.Popen[bytes]", output: Path
) -> None:
    """Raises TrialFailed, with the last that it printed."""

    def answered() -> bool:
        if process.poll() is not None:
            raise TrialFailed(f"{peer.name} ended.")
        try:
            return ask(peer, url, rows) is not None
        except TrialFailed:
            return False

    try:
        wait_for(answered, seconds=START_SECONDS, what=f"an answer of {peer.name}", every=0.02)
    except TrialFailed as error:
        printed = output.read_text(errors="replace")[-LOG_CHARACTERS:]
        raise TrialFailed(f"{error}\n{printed}") from error


def _end_session(process: "subprocess.Popen[bytes]") -> None:
    """All of it: some leave their workers behind when they are told to end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def ask(peer: Peer, url: str, rows: Rows) -> list[Any]:
    """The labels. Raises TrialFailed."""
    body = json.dumps(peer.body(rows))
    try:
        answer = requests.post(url, data=body, headers=JSON, timeout=ASK_SECONDS)
    except requests.RequestException as error:
        raise TrialFailed(f"{peer.name}: {error}") from error
    if answer.status_code != 200:
        raise TrialFailed(f"{peer.name}: {answer.status_code} {answer.text[:300]}")
    return peer.labels(answer.json())


def _run(command: list[str], **variables: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    if done.returncode:
        raise TrialFailed(f"{command[:4]}: {done.stderr[-1500:]}")


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    except FileNotFoundError:
        return found
    return found


def _pss_kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


# -- each of them ---------------------------------------------------------------------------------
def _columns(rows: Rows) -> dict[str, list[float]]:
    return {f"c{at}": [row[at] for row in rows] for at in range(len(rows[0]))}


OURS = ("mlflow-skinny==3.13.*", "pandas", SKLEARN, "orjson", "uvloop", "httptools", "treelite")


def _ours(folder: Path, work: Path, port: int) -> list[str]:
    command = ["python", "-u", str(IMAGE / "model_server.py"), "--model", str(folder / "model")]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


def _through_gateway(folder: Path, work: Path, port: int) -> list[str]:
    server = json.dumps(_ours(folder, work, server_port := free_port()))
    command = [sys.executable, str(CHECKOUT / "bench" / "serving" / "through_gateway.py")]
    return [*command, "--server", server, "--server-port", str(server_port), "--port", str(port)]


def _mlflow(folder: Path, work: Path, port: int) -> list[str]:
    command = ["mlflow", "models", "serve", "--model-uri", str(folder / "model")]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--env-manager", "local"]


def _mlserver_files(batched: bool) -> Callable[[Path, int], None]:
    def write(work: Path, port: int) -> None:
        ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
        settings = {"host": "127.0.0.1", "debug": False, **ports}
        (work / "settings.json").write_text(json.dumps(settings))
        about: dict[str, Any] = {
            "name": "m",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib"},
        }
        if batched:
            about |= {"max_batch_size": 256, "max_batch_time": 0.005}
        (work / "model-settings.json").write_text(json.dumps(about))

    return write


def _mlserver(folder: Path, work: Path, port: int) -> list[str]:
    (work / "model.joblib").symlink_to(folder / "model.joblib")
    return ["mlserver", "start", "."]


def _v2(rows: Rows) -> Any:
    data = [value for row in rows for value in row]
    tensor = {"name": "x", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": data}
    return {"inputs": [tensor]}


def _bentoml(folder: Path, work: Path, port: int) -> list[str]:
    shutil.copy(INSIDE / "bento_service.py", work)
    return ["bentoml", "serve", "bento_service:Served", "--host", "127.0.0.1", "--port", str(port)]


def _peer(name: str, **given: Any) -> Peer:
    return Peer(name=name, **given)


_ours_like: dict[str, Any] = {
    "packages": OURS,
    "form": "mlflow",
    "command": _ours,
    "path": "/predict",
    "body": lambda rows: {"inputs": _columns(rows)},
    "labels": lambda told: told["predictions"],
}
_gateway_like: dict[str, Any] = {
    **_ours_like,
    "command": _through_gateway,
    "path": "/mlops/inference",
    "body": lambda rows: {
        "model_name": "bench",
        "model_version": "1",
        "inputs": _columns(rows),
    },
    "footprint_known": False,
}
_mlserver_like: dict[str, Any] = {
    # From uvloop 0.22 on the workers of MLServer 1.7 end at once, and it waits for them for ever
    # (https://github.com/SeldonIO/MLServer/issues/2286).
    "packages": ("mlserver==1.7.*", "mlserver-sklearn==1.7.*", "uvloop<0.22", SKLEARN),
    "form": "joblib",
    "command": _mlserver,
    "path": "/v2/models/m/infer",
    "body": _v2,
    "labels": lambda told: told["outputs"][0]["data"],
}
# It tells nobody of its start, and keeps its own things where ours are.
ALONE = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(CACHE / "bentoml")}
_bentoml_like: dict[str, Any] = {
    "packages": ("bentoml==1.4.*", SKLEARN),
    "form": "joblib",
    "command": _bentoml,
    "path": "/predict",
    "body": lambda rows: {"x": rows},
    "labels": lambda told: told,
}
PEERS = (
    _peer("ours", **_ours_like),
    _peer("ours, no fast lane", **_ours_like, variables={"MLOPS_FAST_LANE": "off"}),
    _peer("ours, gateway", **_gateway_like),
    _peer("ours, gateway, no lane", **_gateway_like, variables={"MLOPS_FAST_LANE": "off"}),
    _peer(
        "mlflow",
        packages=("mlflow==3.13.*", "pandas", SKLEARN),
        form="mlflow",
        command=_mlflow,
        path="/invocations",
        body=lambda rows: {"inputs": _columns(rows)},
        labels=lambda told: told["predictions"],
    ),
    _peer("MLServer", **_mlserver_like, files=_mlserver_files(batched=False)),
    _peer("MLServer, batching", **_mlserver_like, files=_mlserver_files(batched=True)),
    _peer("BentoML", **_bentoml_like, variables=ALONE),
    _peer("BentoML, batching", **_bentoml_like, variables={**ALONE, "BENCH_BATCHED": "1"}),
)

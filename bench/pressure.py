"""`python -m bench.pressure`: what a model's callers feel while something goes wrong beside them.

A whole platform with two models. One, whose every answer can be checked, is asked all the time;
meanwhile the other one, a hostile one, does its worst, servers are killed and replaced, and more is
asked than there is room for. Each figure stands beside the same load in calm, in the same run.
"""

import argparse
import http.client
import json
import secrets
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from urllib.parse import urlsplit

import requests

from bench.crowd import Crowd, Heard
from bench.figures import Bar, Figure, table
from bench.platforms import own_platform, resident_mb
from deploy.report import step
from deploy.trial import Platform, TrialFailed, wait_for
from sandbox.engine import Engine

SECONDS = 5.0
CALLERS = 4
# More than the bound of a model's queue, which is lowered here so that few callers fill it.
QUEUE = 16
CROWD = 64
VARIABLES = {"MLOPS_INFERENCE_QUEUE": str(QUEUE), "MLOPS_WAITING_CONTAINERS": "0"}
TRIES = 20
# A call's own bound and the wait for a new server, one after the other.
CALL_SECONDS = 150
SETTLED_SECONDS = 240
GOOD, HOSTILE = "steady", "hostile"
# Its answer to x is 2x + 1, which tells a right answer from another request's.
STEADY_SCRIPT = """
import mlflow, mlflow.sklearn, numpy as np
from sklearn.linear_model import LinearRegression
x = np.arange(100.0).reshape(-1, 1)
with mlflow.start_run():
    mlflow.sklearn.log_model(LinearRegression().fit(x, 2 * x[:, 0] + 1), "model", input_example=x)
"""
HOSTILE_SCRIPT = """
import mlflow, mlflow.pyfunc

class Hostile(mlflow.pyfunc.PythonModel):
    '''Does what the first cell of its input says.'''

    def predict(self, context, model_input, params=None):
        return getattr(self, str(model_input.iloc[0, 0]))(model_input)

    def behave(self, rows):
        return [1] * len(rows)

    def leave(self, rows):
        import os
        os._exit(1)

    def hog(self, rows):
        kept = []
        while True:
            kept.append(bytearray(16 * 1024 * 1024))

    def spin(self, rows):
        while True:
            pass

    def fork(self, rows):
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass

    def answer_too_much(self, rows):
        import numpy as np
        return np.zeros(50_000_000)

    def say(self, content, then_close=False):
        import os, socket
        for number in os.listdir("/proc/self/fd"):
            try:
                with socket.socket(fileno=os.dup(int(number))) as found:
                    found.getpeername()
                    found.sendall(content)
                    if then_close:
                        found.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        return [1]

    def garble(self, rows):
        return self.say(bytes(64))

    def forge(self, rows):
        head = b"HTTP/1.1 200 OK\\r\\nx-mlops-request: 0\\r\\ncontent-length: 2\\r\\n\\r\\n{}"
        return self.say(head)

    def promise_a_gigabyte(self, rows):
        head = b"HTTP/1.1 200 OK\\r\\ncontent-length: 1073741824\\r\\n\\r\\n"
        return self.say(head + bytes(65536))

    def stop_half_way(self, rows):
        return self.say(b"HTTP/1.1 200 OK\\r\\ncontent-length: 100\\r\\n\\r\\nx", then_close=True)

with mlflow.start_run():
    mlflow.pyfunc.log_model("model", python_model=Hostile(), pip_requirements=[])
"""
ACTS = (
    "leave",
    "hog",
    "fork",
    "spin",
    "answer_too_much",
    "garble",
    "forge",
    "promise_a_gigabyte",
    "stop_half_way",
)


class Caller:
    """One kept connection to the gateway, opened anew after what breaks it."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self._connection = self._connected()

    def ask(self, model: str, inputs: object) -> tuple[int, dict[str, object]]:
        """The status and the document."""
        body = json.dumps({"model_name": model, "inputs": inputs})
        try:
            self._connection.request(
                "POST", "/mlops/inference", body, {"Content-Type": "application/json"}
            )
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            self._connection = self._connected()
            raise

    def _connected(self) -> http.client.HTTPConnection:
        host, port = str(self._place.hostname), self._place.port
        return http.client.HTTPConnection(host, port, timeout=CALL_SECONDS)


class Load:
    """Callers of the steady model, from the beginning of a `with` to its end."""

    def __init__(self, platform: Platform) -> None:
        self.heard = Heard()
        self._platform = platform
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> Heard:
        for thread in self._threads:
            thread.start()
        return self.heard

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        caller = Caller(self._platform.url)
        while not self._stop.is_set():
            value = secrets.randbelow(1000)
            begun = time.perf_counter()
            try:
                status, said = caller.ask(GOOD, [[value]])
            except (OSError, http.client.HTTPException) as error:
                status, said = 0, {"code": type(error).__name__}
            self._note(value, status, said, (time.perf_counter() - begun) * 1000)

    def _note(self, value: int, status: int, said: dict[str, object], took: float) -> None:
        with self._lock:
            self.heard.note(value, status, said, took)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each kind of trouble")
    parser.add_argument("--acts", nargs="*", default=list(ACTS), choices=ACTS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    engine = Engine.connect()
    with own_platform(engine, VARIABLES) as platform:
        for script, name in ((STEADY_SCRIPT, GOOD), (HOSTILE_SCRIPT, HOSTILE)):
            job = platform.run(script, model_name=name, requirements=["scikit-learn"])
            if job["status"] != "completed":
                raise TrialFailed(str(job))
        _settle(platform)
        wanted = options.parts or PARTS
        figures = [figure for part in wanted for figure in PARTS[part](platform, engine, options)]
    print(table(figures))
    return 0 if all(figure.met is not False for figure in figures) else 1


def _beside_a_hostile_model(
    platform: Platform, engine: Engine, options: argparse.Namespace
) -> Iterator[Figure]:
    calm = _calm(platform, seconds=options.seconds)
    web = platform.processes()["web"]
    for act in options.acts:
        _settle(platform)
        before = resident_mb(web)
        told: Counter[str] = Counter()
        with Load(platform) as heard:
            _misbehave(platform, act, told, seconds=options.seconds)
        print(f"  {act}: its callers heard {dict(told)}; the others {dict(heard.said)}", flush=True)
        yield Figure(
            name=f"p50 beside a model that does: {act}",
            unit="ms",
            ours=heard.p50,
            floor=calm.p50,
            floor_is="the same callers in calm",
        )
        yield Figure(
            name="wrong or refused answers of the others",
            unit="",
            ours=heard.wrong + heard.said.total() - heard.said["200"],
            bar=Bar(0),
        )
        grown = resident_mb(web) - before
        yield Figure(name="memory of the gateway's process grew by", unit="MB", ours=grown)


def _misbehave(platform: Platform, act: str, told: Counter[str], *, seconds: float) -> None:
    """One caller asks for it again and again; a server that ended is started for it each time."""
    caller, until = Caller(platform.url), time.monotonic() + seconds
    for _ in range(TRIES):
        try:
            status, said = caller.ask(HOSTILE, {"what": [act]})
        except (OSError, http.client.HTTPException) as error:
            status, said = 0, {"code": type(error).__name__}
        told[f"{status} {said.get('code', '')}".strip()] += 1
        if time.monotonic() > until:
            return


def _killed(platform: Platform, engine: Engine, options: argparse.Namespace) -> Iterator[Figure]:
    step("The server of the steady model is killed")
    _settle(platform)
    with Load(platform) as heard:
        time.sleep(options.seconds / 2)
        for container_id in _servers_of(platform, GOOD):
            engine.kill(container_id)
        killed_at = time.monotonic()
        wait_for(
            lambda: _first_after(killed_at, heard),
            seconds=SETTLED_SECONDS,
            what="an answer after the kill",
        )
        time.sleep(options.seconds / 2)
    print(f"  killed: {dict(heard.said)}", flush=True)
    recovered = _first_after(killed_at, heard)
    strange = sum(said != "200" and not said.startswith("503") for said in heard.said)
    yield Figure(name="first answer after a server was killed", unit="s", ours=recovered)
    yield Figure(name="wrong answers", unit="", ours=heard.wrong, bar=Bar(0))
    yield Figure(name="answers that are neither right nor 503", unit="", ours=strange, bar=Bar(0))


def _first_after(moment: float, heard: Heard) -> float:
    """Seconds; 0 while none came. What was on its way when the server was killed does not count."""
    return min((at - moment for at in tuple(heard.moments) if at > moment + 0.05), default=0.0)


def _replaced(platform: Platform, engine: Engine, options: argparse.Namespace) -> Iterator[Figure]:
    """Another limit means another server; and two servers are one more."""
    for what, change, count in (
        ("replaced", {"memory_mb": 768}, 1),
        ("joined by a second", {"memory_mb": 768, "max_servers": 2, "min_servers": 2}, 2),
    ):
        step(f"The server of the steady model is {what} under load")
        _settle(platform)
        before = _servers_of(platform, GOOD)
        with Load(platform) as heard:
            time.sleep(options.seconds / 2)
            _set_serving(platform, change)
            wait_for(
                partial(_are_others, platform, before, count),
                seconds=SETTLED_SECONDS,
                what=f"the steady model's server {what}",
            )
            time.sleep(options.seconds / 2)
        print(f"  {what}: {dict(heard.said)}", flush=True)
        lost = heard.said.total() - heard.said["200"] + heard.wrong
        yield Figure(
            name=f"lost or wrong, server {what} under load", unit="", ours=lost, bar=Bar(0)
        )
    _set_serving(platform, {})


def _are_others(platform: Platform, before: set[str], count: int) -> bool:
    now = _servers_of(platform, GOOD)
    return len(now) == count and now != before


def _crowded(platform: Platform, engine: Engine, options: argparse.Namespace) -> Iterator[Figure]:
    """The bar is for callers who heed `Retry-After`; beside it stands what others make of it."""
    full = _crowd(platform, QUEUE, patient=True, seconds=options.seconds)
    for patient, manner, bar in (
        (True, "who wait as told", Bar(2, times_floor=True)),
        (False, "who come again at once", None),
    ):
        heard = _crowd(platform, CROWD, patient=patient, seconds=options.seconds)
        yield Figure(
            name=f"p50 of those admitted, {CROWD} callers {manner} where {QUEUE} may wait",
            unit="ms",
            ours=heard.p50,
            floor=full.p50,
            floor_is=f"{QUEUE} callers",
            bar=bar,
        )
        yield Figure(name="wrong answers in the crowd", unit="", ours=heard.wrong, bar=Bar(0))


def _crowd(platform: Platform, count: int, *, patient: bool, seconds: float) -> Heard:
    step(f"{count} callers where {QUEUE} may wait")
    _settle(platform)
    callers = Crowd(platform.url, GOOD, count=count, patient=patient)
    heard = callers.for_seconds(seconds)
    print(f"  crowd: {dict(heard.said)}", flush=True)
    if not heard.times or set(heard.said) - {"200", "503 overloaded"}:
        raise TrialFailed(f"The crowd heard {heard.said}")
    return heard


def _calm(platform: Platform, *, seconds: float) -> Heard:
    with Load(platform) as heard:
        time.sleep(seconds)
    if set(heard.said) != {"200"} or heard.wrong:
        raise TrialFailed(f"In calm: {heard.said}, {heard.wrong} wrong")
    return heard


def _settle(platform: Platform) -> None:
    """Until both models answer again."""
    caller = Caller(platform.url)

    def both_answer() -> bool:
        asked = ((GOOD, [[1]]), (HOSTILE, {"what": ["behave"]}))
        return all(caller.ask(model, inputs)[0] == 200 for model, inputs in asked)

    wait_for(both_answer, seconds=SETTLED_SECONDS, what="answers of both models")


def _set_serving(platform: Platform, wanted: Mapping[str, int]) -> None:
    path = f"{platform.url}/mlops/models/{GOOD}/serving"
    requests.put(path, json=wanted, timeout=CALL_SECONDS).raise_for_status()


def _servers_of(platform: Platform, model: str) -> set[str]:
    """Ids of its containers that are ready, from the database, which is only read."""
    path = platform.home / "db" / "platform.sqlite3"
    asked = "SELECT container_id FROM inference_modelserver WHERE model_name=? AND status='ready'"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as rows:
        return {str(row[0]) for row in rows.execute(asked, (model,))}


PARTS = {
    "hostile": _beside_a_hostile_model,
    "killed": _killed,
    "replaced": _replaced,
    "crowd": _crowded,
}


if __name__ == "__main__":
    sys.exit(main())

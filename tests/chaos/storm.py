"""N short jobs on the whole platform while its processes are killed; then the account of it."""

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import requests

from deploy.trial import Platform, start_platform, stop_platform, wait_for
from sandbox.engine import Engine
from tests.chaos import truth
from tests.chaos.own_engine import OwnEngine
from tests.chaos.prey import Hunter

FAILS_WITH = 3
# A job runs under the launcher: a script that ended by itself printed its last line.
BY_ITSELF = (0, 1, FAILS_WITH)
# More than it takes until what an engine left half-made counts as left.
SETTLE_SECONDS = 120
# One of them takes seconds; and a whole platform may have to come back first.
CALM_SECONDS = 120
MAX_ATTEMPTS = 3
OURS = ("engine_unavailable", "tracking_unavailable", "registry_unavailable", "worker_lost")
LOOK_SECONDS = 1.0
# No model server is started: each would take the time of a job, and is another story.
SMALL = {
    "MLOPS_JOB_CPUS": "0.5",
    "MLOPS_JOB_MEMORY_MB": "512",
    "MLOPS_MAX_MODEL_SERVERS": "0",
}

# `MLFLOW_RUN_CONTEXT` holds job and attempt; the random part tells two runs of one attempt apart.
BEGIN = """\
import json, os, sys, uuid
me = json.loads(os.environ["MLFLOW_RUN_CONTEXT"])["job_attempt"] + " " + uuid.uuid4().hex
print("begin", me)
import atexit
atexit.register(lambda: print("end", me))
"""
LOGS_A_MODEL = (
    BEGIN
    + """
import mlflow, mlflow.pyfunc

class Same(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input

with mlflow.start_run():
    mlflow.pyfunc.log_model("model", python_model=Same(), pip_requirements=[])
"""
)
FAILS = BEGIN + f"print('on purpose')\nsys.exit({FAILS_WITH})\n"
WAITS = BEGIN + "import threading\nthreading.Event().wait()\n"


@dataclass(frozen=True)
class Weather:
    """How bad it gets. The same seed kills the same kinds in the same order."""

    jobs: int
    seed: int
    seconds: float
    pause_seconds: tuple[float, float] = (2.0, 5.0)
    # Logging a model takes seconds of a processor; failing takes none.
    failing: float = 1 / 3

    @property
    def to_cancel(self) -> int:
        return max(2, self.jobs // 20)


@dataclass
class Outcome:
    """The account of a storm; everything in `wrong` is a broken promise."""

    jobs: int = 0
    killed: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    retried_for: Mapping[str, int] = field(default_factory=dict)
    longest_seconds: float = 0.0
    leftovers: Mapping[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def table(self) -> str:
        shown = {name: value for name, value in asdict(self).items() if name != "wrong"}
        lines = [f"{name.replace('_', ' '):<16} {_words(value)}" for name, value in shown.items()]
        return "\n".join([*lines, f"{'wrong':<16} {len(self.wrong)}", *self.wrong])


def storm(
    home: Path,
    installation_id: str,
    *,
    engine: Engine,
    weather: Weather,
    own_engine: OwnEngine | None = None,
) -> Outcome:
    """Starts a platform, sends the jobs, kills, waits for the calm, and adds up."""
    volumes = truth.volumes(engine) if own_engine else set()
    with mock.patch.dict(os.environ, SMALL):
        platform = start_platform(home, installation_id)
    try:
        outcome = _storm(platform, engine=engine, weather=weather, own_engine=own_engine)
        if own_engine:
            outcome.leftovers = {
                **outcome.leftovers,
                "volumes": len(truth.volumes(engine) - volumes),
            }
        if outcome.wrong:
            print(platform.said())
        return outcome
    finally:
        stop_platform(platform)


def _storm(
    platform: Platform, *, engine: Engine, weather: Weather, own_engine: OwnEngine | None
) -> Outcome:
    starts = truth.StartWatcher(engine, platform.installation_id)
    kill_engine = None if own_engine is None else lambda: _kill_and_start(own_engine)
    hunter = Hunter(
        platform,
        seed=weather.seed,
        pause_seconds=weather.pause_seconds,
        kill_engine=kill_engine,
    )
    sent = Sender(platform, weather)
    hunter.start()
    sent.start()
    outcome = Outcome()
    try:
        deadline = time.monotonic() + weather.seconds
        while not hunter.round_over or (
            time.monotonic() < deadline and (sent.sending or truth.unfinished(platform))
        ):
            threading.Event().wait(LOOK_SECONDS)
    finally:
        outcome.killed = hunter.stop()
    sent.join()
    _wait_for_calm(platform, outcome)
    outcome.leftovers = _settled(platform, engine)
    if outcome.leftovers["containers"]:
        print("left over:", *truth.left_containers(platform, engine), flush=True)
    _account(platform, outcome, sent=sent, starts=starts.starts())
    return outcome


class Sender:
    """Sends the jobs as a patient client does: what was not answered is sent again by its key."""

    def __init__(self, platform: Platform, weather: Weather) -> None:
        self._platform = platform
        self._weather = weather
        self._thread = threading.Thread(target=self._send_all, name="sender", daemon=True)
        self.accepted: dict[str, str] = {}
        self.cancelled: dict[str, bool] = {}

    @property
    def sending(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _send_all(self) -> None:
        chance = random.Random(self._weather.seed)
        kinds = ["model"] * self._weather.jobs
        for place in chance.sample(range(len(kinds)), int(len(kinds) * self._weather.failing)):
            kinds[place] = "fails"
        for place in chance.sample(range(len(kinds)), self._weather.to_cancel):
            kinds[place] = "waits"
        for kind in kinds:
            job_id = self._send(kind)
            self.accepted[job_id] = kind
        for job_id, kind in self.accepted.items():
            if kind == "waits":
                self._cancel(job_id)

    def _send(self, kind: str) -> str:
        script = {"model": LOGS_A_MODEL, "fails": FAILS, "waits": WAITS}[kind]
        body = {
            "script_name": f"{kind}.py",
            "script_content": script,
            "experiment_name": "storm",
            "model_name": f"storm-{len(self.accepted) % 5}",
        }
        answer = self._until_answered("/mlops/training/upload", body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def _cancel(self, job_id: str) -> None:
        answer = self._until_answered(f"/mlops/training/jobs/{job_id}/cancel", None)
        assert answer.status_code in (200, 202), answer.text
        self.cancelled[job_id] = answer.status_code == 200

    def _until_answered(self, path: str, body: Any) -> requests.Response:
        def post() -> requests.Response | None:
            try:
                answer = self._platform.post(path, body)
            except requests.RequestException:
                return None
            return answer if answer.status_code < 500 else None

        return wait_for(post, seconds=120, what=f"an answer to POST {path}")


def _kill_and_start(own: OwnEngine) -> None:
    own.kill()
    own.start()


def _wait_for_calm(platform: Platform, outcome: Outcome) -> None:
    """Nothing is killed any more: every job has to come to its end, as fast as they run."""
    unfinished = truth.unfinished(platform)
    try:
        while unfinished:
            fewer = partial(_fewer_unfinished, platform, len(unfinished))
            wait_for(fewer, seconds=CALM_SECONDS, what="the end of another job")
            unfinished = truth.unfinished(platform)
    except AssertionError:
        outcome.wrong += [f"no end: {job}" for job in unfinished]


def _fewer_unfinished(platform: Platform, count: int) -> bool:
    return len(truth.unfinished(platform)) < count


def _settled(platform: Platform, engine: Engine) -> Mapping[str, int]:
    """A user who could not be deleted while MLflow was away goes a little later."""

    def left() -> dict[str, int]:
        return truth.leftovers(platform, engine)

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not any(left().values()), seconds=SETTLE_SECONDS, what="nothing left")
    return left()


def _account(platform: Platform, outcome: Outcome, *, sent: Sender, starts: Counter[str]) -> None:
    jobs = truth.jobs(platform)
    attempts = truth.attempts(platform)
    outcome.jobs = len(jobs)
    outcome.ends = dict(Counter(f"{job['status']} {job['reason']}" for job in jobs))
    per_job = Counter(attempt.job_id for attempt in attempts)
    outcome.attempts = dict(Counter(f"{number} attempts" for number in per_job.values()))
    last = {attempt.job_id: attempt.id for attempt in attempts}
    outcome.retried_for = dict(
        Counter(attempt.reason for attempt in attempts if last[attempt.job_id] != attempt.id)
    )
    outcome.longest_seconds = max(map(_seconds, jobs), default=0.0)
    outcome.wrong += [f"left over: {n} {kind}" for kind, n in outcome.leftovers.items() if n]
    outcome.wrong += _wrong_jobs(jobs, sent)
    for attempt in attempts:
        outcome.wrong += _wrong_attempt(
            attempt, starts[str(attempt.id)] + starts[attempt.container_id]
        )


def _wrong_jobs(jobs: list[dict[str, Any]], sent: Sender) -> list[str]:
    kept = {job["id"]: job for job in jobs}
    wrong = [f"lost: {one}" for one in sent.accepted if one.replace("-", "") not in kept]
    for job_id, kind in sent.accepted.items():
        job = kept.get(job_id.replace("-", ""))
        if job is not None:
            wrong += _wrong_end(job, kind)
    return wrong


def _wrong_end(job: dict[str, Any], kind: str) -> list[str]:
    """What the client may not see, whatever was killed."""
    told = f"{kind} job {job['id']} is {job['status']} {job['reason']}: {job['error']}"
    expected = {"model": ("completed", "succeeded"), "fails": ("failed", "script_error")}
    status, reason = expected.get(kind, ("cancelled", "cancelled"))
    if (job["status"], job["reason"]) == (status, reason):
        return [f"no version: {told}"] if kind == "model" and not job["model_version"] else []
    # Each of its attempts was hit: the end says so, and whose fault it is.
    return [] if job["reason"] in OURS and job["attempts"] == MAX_ATTEMPTS else [told]


def _wrong_attempt(attempt: truth.AttemptRow, starts: int) -> list[str]:
    told = f"attempt {attempt.number} of {attempt.job_id} (exit {attempt.exit_code})"
    begun = [line for line in attempt.log.splitlines() if line.startswith("begin ")]
    ended = [line for line in attempt.log.splitlines() if line.startswith("end ")]
    wrong = []
    if starts > 1 or len(begun) > 1:
        wrong.append(f"run twice: {told}, {starts} starts, {len(begun)} first lines")
    # What a killed engine lost of a script that ended meanwhile is gone; it must be known to be.
    ended_by_itself = attempt.exit_code in BY_ITSELF and attempt.said_to_be_whole
    if ended_by_itself and (len(begun), len(ended)) != (1, 1):
        wrong.append(f"log not whole: {told}: {attempt.log[-300:]!r}")
    return wrong


def _seconds(job: dict[str, Any]) -> float:
    if not job["completed_at"]:
        return 0.0
    first, last = (datetime.fromisoformat(job[name]) for name in ("created_at", "completed_at"))
    return round((last - first).total_seconds(), 1)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {count}" for name, count in sorted(value.items())) or "none"
    return str(value)

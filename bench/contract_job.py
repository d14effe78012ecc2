"""Jobs as a client sees them, and the same script run by hand."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from bench.by_hand import Recipe, started
from deploy.trial import (
    CALL_SECONDS,
    CONTRACT_SCRIPT,
    JOB_SECONDS,
    TERMINAL,
    Platform,
    TrialFailed,
    wait_for,
)
from sandbox.engine import Engine

MODEL = "bench"
LOOK_SECONDS = 0.03


@dataclass(frozen=True)
class Followed:
    """A job that completed: seconds from the answer 202 to its end, and seconds in each phase."""

    version: str
    seconds: float
    phases: dict[str, float]
    seen_at: float


def run_job(platform: Platform, *, on_training: Callable[[], None] = lambda: None) -> Followed:
    """Sends the contract's example and watches it. Raises TrialFailed when it does not complete.

    `on_training` is called once, while the job's container runs.
    """
    job_id = platform.upload(
        CONTRACT_SCRIPT.read_text(),
        experiment_name=MODEL,
        model_name=MODEL,
        requirements=["scikit-learn"],
    )
    accepted = time.monotonic()
    first_seen: dict[str, float] = {}
    # One connection: what is measured is the job, not the client.
    with requests.Session() as session:

        def look() -> dict[str, Any] | None:
            answer = session.get(
                f"{platform.url}/mlops/training/jobs/{job_id}", timeout=CALL_SECONDS
            )
            job = dict(answer.json())
            if job["phase"] not in first_seen:
                first_seen[job["phase"]] = time.monotonic()
                if job["phase"] == "training":
                    on_training()
            return job if job["status"] in TERMINAL else None

        job = wait_for(look, seconds=JOB_SECONDS, what=f"the end of {job_id}", every=LOOK_SECONDS)
    seen_at = time.monotonic()
    if job["status"] != "completed":
        raise TrialFailed(f"The contract's example failed: {job['error']}\n{job['logs']}")
    return Followed(
        version=job["model_version"],
        seconds=seen_at - accepted,
        phases=_durations(first_seen, accepted=accepted),
        seen_at=seen_at,
    )


def _durations(first_seen: dict[str, float], *, accepted: float) -> dict[str, float]:
    """Seconds from the first sight of each phase to that of the next; the first begins at 202."""
    moments = [accepted, *list(first_seen.values())[1:]]
    spans = itertools.pairwise(moments)
    # The last one seen is the end, which has no duration.
    return {name: end - begin for name, (begin, end) in zip(first_seen, spans, strict=False)}


class ScriptByHand:
    """The contract's example in a container of its own, against the same MLflow server."""

    def __init__(
        self,
        *,
        engine: Engine,
        recipe: Recipe,
        installation_id: str,
        folder: Path,
        mlflow_password: str,
    ) -> None:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        script = folder / "train.py"
        script.write_text(CONTRACT_SCRIPT.read_text())
        script.chmod(0o644)
        self._engine = engine
        self._installation_id = installation_id
        url = recipe.variables["MLFLOW_TRACKING_URI"]
        experiment = _new_experiment(url, "bench-by-hand", password=mlflow_password)
        self._recipe = recipe.with_script(script).with_variables(
            MLFLOW_TRACKING_USERNAME="admin",
            MLFLOW_TRACKING_PASSWORD=mlflow_password,
            MLFLOW_EXPERIMENT_ID=experiment,
            MLFLOW_RUN_CONTEXT='{"job_id": "by-hand"}',
        )

    def run(self) -> float:
        """Seconds to create, start and end. Raises TrialFailed when the script fails."""
        begin = time.monotonic()
        with started(
            self._engine, self._recipe, installation_id=self._installation_id
        ) as container:
            code = self._engine.wait(container, timeout_seconds=JOB_SECONDS)
            seconds = time.monotonic() - begin
            if code:
                raise TrialFailed(self._engine.read_logs(container).decode(errors="replace"))
        return seconds


def _new_experiment(url: str, name: str, *, password: str) -> str:
    answer = requests.post(
        f"{url}/api/2.0/mlflow/experiments/create",
        json={"name": name},
        auth=("admin", password),
        timeout=CALL_SECONDS,
    )
    answer.raise_for_status()
    return str(answer.json()["experiment_id"])

"""No setting weakens a sandbox: whatever an operator sets, the same fields hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SETTINGS = (CHECKOUT / "mlops_site" / "settings.py").read_text()
VARIABLES = sorted(set(re.findall(r'"(MLOPS_[A-Z_]+)"', SETTINGS)) - {"MLOPS_HOME"})
SHOW = """
import django, json
from pathlib import Path
django.setup()
from sandbox.environments import Environment
from training.containers import spec_of
from training.models import Attempt, Job
job = Job(script_name="a.py", timeout_seconds=60, memory_mb=256, cpus=1.0, network="internet")
environment = Environment(key="k", path=Path("/e"), lock="")
attempt = Attempt(pk=1, job=job, number=1)
spec = spec_of(attempt, environment=environment, platform_folder=Path("/p"))
host = spec.create_arguments()["HostConfig"]
for ours in ("Mounts", "NetworkMode", "Tmpfs", "PidsLimit", "Dns"):
    del host[ours]
print(json.dumps([host, spec.user], sort_keys=True))
"""


def job_under(tmp_path: Path, **variables: str) -> str:
    """What a job's container is asked to be, by a process with these settings."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CHECKOUT),
        "DJANGO_SETTINGS_MODULE": "mlops_site.settings",
        "MLOPS_HOME": str(tmp_path),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True
    )
    return done.stdout or done.stderr


def test_no_setting_changes_what_a_container_may(tmp_path: Path):
    words = dict.fromkeys(VARIABLES, "1")
    words |= {
        "MLOPS_JOB_NETWORK": "none",
        "MLOPS_JOB_NETWORK_MAX": "none",
        "MLOPS_LOG_LEVEL": "INFO",
    }
    words |= {"MLOPS_JOBS_NETWORK": "n", "MLOPS_OFFLINE_NETWORK": "n", "MLOPS_JOB_PROXY": ""}
    assert "CapDrop" in job_under(tmp_path)
    assert job_under(tmp_path, **words) == job_under(tmp_path)


@pytest.mark.parametrize(
    "setting",
    ["MLOPS_JOB_PIDS", "MLOPS_JOB_MEMORY_MB", "MLOPS_JOB_CPUS", "MLOPS_JOB_SCRATCH_MB"],
)
def test_a_limit_cannot_be_set_to_none_at_all(tmp_path: Path, setting: str):
    assert f"{setting}=0: choose a number above 0." in job_under(tmp_path, **{setting: "0"})


@pytest.mark.parametrize("network", ["host", "bridge", "container:mlflow"])
def test_jobs_cannot_be_put_on_somebody_elses_network(tmp_path: Path, network: str):
    said = job_under(tmp_path, MLOPS_JOBS_NETWORK=network)
    assert f"A container cannot be on the network '{network}'" in said


def test_a_job_runs_under_the_runtime_that_the_operator_names(tmp_path: Path):
    assert '"Runtime": "runc"' in job_under(tmp_path)
    assert '"Runtime": "runsc"' in job_under(tmp_path, SANDBOX_RUNTIME="runsc")


def test_every_container_that_a_user_has_a_say_in_is_given_the_operators_runtime():
    """Whoever makes one more of them must not leave it out: an engine then takes what it likes."""
    makers = re.compile(r"\b(?:job|waiting|server)_spec\($(.*?)^ *\)$", re.MULTILINE | re.DOTALL)
    rooms = [CHECKOUT / name for name in ("training", "inference")]
    calls = [
        call
        for room in rooms
        for path in room.rglob("*.py")
        for call in makers.findall(path.read_text())
    ]
    assert len(calls) >= 4
    assert [call for call in calls if "runtime=settings.SANDBOX_RUNTIME" not in call] == []

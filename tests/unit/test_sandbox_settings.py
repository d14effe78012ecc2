"""No setting weakens a sandbox: whatever an operator sets, the same fields hold."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
READERS = ("mlops_site/settings.py", "sandbox/build_rules.py")
TEXT = "".join((CHECKOUT / path).read_text() for path in READERS)
VARIABLES = sorted(set(re.findall(r'"(MLOPS_[A-Z_]+)"', TEXT)) - {"MLOPS_HOME"})
# What a number would be no answer to.
WORDS = {
    "MLOPS_JOB_NETWORK": "none",
    "MLOPS_JOB_NETWORK_MAX": "none",
    "MLOPS_LOG_LEVEL": "INFO",
    "MLOPS_JOB_PROXY": "",
    "MLOPS_BUILD_UV_DEFAULT_INDEX": "https://192.0.2.1/simple",
    "MLOPS_BUILD_UV_INDEX_URL": "https://192.0.2.1/simple",
    "MLOPS_BUILD_EXTRA_INDEXES": "https://192.0.2.2/simple",
    "MLOPS_BUILD_WHEELS": "",
    "MLOPS_BUILD_OFFLINE": "",
    "MLOPS_PYTHON_IMAGES": "3.11=n",
    **dict.fromkeys((name for name in VARIABLES if name.endswith("S_NETWORK")), "n"),
    "MLOPS_OFFLINE_NETWORK": "n",
}
# Each kind of container by the way that its container is really made, but for the engine.
SHOW = """
import django, json
from dataclasses import replace
from pathlib import Path
django.setup()
import inference.containers, inference.engine_room, training.engine_room
from django.conf import settings
from sandbox.environments import Environment
from training.containers import spec_of, waiting_spec_of
from training.models import Attempt, Job

class Made(Exception):
    pass

class Engine:
    def create(self, spec):
        raise Made(spec)
    def remove(self, name):
        pass

def made(call, **arguments):
    try:
        call(**arguments)
    except Made as told:
        return told.args[0]

limits = {"memory_mb": 256, "cpus": 1.0, "pids": 64, "scratch_mb": 64}
job = Job(script_name="a.py", timeout_seconds=60, network="internet", **limits)
environment, platform = Environment(key="k", path=Path("/e"), lock=""), Path("/p")
attempt = Attempt(pk=1, job=job, number=1)
folders = {"environment": environment, "platform_folder": platform}
specs = {
    "job": spec_of(attempt, **folders),
    "waiting": waiting_spec_of(1, **folders),
}
for room in (training.engine_room, inference.engine_room):
    room.engine = Engine
    store = room.environments()
    store._steps._containers = replace(store._steps._containers, before=lambda: None)
    store._steps.base = "base"
    store.platform_folder = lambda: platform
    specs[f"build of {room.__name__}"] = made(store.prune_cache)
specs["server"] = made(
    inference.containers.run,
    server_id=1, engine=Engine(), store=store, environment=environment, folder=Path("/m"),
    memory_mb=settings.SERVER_MEMORY_MB, cpus=settings.SERVER_CPUS,
)
shown = {}
for name, spec in specs.items():
    arguments = spec.create_arguments()
    host = arguments["HostConfig"]
    mounts = sorted((each["Target"], each["ReadOnly"]) for each in host.pop("Mounts"))
    sizes = [host.pop(each) for each in ("Memory", "MemorySwap", "CpuQuota", "PidsLimit")]
    assert all(size > 0 for size in sizes) and sizes[0] == sizes[1], sizes
    # How much of each there is, and which network it is, are the operator's to say.
    del host["Dns"], host["NetworkMode"]
    host["Tmpfs"] = {path: options.split(",size=") for path, options in host["Tmpfs"].items()}
    host["Tmpfs"]["/scratch"][1] = host["Tmpfs"]["/scratch"][1].partition("m,")[2]
    shown[name] = [host, mounts, arguments["User"], arguments["OpenStdin"], arguments["Cmd"][:3]]
print(json.dumps(shown, sort_keys=True))
"""


def specs_under(tmp_path: Path, **variables: str) -> str:
    """What each kind of container is asked to be, by a process with these settings."""
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
    usual = specs_under(tmp_path)
    assert set(json.loads(usual)) == {
        *("job", "waiting", "server"),
        *("build of training.engine_room", "build of inference.engine_room"),
    }
    assert specs_under(tmp_path, **{**dict.fromkeys(VARIABLES, "1"), **WORDS}) == usual


@pytest.mark.parametrize(
    "setting",
    [
        *("MLOPS_JOB_PIDS", "MLOPS_JOB_MEMORY_MB", "MLOPS_JOB_CPUS", "MLOPS_JOB_SCRATCH_MB"),
        *("MLOPS_SERVER_PIDS", "MLOPS_SERVER_MEMORY_MB", "MLOPS_SERVER_CPUS"),
    ],
)
def test_a_limit_cannot_be_set_to_none_at_all(tmp_path: Path, setting: str):
    assert f"{setting}=0: choose a number above 0." in specs_under(tmp_path, **{setting: "0"})


@pytest.mark.parametrize("network", ["host", "bridge", "container:mlflow"])
def test_jobs_cannot_be_put_on_somebody_elses_network(tmp_path: Path, network: str):
    said = specs_under(tmp_path, MLOPS_JOBS_NETWORK=network)
    assert f"A container cannot be on the network '{network}'" in said


def test_a_maximum_below_the_default_is_named_with_the_remedy(tmp_path: Path):
    said = specs_under(tmp_path, MLOPS_JOB_MEMORY_MB_MAX="512")
    assert "MLOPS_JOB_MEMORY_MB_MAX=512: choose a number that is not below" in said


def test_a_job_runs_under_the_runtime_that_the_operator_names(tmp_path: Path):
    assert '"Runtime": "runc"' in specs_under(tmp_path)
    assert '"Runtime": "runsc"' in specs_under(tmp_path, SANDBOX_RUNTIME="runsc")


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

"""What a job may ask for, what it is counted with, and that no two jobs have the same GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from sandbox.environments import Environment
from sandbox.inspection import gpus_in
from tests.fixtures.sent_jobs import SCRIPT, a_job, claimed, ended
from training import containers
from training.limits import JobLimits, job_bounds
from training.models import EngineCapacity, Gpu, Job
from training.services import claim, gpus
from training.states import Phase, Status

ASKED = {"memory_mb": 512, "cpus": 0.5, "pids": 32, "scratch_mb": 64, "gpus": 1}


@pytest.fixture
def two_gpus(room: EngineCapacity) -> EngineCapacity:
    gpus.note_devices("local", ["0", "1"])
    return room


def sent(api: Client, **asked: Any) -> Any:
    body = {"script_name": "train.py", "script_content": SCRIPT, **asked}
    return api.post("/mlops/training/upload", json.dumps(body), content_type="application/json")


def limited(**asked: Any) -> Job:
    usual = {"memory_mb": 256, "cpus": 0.5, "pids": 64, "scratch_mb": 64}
    return a_job(limits=JobLimits(**{**usual, **asked}))


def test_what_was_asked_for_is_kept_and_told(api: Client, two_gpus):
    job_id = sent(api, **ASKED).json()["job_id"]
    told = api.get(f"/mlops/training/jobs/{job_id}").json()
    assert {name: told[name] for name in ASKED} == ASKED
    assert JobLimits.of(Job.objects.get(pk=job_id)) == JobLimits(**ASKED)


def test_who_asks_for_nothing_gets_the_operators_defaults(api: Client, room, settings):
    settings.JOB_PIDS = 77
    told = api.get(f"/mlops/training/jobs/{sent(api).json()['job_id']}").json()
    assert (told["memory_mb"], told["pids"], told["gpus"]) == (settings.JOB_MEMORY_MB, 77, 0)


def test_every_limit_is_published_with_default_and_maximum(api: Client, room, settings):
    settings.JOB_MEMORY_MB_MAX = 3000
    told = api.get("/mlops/training/limits").json()["job"]
    assert told["memory_mb"] == {
        "default": 2048,
        "minimum": 64,
        "maximum": 3000,
        "used": None,
        "unit": "MiB",
    }
    assert set(ASKED) <= set(told)
    # Four is what this engine has, whatever the operator allows.
    assert told["cpus"]["maximum"] == room.cpus
    assert told["gpus"]["maximum"] == 0


def test_more_than_the_engine_has_is_refused_at_once(api: Client, room, settings):
    settings.JOB_MEMORY_MB_MAX = 10**6
    answer = sent(api, memory_mb=room.memory_mb)
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["field"] == "memory_mb"
    assert str(room.memory_mb - settings.RESERVED_MEMORY_MB) in error["hint"]


def test_a_gpu_on_an_engine_without_one_is_refused_at_once(api: Client, room):
    answer = sent(api, gpus=1)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["detail"] == "There is no GPU here that jobs may have."


def test_the_dry_run_tells_the_limits_too(api: Client, two_gpus):
    body = {"script_name": "train.py", "script_content": SCRIPT, **ASKED}
    told = api.post("/mlops/training/validate", json.dumps(body), content_type="application/json")
    assert {name: told.json()["limits"][name] for name in ASKED} == ASKED


def test_a_rerun_keeps_what_the_job_had_as_far_as_it_is_allowed_by_now(api: Client, room, settings):
    first = limited(memory_mb=4096, pids=64)
    settings.JOB_MEMORY_MB_MAX = 3000
    path = f"/mlops/training/jobs/{first.pk}/rerun"
    again = api.post(path, json.dumps({"cpus": 2}), content_type="application/json").json()
    second = Job.objects.get(pk=again["job_id"])
    assert (second.memory_mb, second.cpus, second.pids) == (3000, 2, 64)
    refused = api.post(path, json.dumps({"pids": 10**9}), content_type="application/json")
    assert refused.json()["errors"][0]["field"] == "pids"


def test_a_job_is_counted_with_what_it_asked_for(room):
    limited(memory_mb=1000, cpus=1.5), claimed()
    left = claim.room_left()
    assert (left.memory_mb, left.cpus) == (16_000 - 1024 - 1000, 2.5)
    assert left.why_not(limited(cpus=3)) == "cpus"
    assert left.why_not(limited(memory_mb=14_000)) == "memory"


def test_tenths_of_a_processor_fill_it_to_the_last_one(room):
    for _ in range(39):
        limited(memory_mb=64, cpus=0.1), claimed()
        Job.objects.filter(status=Status.RUNNING).update(phase=Phase.TRAINING)
    assert claim.room_left().why_not(limited(memory_mb=64, cpus=0.1)) == ""


def test_what_has_other_limits_gets_them_in_a_waiting_container_only_where_that_is_possible(
    db,
):
    usual = JobLimits.default(job_bounds())
    for asked, fits in (
        ({}, True),
        ({"memory_mb": usual.memory_mb + 1}, True),
        ({"pids": usual.pids + 1}, True),
        ({"cpus": 1.2}, True),
        ({"memory_mb": usual.memory_mb - 1}, False),
        ({"pids": usual.pids - 1}, False),
        ({"scratch_mb": usual.scratch_mb + 1}, False),
        ({"cpus": 4.0}, False),
        ({"gpus": 1}, False),
    ):
        values = {**vars(usual), **asked}
        assert containers.fits_waiting(Job(network="internet", **values)) is fits, asked


def test_a_job_tells_how_it_was_locked_down_in_the_engines_own_words(api: Client, room):
    limited()
    attempt = claimed()
    path = f"/mlops/training/jobs/{attempt.job_id}/sandbox"
    assert api.get(path).json()["attempts"] == [{"attempt": 1, "readback": None}]
    attempt.readback = {"CapDrop": ["ALL"], "PidsLimit": 64}
    attempt.save()
    assert api.get(path).json() == {
        "job_id": str(attempt.job_id),
        "attempts": [{"attempt": 1, "readback": {"CapDrop": ["ALL"], "PidsLimit": 64}}],
    }
    assert api.get("/mlops/training/jobs/none/sandbox").status_code == 404


# -- GPUs ----------------------------------------------------------------------------------------
def test_no_two_jobs_have_the_same_gpu(two_gpus):
    limited(gpus=1), limited(gpus=1)
    first, second = claimed(), claimed()
    assert gpus.devices_of(first) == ("0",)
    assert gpus.devices_of(second) == ("1",)


def test_a_job_waits_for_a_gpu_and_holds_up_nobody_who_needs_none(api: Client, two_gpus):
    limited(gpus=2)
    holder = claimed()
    waits, runs = limited(gpus=1), limited()
    told = api.get(f"/mlops/training/jobs/{waits.pk}").json()
    assert told["waiting_for"] == "gpus"
    assert claimed().job == runs
    assert claim.claim_next() is None
    ended(holder)
    taken = claimed()
    assert taken.job == waits
    assert gpus.devices_of(taken) == ("0",)


def test_a_gpu_that_is_gone_is_given_to_nobody_and_kept_for_who_has_it(two_gpus):
    limited(gpus=1)
    holder = claimed()
    gpus.note_devices("local", ["1"])
    assert gpus.devices_of(holder) == ("0",)
    ended(holder)
    gpus.note_devices("local", ["1"])
    assert list(Gpu.objects.values_list("device", flat=True)) == ["1"]


def test_the_container_is_asked_for_with_the_very_devices(two_gpus):
    limited(gpus=2)
    environment = Environment(key="k", path=Path("/e"), lock="")
    spec = containers.spec_of(claimed(), environment=environment, platform_folder=Path("/p"))
    asked = spec.create_arguments()["HostConfig"]["DeviceRequests"]
    assert asked == [
        {
            "Driver": "",
            "Count": 0,
            "DeviceIDs": ["0", "1"],
            "Capabilities": [["gpu"]],
            "Options": {},
        }
    ]


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({}, ()),
        ({"GenericResources": None, "DiscoveredDevices": None}, ()),
        (
            {
                "GenericResources": [
                    {"NamedResourceSpec": {"Kind": "NVIDIA-GPU", "Value": "GPU-a"}},
                    {"DiscreteResourceSpec": {"Kind": "SSD", "Value": 3}},
                ]
            },
            ("GPU-a",),
        ),
        (
            {
                "DiscoveredDevices": [
                    {"Source": "cdi", "ID": "nvidia.com/gpu=0"},
                    {"Source": "cdi", "ID": "nvidia.com/gpu=all"},
                    {"Source": "cdi", "ID": "vendor.com/net=1"},
                ]
            },
            ("nvidia.com/gpu=0",),
        ),
    ],
)
def test_an_engine_names_its_gpus(info, found):
    assert gpus_in(info) == found

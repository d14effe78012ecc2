"""The console's page of one job: why it ended so, what may be done, how it went, what it was."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.fixtures.pages import piece, words
from tests.fixtures.people import GROUPS, somebody
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training import logs
from training.models import Attempt, Job, JobEvent
from training.services.cancel import cancel
from training.services.finish import end
from training.states import EndReason, Phase, Reason

pytestmark = pytest.mark.django_db
ASK, ACT = reverse("admin:training_job_ask"), reverse("admin:training_job_act")
STATIC = Path(settings.BASE_DIR) / "mlops_site" / "static" / "mlops_site" / "console"
EVIL = "<script>alert(1)</script>\u202e"
LOCKED_DOWN = {
    "User": "runner",
    "CapDrop": ["ALL"],
    "CapAdd": None,
    "SecurityOpt": ["no-new-privileges", "seccomp=ours:e277c6b65b00"],
    "ReadonlyRootfs": True,
    "Privileged": False,
    "NetworkMode": "mlops-1a2b3c-jobs",
    "IpcMode": "private",
    "PidMode": "",
    "UTSMode": "",
    "UsernsMode": "",
    "Memory": 2147483648,
    "MemorySwap": 2147483648,
    "CpuQuota": 100000,
    "CpuPeriod": 100000,
    "PidsLimit": 256,
    "Devices": None,
    "DeviceRequests": None,
    "Mounts": [{"target": "/job", "read_only": True}],
}


@pytest.fixture
def operator() -> Client:
    return somebody("operator")


def address(job: Job) -> str:
    return reverse("admin:training_job_change", args=[job.pk])


def page_of(client: Client, job: Job) -> str:
    answer = client.get(address(job))
    assert answer.status_code == 200
    return answer.content.decode()


def now_of(client: Client, job: Job, *, revision: int = -1) -> str:
    path = reverse("admin:training_job_one_now", args=[job.pk])
    return client.get(f"{path}?revision={revision}").content.decode()


def running(phase: Phase = Phase.TRAINING, **changed: Any) -> Job:
    """There has to be room."""
    job = a_job(**changed)
    claimed()
    Job.objects.filter(pk=job.pk).update(phase=phase)
    job.refresh_from_db()
    return job


def failed(reason: Reason = Reason.MISSING_MODULE, *, sentence: str = "", **changed: Any) -> Job:
    job = a_job(**changed)
    end(claimed(), EndReason.of(reason, sentence=sentence))
    job.refresh_from_db()
    return job


def went_through(job: Job, *phases: tuple[Phase, float]) -> None:
    """Its timeline: each phase with its seconds, up to now; the last one has an end if the job has.

    `seconds` of the last one count up to `completed_at`, or to now.
    """
    JobEvent.objects.filter(job=job).delete()
    at = timezone.now() - timedelta(seconds=sum(seconds for _, seconds in phases))
    for phase, seconds in phases:
        JobEvent.objects.create(job=job, at=at, name="moved", status=job.status, phase=phase)
        at += timedelta(seconds=seconds)
    if job.completed_at is not None:
        Job.objects.filter(pk=job.pk).update(completed_at=at)
        JobEvent.objects.create(job=job, at=at, name="x", status=job.status, phase=Phase.ENDED)


# -- the answer ------------------------------------------------------------------------------------
def test_a_failed_job_says_first_why_and_what_to_do(operator: Client, room: Any):
    page = words(page_of(operator, failed(sentence="No module named 'xgboost'.")))
    assert "train.py Failed" in page
    assert "Missing module No module named 'xgboost'. Hint: Add the package" in page
    assert "Fault the script's, not tried again by itself" in page


def test_a_waiting_job_says_why_it_waits(operator: Client, room: Any):
    a_job(script_name="first.py")
    page = words(page_of(operator, a_job(script_name="second.py")))
    assert "second.py Queued" in page and ": 2nd in line" in page


def test_a_running_job_says_its_phase_and_what_it_usually_takes(operator: Client, room: Any):
    before = a_job()
    ended(claimed(), Reason.SUCCEEDED, model_version="1")
    start = timezone.now() - timedelta(hours=1)
    Job.objects.filter(pk=before.pk).update(
        started_at=start, completed_at=start + timedelta(seconds=190)
    )
    page = words(page_of(operator, running()))
    assert "train.py Training" in page and "of usually 3m 10s" in page


def test_a_completed_job_leads_to_its_run_and_its_model_version(operator: Client, room: Any):
    job = a_job()
    ended(claimed(), Reason.SUCCEEDED, run_id="6e0c9d1b", model_version="7")
    page = page_of(operator, job)
    assert "/#/runs/6e0c9d1b" in page and "/admin/models/churn_predictor/versions/7/" in page
    assert "churn_predictor v7" in words(page) and 'class="note' not in page


def test_jobs_that_run_each_other_again_are_linked(operator: Client, room: Any):
    first = a_job()
    operator.post(ACT, {"action": "rerun", "job": [str(first.pk)]})
    second = first.reruns.get()
    assert address(second) in piece(page_of(operator, first), "job-facts")
    assert address(first) in piece(page_of(operator, second), "job-facts")


@pytest.mark.parametrize("job_id", ["7ad31c90-41e2-4f5b-8a6d-0d8b2c19e7f4", "nothing", "a/b"])
def test_a_job_that_there_is_none_of_is_not_found(operator: Client, job_id: str):
    answer = operator.get(f"/admin/training/job/{job_id}/change/")
    assert answer.status_code == 404 and "All jobs" in answer.content.decode()


def test_a_job_that_was_deleted_meanwhile_is_not_found_by_what_refreshes(operator: Client):
    job = a_job()
    path = reverse("admin:training_job_one_now", args=[job.pk])
    Job.objects.all().delete()
    assert operator.get(path).status_code == 404


# -- what may be done ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("group", "offered"),
    [
        ("viewer", []),
        ("data scientist", ["cancel", "rerun"]),
        ("operator", ["cancel", "rerun", "low", "high"]),
        ("administrator", ["cancel", "rerun", "low", "high"]),
    ],
)
def test_each_group_is_offered_what_it_may_do(group: str, offered: list[str]):
    page = page_of(somebody(group), a_job(owner="olga"))
    assert re.findall(r'name="action" value="(\w+)"', page) == offered


def test_a_button_that_cannot_be_used_says_why(room: Any):
    page = page_of(somebody("data scientist"), running(owner="bob"))
    button = page[page.index('id="do-cancel"') :].partition(">")[0]
    assert "disabled" in button
    assert "This job is not yours: only an operator may cancel it." in words(page)


def test_a_job_that_is_being_stopped_is_not_cancelled_twice(operator: Client, room: Any):
    job = running()
    cancel(job.pk, actor="ada")
    assert "This job is being stopped already." in words(page_of(operator, job))


def test_an_ended_job_can_be_run_again_and_nothing_else(operator: Client, room: Any):
    assert re.findall(r'name="action" value="(\w+)"', page_of(operator, failed())) == ["rerun"]


def test_running_again_from_the_page_leads_to_the_new_job(operator: Client):
    job = a_job()
    sent = {"action": "rerun", "job": [str(job.pk)], "page": str(job.pk)}
    asked = operator.post(ASK, sent, headers={"HX-Request": "true"}).content.decode()
    assert "Rerun 1 job?" in words(asked) and f'name="page" value="{job.pk}"' in asked
    answer = operator.post(ACT, sent)
    assert answer.headers["Location"] == address(job.reruns.get())


def test_cancelling_from_the_page_comes_back_to_it(operator: Client):
    job = a_job()
    sent = {"action": "cancel", "job": [str(job.pk)], "page": str(job.pk)}
    answer = operator.post(ACT, sent, follow=True)
    assert answer.redirect_chain[0][0] == address(job)
    assert "1 job cancelled or being stopped." in words(answer.content.decode())


@pytest.mark.parametrize("page", ["//evil.example", "https://evil.example/", "../../x"])
def test_whatever_page_was_sent_an_act_leads_into_the_console(operator: Client, page: str):
    sent = {"action": "cancel", "job": [str(a_job().pk)], "page": page}
    assert operator.post(ACT, sent).headers["Location"] == reverse("admin:training_job_changelist")


# -- how it went -----------------------------------------------------------------------------------
def test_each_phase_has_its_seconds_and_its_part_of_the_bar(operator: Client, room: Any):
    job = failed(Reason.SCRIPT_ERROR)
    went_through(
        job,
        (Phase.WAITING, 10),
        (Phase.BUILDING_ENVIRONMENT, 20),
        (Phase.STARTING, 10),
        (Phase.TRAINING, 60),
    )
    phases = piece(page_of(operator, job), "job-phases")
    told = "Waited 10s Environment 20s Start 10s Training 1m 0s Register skipped"
    assert words(phases).endswith(told)
    assert re.findall(r'class="ph-(\w+)" x="([\d.]+)%" width="([\d.]+)%"', phases) == [
        ("wait", "0.0", "10.0"),
        ("done", "10.0", "20.0"),
        ("done", "30.0", "10.0"),
        ("failed", "40.0", "60.0"),
    ]


def test_a_running_phase_grows_and_those_to_come_are_not_there_yet(operator: Client, room: Any):
    job = running()
    went_through(job, (Phase.WAITING, 1), (Phase.TRAINING, 30))
    phases = piece(page_of(operator, job), "job-phases")
    assert re.search(r"<b>Training</b><span><time [^>]*data-since>30s", phases)
    assert words(phases).endswith("Register not yet") and 'class="ph-now"' in phases


def test_a_job_that_was_tried_twice_shows_both_tries(operator: Client, room: Any):
    job = a_job()
    end(claimed(), EndReason.of(Reason.WORKER_LOST))
    Job.objects.update(not_before=None)
    end(claimed(), EndReason.of(Reason.SCRIPT_ERROR))
    job.refresh_from_db()
    attempts = words(piece(page_of(operator, job), "job-attempts"))
    assert "1 Worker lost" in attempts and "2 Script error" in attempts


def test_what_was_used_stands_beside_what_may_be(operator: Client, room: Any):
    job = failed()
    began = timezone.now() - timedelta(seconds=90)
    Attempt.objects.update(
        peak_memory_bytes=512 * 2**20,
        cpu_seconds=30,
        container_started_at=began,
        container_ended_at=began + timedelta(seconds=60),
    )
    used = piece(page_of(operator, job), "job-used")
    assert f"512 MB of {job.memory_mb // 1024}.0 GB" in words(used)
    assert "0.50 of 1" in words(used) and "1m 0s of 5m 0s" in words(used)
    assert "style=" not in used


# -- refreshing ------------------------------------------------------------------------------------
def test_a_job_that_is_alive_is_asked_for_again_and_an_ended_one_never(operator: Client, room: Any):
    job = running()
    for page in (page_of(operator, job), now_of(operator, job)):
        assert 'hx-trigger="refresh"' in page and 'data-refresh="2"' in page
    end(Attempt.objects.get(job=job), EndReason.of(Reason.SUCCEEDED))
    for page in (page_of(operator, job), now_of(operator, job)):
        assert "data-refresh" not in page and 'hx-trigger="refresh"' not in page


def test_a_refresh_replaces_the_pieces_of_the_page_by_their_ids(operator: Client, room: Any):
    job = running()
    page, now = page_of(operator, job), now_of(operator, job)
    for name in re.findall(r'id="([\w-]+)"[^>]* hx-swap-oob="true"', now):
        assert f'id="{name}"' in page
    assert "<title>Training · train.py" in now and 'id="job-sandbox"' in now


def test_the_focus_outlives_a_refresh(operator: Client, room: Any):
    """htmx finds what had it by its id."""
    job = running()
    Job.objects.update(environment_key="aa", run_id="bb", model_version="1")
    now = now_of(operator, job, revision=job.revision)
    assert all(" id=" in tag for tag in re.findall(r"<(?:a|button) [^>]*>", now))


def test_what_only_a_new_state_changes_is_not_sent_every_time(operator: Client, room: Any):
    job = running()
    now = now_of(operator, job, revision=job.revision)
    assert 'id="job-phases"' in now
    assert 'id="job-sandbox"' not in now and 'id="job-environment"' not in now


# -- the log, the script, and what it ran in -------------------------------------------------------
def test_the_log_is_read_from_the_api_and_its_parts_are_told_apart(operator: Client, room: Any):
    job = a_job()
    attempt = claimed()
    logs.append(attempt, "build", offset=0, data=b"Resolved 41 packages\n")
    logs.append(attempt, "run", offset=0, data=EVIL.encode())
    page = page_of(operator, job)
    assert f'data-log="/mlops/training/jobs/{job.pk}/logs"' in page
    size = 21 + len(EVIL.encode())
    assert f'data-parts="0 Environment;21 Run" data-size="{size}" data-live>' in page
    assert "Resolved 41" not in page and "<script>alert" not in page


def test_the_script_has_a_number_for_each_line(operator: Client):
    job = a_job(script="import mlflow\r\n\r\nprint('<b>')\n")
    page = page_of(operator, job)
    assert '<pre class="numbers" aria-hidden="true">1\n2\n3</pre>' in page
    assert "<pre data-python>\nimport mlflow\n\nprint(&#x27;&lt;b&gt;&#x27;)\n</pre>" in page


def test_what_only_looks_like_the_end_of_a_line_gets_no_number(operator: Client):
    job = a_job()
    Job.objects.update(script="a = '\u2028'\x0c\nb = 1")
    page = page_of(operator, job)
    assert 'aria-hidden="true">1\n2</pre><pre data-python>\na = ' in page
    assert "a = &#x27;\\u2028&#x27;\\u000c\nb = 1</pre>" in page


def test_variables_are_named_and_never_shown(operator: Client):
    job = a_job(environment=(("DB_PASSWORD", "hunter2"),))
    for page in (page_of(operator, job), now_of(operator, job)):
        assert "DB_PASSWORD" in page and "hunter2" not in page


def test_requirements_stand_beside_what_they_were_resolved_to(operator: Client):
    job = a_job(requirements=("scikit-learn",))
    Job.objects.update(environment_lock="numpy==2.1.3 \\\n  --hash=sha256:aa\nscipy==1.14.1\n")
    page = words(piece(page_of(operator, job), "job-environment"))
    assert "scikit-learn" in page and "Resolved to 2 packages numpy==2.1.3 scipy==1.14.1" in page


def test_the_sandbox_is_a_checklist_of_what_the_engine_said(operator: Client, room: Any):
    job = running()
    Attempt.objects.update(readback=LOCKED_DOWN)
    page = words(piece(page_of(operator, job), "job-sandbox"))
    assert "13 of 13" in page and "Does not hold" not in page
    assert "Memory is bounded 2.0 GB, no swap" in page


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("User", "root", "Does not run as root root"),
        ("CapAdd", ["SYS_ADMIN"], "Has no capabilities SYS_ADMIN"),
        ("SecurityOpt", ["no-new-privileges", "seccomp=unconfined"], "System calls"),
        ("MemorySwap", -1, "Memory is bounded 2.0 GB, with swap"),
        ("NetworkMode", "host", "Has a network of its own host"),
        ("PidMode", "host", "Shares no namespace with the host Pid"),
        ("Mounts", [{"target": "/etc", "read_only": False}], "read-only /etc"),
        ("PidsLimit", None, "Processes are bounded no limit"),
    ],
)
def test_what_does_not_hold_is_said(operator: Client, room: Any, field: str, value: Any, told: str):
    job = running()
    Attempt.objects.update(readback={**LOCKED_DOWN, field: value})
    page = words(piece(page_of(operator, job), "job-sandbox"))
    assert "12 of 13" in page and re.search(rf"Does not hold: .*{re.escape(told)}", page)


# -- strangers, rights, cost -----------------------------------------------------------------------
def test_what_a_stranger_wrote_is_text(operator: Client, room: Any):
    job = failed(
        sentence=EVIL,
        experiment_name=EVIL,
        model_name=EVIL,
        owner=EVIL,
        script=EVIL,
        requirements=(EVIL,),
        environment=((EVIL, EVIL),),
        tags=((EVIL, EVIL),),
    )
    Job.objects.update(
        script_name=EVIL, run_id=EVIL, model_version="<b>\u202e", hint=EVIL, environment_lock=EVIL
    )
    Attempt.objects.update(readback={**LOCKED_DOWN, "User": EVIL, "NetworkMode": EVIL})
    for page in (page_of(operator, job), now_of(operator, job)):
        assert "<script>alert" not in page and "<b>\\u202e" not in page
        assert "\u202e" not in page
        assert not re.search(r"<style|style=|\son\w+=|javascript:|hx-on", page)


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_reads_a_job_and_nobody_else_does(group: str):
    job = a_job()
    assert somebody(group).get(address(job)).status_code == 200
    assert somebody(name="nobody").get(address(job)).status_code == 302


def test_a_page_holds_no_script_of_its_own_and_names_icons_that_there_are(operator: Client):
    page = page_of(operator, a_job())
    assert all("src=" in tag for tag in re.findall(r"<script([^>]*)>", page))
    known = set(re.findall(r'<symbol id="(\w+)"', (STATIC / "icons.svg").read_text()))
    assert set(re.findall(r"icons\.svg#([\w-]+)", page)) <= known


@pytest.mark.parametrize("state", ["queued", "running", "failed"])
def test_a_page_asks_as_often_for_a_long_story_as_for_a_short_one(
    operator: Client, room: Any, state: str
):
    job = {"queued": a_job, "running": running, "failed": failed}[state]()

    def cost() -> list[int]:
        counts = []
        for look in (page_of, now_of):
            with CaptureQueriesContext(connection) as queries:
                look(operator, job)
            counts.append(len(queries))
        return counts

    few = cost()
    for number in range(2, 6):
        attempt = Attempt.objects.create(
            job=job,
            number=number,
            lease_owner="w",
            lease_expires_at=timezone.now(),
            created_at=timezone.now(),
            finished_at=timezone.now(),
            readback=LOCKED_DOWN,
        )
        JobEvent.objects.create(
            job=job, at=timezone.now(), name="x", status=job.status, phase=job.phase
        )
        attempt.log_chunks.create(part="run", offset=0, size=1, data=b"x")
    assert cost() == few
    assert max(few) <= 15


@pytest.mark.parametrize("status", ["queued", "running", "completed", "failed", "cancelled"])
def test_the_tab_tells_the_state_by_an_icon_of_its_own(operator: Client, status: str):
    job = a_job()
    ended = {"completed_at": timezone.now()} if status not in ("queued", "running") else {}
    why = {"reason": "script_error", "error": "It failed."} if status == "failed" else {}
    Job.objects.filter(pk=job.pk).update(status=status, **why, **ended)
    page = page_of(operator, job)
    assert f'data-tab-state="{status}"' in page
    assert f"favicon-{status}.svg" in page
    assert (STATIC.parent / f"favicon-{status}.svg").exists()
    assert ("data-notify" in page) == (status in ("queued", "running"))

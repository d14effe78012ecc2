"""The console's first page: is everything well, what runs and waits, what failed, how it goes."""

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from inference.models import ModelServer
from mlops_site import health
from mlops_site.console.parts import lines_of
from mlops_site.models import QUEUE, SUPERVISOR, WORKER, Heartbeat
from registry.steps import counted
from registry.windows import DAY
from tests.fixtures.people import somebody
from tests.fixtures.plans import plan_of, steps_of
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training import board as boards
from training import day as days
from training.board import LAST_OF_EXPERIMENT, board_of
from training.day import Day, last_day, spread_of
from training.models import Attempt, EngineCapacity, Job, JobTally, SandboxProof
from training.services.claim import look_at_queue, measured_now, room_left, room_of
from training.states import Reason
from training.tallies import STEPS, count_up_to, tallies_over

pytestmark = pytest.mark.django_db
FRAGMENTS = ("/admin/", "/admin/now/", "/admin/day/")


class Mlflow:
    def __init__(self) -> None:
        self.asked = 0

    def available(self, *, timeout_seconds: float) -> bool:
        self.asked += 1
        return True


@pytest.fixture(autouse=True)
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    registry = Mlflow()
    monkeypatch.setattr(health, "model_registry", lambda: registry)
    return registry


@pytest.fixture
def viewer() -> Client:
    return somebody("viewer")


@pytest.fixture
def well(room: EngineCapacity, settings: Any, tmp_path: Any) -> None:
    """Every part works."""
    for name in (WORKER, SUPERVISOR, QUEUE):
        Heartbeat.beat(name)
    now = timezone.now()
    SandboxProof.objects.create(engine="local", checked_at=now, sandbox_checked_at=now)


def text_of(client: Client, path: str = "/admin/") -> str:
    """What one reads there."""
    page = client.get(path).content.decode()
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", page).split()))


def taken(*, seconds: float, job: Job | None = None, **changed: Any) -> Job:
    """A job that runs, and has for so long."""
    job = job or a_job(**changed)
    attempt = claimed()
    assert attempt.job_id == job.pk
    Job.objects.filter(pk=job.pk).update(started_at=timezone.now() - timedelta(seconds=seconds))
    return job


def completed_in(seconds: float, **changed: Any) -> Job:
    job = a_job(**changed)
    ended(claimed(), Reason.SUCCEEDED)
    start = timezone.now() - timedelta(minutes=30)
    Job.objects.filter(pk=job.pk).update(
        started_at=start, completed_at=start + timedelta(seconds=seconds)
    )
    return job


def board() -> Any:
    return board_of(look_at_queue(room_left()), now=timezone.now())


# -- is everything well? ---------------------------------------------------------------------------
def test_a_platform_that_is_well_says_so_in_its_first_line(
    viewer: Client, well: None, monkeypatch: pytest.MonkeyPatch
):
    store = type("Store", (), {"available": True, "feature_views": 1})
    monkeypatch.setattr("mlops_site.console.parts.feature_store_status", lambda: store)
    page = viewer.get("/admin/").content.decode()
    assert "<h1>All 13 parts are well</h1>" in page
    assert "<title>All 13 parts are well · MLOps engine</title>" in page


def test_what_is_unwell_comes_first_with_its_reason_and_what_follows(viewer: Client, well: None):
    Heartbeat.objects.filter(name=WORKER).update(beaten_at=timezone.now() - timedelta(seconds=90))
    lines = lines_of(health.rows_now())
    assert (lines[0].name, lines[0].state) == ("Worker", "failed")
    page = text_of(viewer)
    assert re.search(r"last heard of 9\d s ago: no job is started or finished\.", page)
    assert "It is started again by itself" in page


def test_a_disk_that_is_nearly_full_leads_to_what_takes_it(viewer: Client, well: None):
    EngineCapacity.objects.update(disk_free_mb=1000, short_of="disk")
    page = viewer.get("/admin/").content.decode()
    assert "Disk: 1000 MB free" in page
    assert 'href="/admin/training/builtenvironment/"' in page.split('id="home-jobs"')[0]


def test_a_model_server_that_failed_is_counted_and_led_to(viewer: Client, well: None):
    now = timezone.now()
    ModelServer.objects.create(
        model_name="m",
        version="1",
        status="failed",
        reason="crashed",
        error="it ended",
        created_at=now,
        changed_at=now,
    )
    page = viewer.get("/admin/").content.decode()
    assert "Model servers: 1 failed" in page
    assert "/admin/models/?state=failed" in page


def test_a_platform_that_never_started_is_told_of_without_an_error(viewer: Client):
    page = text_of(viewer)
    assert "The worker has not started yet" in page
    assert "Docker was not measured yet" in page


def test_mlflow_is_asked_once_for_one_page(viewer: Client, mlflow: Mlflow):
    viewer.get("/admin/")
    assert mlflow.asked == 1
    viewer.get("/admin/day/")
    assert mlflow.asked == 1


# -- what runs and waits? --------------------------------------------------------------------------
def test_a_running_job_is_measured_by_what_its_script_usually_takes(room: Any):
    completed_in(100)
    completed_in(140)
    completed_in(5, script_name="other.py")
    taken(seconds=30)
    running = board().running[0]
    assert (running.of, running.percent, running.is_over) == ("of ~2m 0s", 25, False)


def test_one_that_takes_longer_than_usual_is_full_and_says_so(room: Any):
    completed_in(10)
    taken(seconds=30)
    assert (board().running[0].percent, board().running[0].is_over) == (100, True)


def test_a_script_that_never_completed_is_measured_by_its_limit(room: Any):
    taken(seconds=30, timeout=300)
    assert (board().running[0].of, board().running[0].percent) == ("at most 5m 0s", 10)


def test_what_waits_says_why(room: Any):
    taken(seconds=1)
    EngineCapacity.objects.update(memory_mb=4000)
    a_job(owner="bob")
    waits = board().waiting[0]
    assert waits.why == "needs 2.0 GB of memory, 928 MB free"
    a_job(owner="bob")
    EngineCapacity.objects.update(memory_mb=64_000)
    assert [waits.why for waits in board().waiting] == ["is being taken", "2nd in line"]


@pytest.mark.parametrize(
    ("short_of", "told"),
    [
        ("disk", "the disk is nearly full"),
        ("memory", "the host's memory is nearly used up"),
        ("mlflow", "MLflow does not answer"),
        ("network", "the firewall is not proved to hold"),
    ],
)
def test_what_the_host_is_short_of_is_said_of_each_that_waits(room: Any, short_of: str, told: str):
    a_job()
    EngineCapacity.objects.update(short_of=short_of)
    assert board().waiting[0].why == told


def test_a_job_that_is_tried_again_later_says_when(room: Any):
    job = a_job()
    Job.objects.filter(pk=job.pk).update(not_before=timezone.now() + timedelta(seconds=45))
    assert re.fullmatch(r"is tried again in 4[345]s", board().waiting[0].why)


def test_the_oldest_stand_first_and_the_others_are_counted(room: Any):
    jobs = [a_job(script_name=f"n{number}.py") for number in range(8)]
    told = board()
    assert [waits.job.pk for waits in told.waiting] == [job.pk for job in jobs[:5]]
    assert (told.waiting_count, told.waiting_more) == (8, 3)
    assert told.oldest_at == jobs[0].created_at


# -- what failed, and how does it go? --------------------------------------------------------------
def the_day() -> Day:
    """As the supervisor has counted it just now."""
    now = timezone.now()
    count_up_to(now)
    return last_day(tallies_over([DAY], now=now)[DAY], now=now)


def test_failures_are_counted_by_reason_with_the_last_ones_words(viewer: Client, room: Any):
    for reason in (Reason.TIMEOUT, Reason.MISSING_MODULE, Reason.MISSING_MODULE):
        last = a_job()
        ended(claimed(), reason)
    failures = the_day().failures
    assert [(one.words, one.count) for one in failures] == [("Missing module", 2), ("Timeout", 1)]
    assert failures[0].job_id == last.pk
    page = text_of(viewer)
    assert "2 Missing module The script imports a module that is not installed." in page


def test_success_is_a_part_of_what_has_ended(viewer: Client, room: Any):
    for _ in range(3):
        completed_in(60)
    a_job()
    ended(claimed(), Reason.TIMEOUT)
    a_job()
    assert the_day().success_percent == 75.0
    assert "75.0 % 3 of 4, 1 failed, 0 cancelled" in text_of(viewer)


def test_waits_and_durations_are_told_by_their_median_and_the_slowest_of_twenty():
    """As they were counted: to a third of what they are."""
    spread = spread_of(counted([float(number) for number in range(1, 101)], STEPS))
    assert spread.p50 == pytest.approx(50, rel=0.33) and spread.p95 == pytest.approx(95, rel=0.33)
    assert spread_of([]).p95 is None


def test_waits_and_durations_of_a_day_are_told(viewer: Client, room: Any):
    completed_in(60)
    day = the_day()
    assert day.wait.p50 is not None and day.duration.p50 == pytest.approx(60, rel=0.33)
    assert "Duration, median" in text_of(viewer) and "of completed jobs; p95" in text_of(viewer)


def test_a_job_of_yesterday_is_none_of_today(room: Any):
    a_job()
    ended(claimed(), Reason.TIMEOUT)
    assert (the_day().failed, the_day().failures_told) == (1, 1)
    Job.objects.update(created_at=timezone.now() - timedelta(hours=25))
    JobTally.objects.all().delete()
    assert (the_day().failed, the_day().failures_told) == (0, 0)


def test_of_a_day_of_too_many_failures_the_newest_are_told_and_that_it_is_so(
    viewer: Client, room: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(days, "FAILURES_READ", 2)
    for _ in range(3):
        a_job()
        ended(claimed(), Reason.TIMEOUT)
    told = the_day()
    assert (told.failed, told.failures_told, told.failures_are_whole) == (3, 2, False)
    assert "the newest 2 in 24 h" in text_of(viewer)


# -- nothing yet, and nobody's markup --------------------------------------------------------------
def test_a_fresh_installation_teaches_its_first_steps(viewer: Client):
    page = text_of(viewer)
    assert "First steps" in page
    assert "curl -X POST http://testserver/mlops/training/upload" in page
    assert "No job failed in 24 h" in page and "no job has ended" in page


def test_with_a_job_the_first_steps_are_gone(viewer: Client):
    a_job()
    assert "First steps" not in text_of(viewer)


def test_what_a_stranger_wrote_is_text(viewer: Client, room: Any):
    evil = "<img src=x onerror=alert(1)>\u202e"
    a_job(experiment_name=evil, owner=evil)
    a_job(experiment_name="calm")
    ended(claimed(), Reason.SCRIPT_ERROR)
    Job.objects.filter(status="failed").update(error=evil)
    for path in FRAGMENTS:
        page = viewer.get(path).content.decode()
        assert "<img" not in page and "\u202e" not in page, path
    assert "&lt;img src=x onerror=alert(1)&gt;\\u202e" in viewer.get("/admin/").content.decode()


# -- what it costs ---------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [*FRAGMENTS, "/admin/?over=week"])
def test_a_page_asks_as_often_for_many_jobs_as_for_few(viewer: Client, room: Any, path: str):
    def more(count: int) -> None:
        for number in range(count):
            a_job(experiment_name=f"e{number}", owner=f"o{number}")
            ended(claimed(), Reason.TIMEOUT)
        for number in range(count):
            a_job(experiment_name=f"e{number}")
        taken(seconds=3, job=Job.objects.filter(status="queued").earliest("created_at"))

    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert viewer.get(path).status_code == 200
        return len(queries)

    more(2)
    few = asked()
    more(8)
    assert asked() == few <= 15


def test_no_query_of_the_page_reads_all_jobs(viewer: Client, room: Any):
    completed_in(5)
    taken(seconds=1)
    a_job()
    with CaptureQueriesContext(connection) as queries:
        viewer.get("/admin/")
    for query in queries.captured_queries:
        if not query["sql"].startswith("SELECT"):
            continue
        if '"training_job"' not in query["sql"]:
            continue
        plan = plan_of(query["sql"])
        assert not plan.reads_all_of("training_job"), (query["sql"], plan)
        assert not plan.sorts, (query["sql"], plan)


@pytest.mark.parametrize("path", FRAGMENTS)
def test_a_page_costs_no_more_however_many_jobs_have_ended(
    viewer: Client, room: Any, monkeypatch: pytest.MonkeyPatch, path: str
):
    """Counted by the database itself, step by step."""
    if connection.vendor != "sqlite":
        pytest.skip("SQLite calls back for every so many steps.")
    monkeypatch.setattr(days, "FAILURES_READ", 20)
    monkeypatch.setattr(boards, "LAST_OF_EXPERIMENT", 10)

    def more(count: int) -> None:
        for _ in range(count):
            completed_in(5)

    def steps() -> int:
        return steps_of(lambda: viewer.get(path))

    more(30)
    taken(seconds=1)
    a_job()
    few = steps()
    Job.objects.filter(status="queued").delete()
    ended(Attempt.objects.get(finished_at=None), Reason.TIMEOUT)
    more(170)
    taken(seconds=1)
    a_job()
    assert steps() < few * 1.2


def test_an_experiment_of_many_jobs_costs_as_much_as_one_of_few(room: Any):
    """Only its last jobs are looked through: an older run is not known any more."""
    completed_in(5)
    for _ in range(LAST_OF_EXPERIMENT):
        a_job()
        ended(claimed(), Reason.TIMEOUT)
    taken(seconds=1)
    assert board().running[0].usual_seconds is None


@pytest.mark.parametrize("path", FRAGMENTS)
def test_no_query_reads_a_script_or_a_lock(viewer: Client, room: Any, path: str):
    taken(seconds=1)
    a_job()
    with CaptureQueriesContext(connection) as queries:
        viewer.get(path)
    for query in queries.captured_queries:
        assert '"script"' not in query["sql"] and '"environment_lock"' not in query["sql"]


def test_a_fragment_replaces_pieces_by_their_ids(viewer: Client, room: Any):
    """Each piece that comes back is one that the page has."""
    whole = viewer.get("/admin/").content.decode()
    for path in FRAGMENTS[1:]:
        fragment = viewer.get(path).content.decode()
        pieces = re.findall(r'id="([\w-]+)"[^>]* hx-swap-oob="true"', fragment)
        assert len(pieces) >= 4
        assert all(f'id="{piece}"' in whole for piece in pieces)


def test_what_can_be_focused_in_a_fragment_has_an_id_so_that_a_swap_keeps_the_focus(
    viewer: Client, well: None
):
    taken(seconds=1)
    a_job()
    for path in FRAGMENTS[1:]:
        for tag in re.findall(r"<(?:a|button|input)\b[^>]*>", viewer.get(path).content.decode()):
            assert " id=" in tag, tag


def test_an_old_measurement_leaves_no_room(room: EngineCapacity):
    room.measured_at -= timedelta(minutes=5)
    room.save()
    assert room_of(measured_now()).short_of == "engine"
    assert room_of(None).short_of == "engine"

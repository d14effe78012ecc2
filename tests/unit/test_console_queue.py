"""Queue and workers: who is at what, what waits and why, how full it is; pausing and draining."""

import html
import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ, Task
from django_q.tasks import async_task

from inference import tasks as inference_tasks
from inference.models import BatchPrediction, ModelServer
from mlops_site import health, reports
from mlops_site import tasks as site_tasks
from mlops_site.console.queue_board import TASKS, queue_board
from mlops_site.models import QUEUE, SUPERVISOR, WORKER, Heartbeat, Report
from mlops_site.queues import queue_contents
from mlops_site.reports import WorkerBoard, task_in
from mlops_site.worker_unit import Look
from registry.models import AuditEntry, Hold
from tests.fixtures.people import GROUPS, somebody
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training import tasks as training_tasks
from training.models import Attempt, BuiltEnvironment, EngineCapacity, WaitingContainer
from training.services import admission, rows
from training.states import Reason

pytestmark = pytest.mark.django_db
PAGE, NOW, ASK, ACT = (f"/admin/queue/{part}" for part in ("", "now/", "ask/", "act/"))


@pytest.fixture
def viewer() -> Client:
    return somebody("viewer")


@pytest.fixture
def operator() -> Client:
    return somebody("operator", name="olga")


def text_of(client: Client, path: str = PAGE) -> str:
    """What one reads there."""
    page = client.get(path).content.decode()
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", page).split()))


def board() -> Any:
    return queue_board(now=timezone.now())


def process(name: str) -> Any:
    return next(one for one in board().processes if one.name == name)


def told_worker(*processes: tuple[int, str], whole: bool = True, age: float = 0.0) -> Report:
    now = timezone.now()
    since = (now - timedelta(seconds=41)).isoformat()
    told = [{"pid": pid, "task": task, "since": since} for pid, task in processes]
    return Report.objects.create(
        name="worker host-a:4099",
        told={"whole": whole, "processes": told},
        told_at=now - timedelta(seconds=age),
    )


# -- the answer -----------------------------------------------------------------------------------
def test_the_page_opens_with_its_answer(viewer: Client, room: EngineCapacity):
    assert "<h1>Nothing runs or waits</h1>" in viewer.get(PAGE).content.decode()
    a_job()
    claimed()
    a_job()
    a_job()
    page = viewer.get(PAGE).content.decode()
    assert "<h1>1 job runs, 2 wait</h1>" in page
    assert "<title>1 job runs, 2 wait · MLOps engine</title>" in page


def test_a_pause_is_told_with_who_since_when_and_why(viewer: Client, room: EngineCapacity):
    a_job()
    admission.pause(actor="olga", why="The disk is replaced.")
    page = text_of(viewer)
    assert "Admission is paused By olga, 0s ago" in page and "“The disk is replaced.”" in page
    assert "admission is paused by olga" in page


def test_a_drain_says_what_is_left_and_when_nothing_is(viewer: Client, room: EngineCapacity):
    a_job()
    attempt = claimed()
    admission.drain(actor="olga")
    page = text_of(viewer)
    assert "The worker is being drained" in page and "Still at work: 1 job" in page
    ended(attempt, Reason.SCRIPT_ERROR)
    page = text_of(viewer)
    assert "The worker is drained" in page
    assert "Nothing is left: the machine may be stopped" in page


def test_the_first_page_tells_everybody_of_a_pause(viewer: Client, monkeypatch: Any):
    registry = type("Registry", (), {"available": lambda self, timeout_seconds: True})
    monkeypatch.setattr(health, "model_registry", registry)
    admission.pause(actor="olga", why="Why not.")
    page = text_of(viewer, "/admin/")
    assert "Admission: paused by olga" in page and "“Why not.”" in page
    assert "?act=" not in viewer.get("/admin/").content.decode()
    operator = somebody("operator", name="otto")
    assert "/admin/queue/ask/?act=resume" in operator.get("/admin/now/").content.decode()


# -- who is at what -------------------------------------------------------------------------------
def test_processes_that_never_showed_themselves_are_unwell(viewer: Client):
    assert {one.state for one in board().processes} == {"failed"}
    assert "has not shown itself yet" in text_of(viewer)


def test_one_that_was_not_heard_of_lately_says_since_when():
    old = timezone.now() - timedelta(seconds=90)
    Heartbeat.objects.create(name=SUPERVISOR, beaten_at=old)
    told = process("Supervisor")
    assert (told.state, told.told_at) == ("failed", old)


def test_each_worker_process_says_what_it_is_at_and_what_it_holds(room: EngineCapacity):
    told_worker((4100, ""), (4101, "training.tasks.launch"), (4102, "some.other.task"))
    a_job()
    attempt = claimed()
    Attempt.objects.update(lease_owner="host-a:4101")
    assert process("Cluster").at == "2 of 3 processes are at a task"
    busy = process("Process 4101")
    assert (busy.at, busy.jobs, busy.state) == ("starts the next job", [attempt], "running")
    assert process("Process 4100").at == "idle"
    # What nobody gave words to is shown as it is.
    assert process("Process 4102").at == "some.other.task"


def test_what_a_supervisor_holds_is_what_runs(room: EngineCapacity):
    Heartbeat.beat(SUPERVISOR)
    a_job()
    attempt = claimed()
    Attempt.objects.update(lease_owner=rows.SUPERVISOR)
    assert process("Supervisor").jobs == [attempt]


def test_a_cluster_that_went_silent_is_not_at_what_it_told():
    told_worker((4101, "training.tasks.launch"), age=60)
    assert process("Cluster").state == "failed"
    assert not [one for one in board().processes if one.is_part]


def test_who_holds_work_and_told_nothing_is_named(room: EngineCapacity):
    a_job()
    attempt = claimed()
    Attempt.objects.update(lease_owner="host-b:7")
    told = process("Another process")
    assert (told.where, told.jobs, told.state) == ("host-b:7", [attempt], "warn")


def test_other_work_is_shown_with_who_holds_it(viewer: Client):
    now = timezone.now()
    later = now + timedelta(seconds=30)
    told_worker((4101, "inference.tasks.start_server"))
    ModelServer.objects.create(
        model_name="churn",
        version="3",
        claim_owner="host-a:4101",
        claim_expires_at=later,
        created_at=now,
        changed_at=now,
    )
    BatchPrediction.objects.create(
        model_name="churn",
        version="2",
        status="running",
        attempts=1,
        input_bytes=1,
        started_at=now,
        created_at=now,
        changed_at=now,
    )
    BuiltEnvironment.objects.create(key="e" * 20, state="building", created_at=now)
    words = sorted(one.words for one in board().in_hand)
    assert words == [
        "batch churn version 2",
        f"build of environment {'e' * 20}",
        "model server churn version 3",
    ]
    assert [one.words for one in process("Process 4101").holds] == ["model server churn version 3"]
    assert board().held.left.words == "1 batch prediction, 1 build"
    assert "holds model server churn version 3" in text_of(viewer)


# -- what waits, and how full it is ---------------------------------------------------------------
def test_what_waits_stands_in_the_order_of_the_queue_with_its_reason(room: EngineCapacity):
    EngineCapacity.objects.update(memory_mb=4000)
    a_job()
    claimed()
    late, first = a_job(script_name="late.py"), a_job(script_name="first.py")
    type(first).objects.filter(pk=first.pk).update(priority=2)
    told = board().waiting
    assert [(one.position, one.job.pk) for one in told] == [(1, first.pk), (2, late.pk)]
    assert told[0].why == "needs 2.0 GB of memory, 928 MB free"


def test_a_long_queue_is_cut_and_counted(
    viewer: Client, room: EngineCapacity, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mlops_site.console.queue_board.WAITING_SHOWN", 2)
    for _ in range(5):
        a_job()
    assert (len(board().waiting), board().waiting_count) == (2, 5)
    assert "The first 2 of 5." in text_of(viewer)


def test_places_are_what_jobs_were_promised(room: EngineCapacity, settings: Any):
    a_job()
    claimed()
    places = {place.name: place.told for place in board().places}
    assert places["Memory promised"] == "2.0 GB of 15 GB"
    assert places["CPUs promised"] == "1 of 4"
    assert places["Slots"] == "1 taken, as many as fit"
    settings.MAX_CONCURRENT_JOBS = 3
    assert {place.name: place.told for place in board().places}["Slots"] == "1 of 3"


def test_an_engine_that_was_not_measured_promises_nothing(viewer: Client):
    assert [place.told for place in board().places] == ["was not measured lately"]
    assert viewer.get(PAGE).status_code == 200


def test_waiting_containers_are_shown(viewer: Client):
    WaitingContainer.objects.create(
        engine="local",
        environment_key="e" * 20,
        shape="s",
        image="i",
        state="ready",
        container_id="c" * 20,
        created_at=timezone.now(),
    )
    assert "Ready cccccccccccc" in text_of(viewer)


def test_an_empty_platform_teaches_what_will_stand_here(viewer: Client):
    page = text_of(viewer)
    for told in ("No job waits", "Nothing is in hand", "No task waits or failed"):
        assert told in page


# -- tasks of the queue ---------------------------------------------------------------------------
def told_tasks() -> Any:
    reports.tell_of_supervisor("local")
    return board().tasks


def test_tasks_that_wait_are_told_by_what_they_do(viewer: Client):
    async_task("training.tasks.finish", 7, save=False)
    told = told_tasks()
    assert (told.kind, told.waiting, told.taken) == ("database", 1, 0)
    assert [(one.words, one.about, one.told) for one in told.shown] == [
        ("brings a job to its end", "7", "waits")
    ]
    assert "brings a job to its end" in text_of(viewer)


def test_a_task_that_was_taken_says_when_it_is_given_out_again():
    async_task("training.tasks.launch", save=False)
    taken_at = timezone.now() - timedelta(seconds=60)
    OrmQ.objects.update(lock=taken_at + timedelta(seconds=Conf.RETRY))
    told = told_tasks()
    assert (told.waiting, told.taken) == (0, 1)
    assert told.shown[0].told == "in hand"
    assert abs((told.shown[0].at - taken_at).total_seconds()) < 1


@pytest.mark.parametrize("is_taken", [True, False])
def test_one_that_is_delivered_again_says_so(is_taken: bool, monkeypatch: pytest.MonkeyPatch):
    early = timezone.now() - timedelta(seconds=2 * Conf.RETRY)
    with monkeypatch.context() as past:
        past.setattr("django_q.tasks.timezone.now", lambda: early)
        async_task("training.tasks.launch", save=False)
    lock = timezone.now() + timedelta(seconds=Conf.RETRY if is_taken else -60)
    OrmQ.objects.update(lock=lock)
    told = told_tasks().shown[0]
    assert told.told == ("in hand, delivered again" if is_taken else "waits, delivered again")
    assert told.state == "warn"


def test_a_task_that_nobody_can_read_is_told_of_and_stops_nothing():
    OrmQ.objects.create(key="mlops", payload="garbage", lock=timezone.now())
    assert queue_contents()["tasks"][0]["func"] == "unreadable"


def test_failed_tasks_are_told_of_without_what_they_said():
    now = timezone.now()
    Task.objects.create(
        id="t",
        name="n",
        func="mlops_site.tasks.retention",
        started=now,
        stopped=now,
        success=False,
        attempt_count=2,
        result="Traceback: a secret",
    )
    told = told_tasks()
    assert [(one.words, one.told) for one in told.failed] == [
        ("clears away what is old", "failed, given out 2 times")
    ]
    assert "secret" not in str(Report.objects.get(name="queue").told)


def test_every_task_that_is_queued_has_words():
    for module in (inference_tasks, site_tasks, training_tasks):
        for name, function in vars(module).items():
            if callable(function) and getattr(function, "__module__", "") == module.__name__:
                assert f"{module.__name__}.{name}" in TASKS


# -- what processes tell --------------------------------------------------------------------------
def look(*titles: str) -> Look:
    workers = {100 + number: title for number, title in enumerate(titles)}
    return Look(main=True, guard=1, monitor=2, pusher=3, workers=workers)


BUSY = "qcluster Process-1:2 processing seven-lemon 'training.tasks.launch'"
IDLE = "qcluster Process-1:1 idle"


def test_a_title_names_the_task():
    assert (task_in(BUSY), task_in(IDLE)) == ("training.tasks.launch", "")
    assert task_in("qcluster p processing odd") == "a task"


def test_a_cluster_tells_what_its_processes_are_at_and_takes_it_down_at_its_end():
    told = WorkerBoard()
    told.tell(look(IDLE, BUSY))
    report = Report.objects.get()
    assert report.name == told.name and report.told["whole"] is True
    assert [one["task"] for one in report.told["processes"]] == ["", "training.tasks.launch"]
    told.take_down()
    assert not Report.objects.exists()


def test_it_does_not_write_more_often_than_somebody_looks(django_assert_num_queries: Any):
    told = WorkerBoard()
    told.tell(look(IDLE))
    with django_assert_num_queries(0):
        told.tell(look(IDLE))
        told.tell(look(BUSY))


def test_how_long_a_process_is_at_a_task_counts_from_its_begin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reports, "CHANGED_SECONDS", 0.0)
    monkeypatch.setattr(reports, "TELL_SECONDS", 0.0)
    told = WorkerBoard()
    told.tell(look(BUSY))
    first = Report.objects.get().told["processes"][0]["since"]
    told.tell(look(BUSY))
    assert Report.objects.get().told["processes"][0]["since"] == first
    told.tell(look(BUSY.replace("seven", "eight")))
    assert Report.objects.get().told["processes"][0]["since"] > first


def test_a_database_that_is_away_keeps_no_watcher_from_its_work(monkeypatch: pytest.MonkeyPatch):
    def away(*_: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(Report, "tell", away)
    monkeypatch.setattr(reports.connection, "close", lambda: None)
    WorkerBoard().tell(look(IDLE))


def test_what_a_dead_process_told_goes_after_a_while():
    told_worker((1, ""), age=3600)
    reports.tell_of_settings()
    Report.objects.filter(name="settings").update(told_at=timezone.now() - timedelta(days=1))
    reports.tell_of_supervisor("local")
    names = set(Report.objects.values_list("name", flat=True))
    assert "worker host-a:4099" not in names and "settings" in names


# -- pausing and draining in the console ----------------------------------------------------------
@pytest.mark.parametrize("group", GROUPS)
def test_each_group_sees_the_page_and_only_operators_its_buttons(group: str):
    client = somebody(group)
    may = group in ("operator", "administrator")
    page = client.get(PAGE).content.decode()
    assert ('id="do-pause"' in page) == ('id="do-drain"' in page) == may
    assert client.get(ASK, {"act": "pause"}).status_code == (200 if may else 403)
    assert client.post(ACT, {"act": "pause"}).status_code == (302 if may else 403)
    assert Hold.objects.exists() == may


def test_an_act_that_does_not_apply_is_absent(operator: Client):
    admission.pause(actor="bob")
    page = operator.get(PAGE).content.decode()
    assert 'id="do-resume"' in page and 'id="do-pause"' not in page


@pytest.mark.parametrize(
    ("act", "told"),
    [
        ("pause", "New jobs and batch predictions are accepted and wait; none is started."),
        ("resume", "2 jobs wait: started in their order, as far as there is room."),
        ("drain", "The worker starts no job, no batch prediction and no build"),
        ("undrain", "Environments are built again."),
    ],
)
def test_what_will_happen_is_said_before_it_does(
    operator: Client, room: EngineCapacity, act: str, told: str
):
    a_job()
    a_job()
    page = text_of(operator, f"{ASK}?act={act}")
    assert told in page and not Hold.objects.exists()
    inside = operator.get(ASK, {"act": act}, headers={"HX-Request": "true"}).content.decode()
    assert inside.strip().startswith('<dialog class="dialog" data-asks')


def test_a_resume_says_when_it_will_start_nothing(operator: Client):
    admission.pause(actor="bob")
    admission.drain(actor="bob")
    assert "The worker is still being drained" in text_of(operator, f"{ASK}?act=resume")
    assert "Admission is still paused" in text_of(operator, f"{ASK}?act=undrain")


def test_each_act_does_what_it_says_and_is_written_down(operator: Client):
    for act in ("pause", "drain", "resume", "undrain"):
        page = operator.post(ACT, {"act": act, "why": "w"}, follow=True).content.decode()
        assert "toast" in page
        assert Hold.objects.count() == {"pause": 1, "drain": 2, "resume": 1, "undrain": 0}[act]
    acts = AuditEntry.objects.filter(kind="platform").order_by("id")
    assert [(row.actor, row.act, row.channel, row.detail) for row in acts] == [
        ("olga", "platform.pause", "console", "w"),
        ("olga", "platform.drain", "console", "w"),
        ("olga", "platform.resume", "console", ""),
        ("olga", "platform.undrain", "console", ""),
    ]


@pytest.mark.parametrize("act", ["", "stop", "pause "])
def test_an_act_that_there_is_none_of_is_not_found(operator: Client, act: str):
    assert operator.post(ACT, {"act": act}).status_code == 404
    assert operator.get(ASK, {"act": act}).status_code == 404


def test_an_act_is_never_done_by_following_a_link(operator: Client):
    assert operator.get(ACT, {"act": "pause"}).status_code == 405
    assert not Hold.objects.exists()


def test_the_shell_and_the_page_say_the_same(operator: Client):
    call_command("admission", "pause", "--why", "From the shell.", stdout=StringIO())
    assert "“From the shell.”" in text_of(operator)


# -- hostile, and what it costs -------------------------------------------------------------------
def test_what_strangers_wrote_is_text(operator: Client, room: EngineCapacity):
    evil = "<img src=x onerror=alert(1)>\u202e"
    a_job(script_name="a.py", experiment_name=evil, owner=evil)
    claimed()
    a_job(experiment_name=evil, owner=evil)
    admission.pause(actor=evil, why=evil)
    told_worker((1, "a"))
    async_task("training.tasks.finish", evil, save=False)
    reports.tell_of_supervisor("local")
    for path in (PAGE, NOW, f"{ASK}?act=resume", "/admin/training/job/"):
        page = operator.get(path).content.decode()
        assert "<img" not in page and "\u202e" not in page, path


@pytest.mark.parametrize("path", [PAGE, NOW])
def test_the_page_asks_as_often_for_a_full_queue_as_for_a_short_one(
    viewer: Client, room: EngineCapacity, settings: Any, path: str
):
    EngineCapacity.objects.update(memory_mb=900_000, cpus=500)
    settings.LONG_TASKS = 500
    now = timezone.now()

    def more(count: int) -> None:
        for number in range(count):
            a_job(owner=f"o{number}")
            claimed()
        for number in range(count):
            a_job(owner=f"w{number}")
            ModelServer.objects.create(
                model_name=f"m{ModelServer.objects.count()}",
                version="1",
                claim_owner="host-a:1",
                claim_expires_at=now + timedelta(minutes=5),
                created_at=now,
                changed_at=now,
            )

    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert viewer.get(path).status_code == 200
        return len(queries)

    for name in (WORKER, SUPERVISOR, QUEUE):
        Heartbeat.beat(name)
    told_worker((1, "training.tasks.launch"))
    admission.pause(actor="olga")
    admission.drain(actor="olga")
    admission.resume(actor="olga")
    admission.undrain(actor="olga")
    more(2)
    few = asked()
    more(8)
    assert asked() == few <= 15
    admission.pause(actor="olga")
    admission.drain(actor="olga")
    assert asked() == few


def test_no_query_reads_a_script_or_a_lock(viewer: Client, room: EngineCapacity):
    a_job()
    claimed()
    a_job()
    with CaptureQueriesContext(connection) as queries:
        viewer.get(PAGE)
    for query in queries.captured_queries:
        assert '"script"' not in query["sql"] and '"environment_lock"' not in query["sql"]


def test_a_fragment_replaces_pieces_that_the_page_has(viewer: Client):
    whole, fragment = (viewer.get(path).content.decode() for path in (PAGE, NOW))
    pieces = re.findall(r'id="([\w-]+)"[^>]* hx-swap-oob="true"', fragment)
    assert len(pieces) == 7
    assert all(f'id="{piece}"' in whole for piece in pieces)


def test_what_can_be_focused_in_a_fragment_has_an_id_so_that_a_swap_keeps_the_focus(
    operator: Client, room: EngineCapacity
):
    a_job()
    claimed()
    a_job()
    told_worker((1, "training.tasks.launch"))
    fragment = operator.get(NOW).content.decode()
    for tag in re.findall(r"<(?:a|button|input)\b[^>]*>", fragment):
        assert " id=" in tag, tag
    ids = re.findall(r'\bid="([^"]+)"', fragment)
    assert len(ids) == len(set(ids))

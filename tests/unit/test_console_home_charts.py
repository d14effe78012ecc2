"""The first page's charts: what is counted, by whom, how often, and what the page makes of it."""

import html
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from inference import metrics, prediction_tallies
from inference.models import PredictionTally, VersionTally
from inference.prediction_tallies import MINUTE, QUARTER, Tallies, answers_over
from mlops_site import health
from mlops_site.console.home_charts import Trends, trends_of
from registry.steps import added, counted, percentile
from registry.windows import WINDOWS, Window
from tests.fixtures.people import somebody
from tests.fixtures.plans import plan_of
from tests.fixtures.sent_jobs import a_job
from training import tallies
from training.models import Attempt, Job, JobTallied, JobTally
from training.tallies import KEPT, SPAN, STEPS, JobTallies, Tally, count_up_to, tallies_over

pytestmark = pytest.mark.django_db
NOW = datetime(2025, 10, 23, 12, 2, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = type("Mlflow", (), {"available": lambda *_, **__: True})()
    monkeypatch.setattr(health, "model_registry", lambda: registry)


@pytest.fixture(autouse=True)
def no_series(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What other tests counted is not told here."""
    monkeypatch.setattr(metrics, "_series", {})
    monkeypatch.setattr(metrics.STAGES, "_series", {})
    metrics.ERRORS.clear()
    yield
    metrics.ERRORS.clear()


def accepted(moment: datetime, status: str = "completed", **changed: Any) -> Job:
    job = a_job()
    told: dict[str, Any] = {"created_at": moment, "status": status, **changed}
    if status in ("completed", "failed", "cancelled"):
        told = {
            "started_at": moment + timedelta(seconds=2),
            "completed_at": moment + timedelta(seconds=12),
            "phase": "ended",
            **told,
        }
    if status == "failed":
        told |= {"reason": "script_error", "error": "it failed"}
    Job.objects.filter(pk=job.pk).update(**told)
    return job


def trends_over(window: Window, *, now: datetime) -> Trends:
    bars = tallies_over([window], now=now)[window]
    points = answers_over(window.length, points=window.points, now=now)
    return trends_of(window, bars, points, now=now)


def bars_of_hour(now: datetime) -> list[Tally]:
    hour = WINDOWS["hour"]
    return tallies_over([hour], now=now)[hour]


def counts(**over: Any) -> list[tuple[int, int, int, int]]:
    bars = bars_of_hour(over.get("now", NOW))
    return [(bar.completed, bar.failed, bar.cancelled, bar.open) for bar in bars if bar.jobs]


def answered(count: int, *, ms: float = 4.0, version: str = "1") -> None:
    for _ in range(count):
        metrics.series("m", version).answered(
            total_ms=ms, queue_ms=0, model_ms=1, batch=1, lane="original"
        )


# -- steps -----------------------------------------------------------------------------------------
def test_values_counted_by_steps_keep_their_percentiles_as_true_as_a_step_is_wide():
    counts_of = counted([float(number) for number in range(1, 101)], STEPS)
    assert sum(counts_of) == 100
    half = percentile(counts_of, STEPS, 0.5)
    assert half is not None and 50 / 1.33 < half < 50 * 1.33


def test_nothing_has_no_percentile_and_adds_nothing():
    assert counted([], STEPS) == []
    assert percentile([], STEPS, 0.5) is None
    assert added([], [1, 2]) == [1, 2]
    assert added([1, 1], [1, 2]) == [2, 3]


def test_what_is_longer_than_the_longest_step_is_told_as_that():
    assert percentile(counted([1e9], STEPS), STEPS, 0.5) == STEPS[-1]


# -- jobs ------------------------------------------------------------------------------------------
def test_jobs_are_counted_by_when_they_were_accepted_and_how_they_ended():
    accepted(NOW - timedelta(minutes=20))
    accepted(NOW - timedelta(minutes=20), "failed")
    accepted(NOW - timedelta(minutes=1), "running")
    count_up_to(NOW)
    assert counts() == [(1, 1, 0, 0), (0, 0, 0, 1)]


def test_waits_and_durations_are_kept_of_those_that_have_them():
    accepted(NOW - timedelta(minutes=20))
    count_up_to(NOW)
    (row,) = JobTally.objects.all()
    assert percentile(row.waits, STEPS, 0.5) == pytest.approx(2, rel=0.33)
    assert percentile(row.durations, STEPS, 0.5) == pytest.approx(10, rel=0.33)


def test_a_job_that_ends_later_is_counted_again_where_it_was_accepted():
    job = accepted(NOW - timedelta(minutes=40), "running")
    count_up_to(NOW)
    Job.objects.filter(pk=job.pk).update(
        status="completed", phase="ended", started_at=NOW, completed_at=NOW
    )
    count_up_to(NOW + timedelta(minutes=1))
    assert counts() == [(1, 0, 0, 0)]


def test_what_has_ended_for_good_is_not_read_again(monkeypatch: pytest.MonkeyPatch):
    accepted(NOW - timedelta(minutes=40))
    count_up_to(NOW)
    read: list[datetime] = []
    monkeypatch.setattr(tallies, "_count", lambda begin, *, now: read.append(begin))
    count_up_to(NOW + timedelta(seconds=15))
    assert not read


def looks(monkeypatch: pytest.MonkeyPatch, *, seconds: float = -1.0) -> JobTallies:
    """Of a supervisor, each of which is left after one step."""
    monkeypatch.setattr(tallies, "SECONDS_AT_ONCE", seconds)
    monkeypatch.setattr(tallies.timezone, "now", lambda: NOW)
    return JobTallies()


def test_after_a_stop_of_its_own_it_counts_what_it_missed_but_no_longer_than_a_moment(
    monkeypatch: pytest.MonkeyPatch,
):
    for days in (1, 3, 5):
        accepted(NOW - timedelta(days=days))
    mine = looks(monkeypatch)
    seen = []
    for _ in range(4):
        mine.look()
        seen.append(JobTally.objects.count())
    assert seen == [1, 2, 3, 3]
    assert JobTallied.objects.get().through == NOW


def test_a_span_with_many_jobs_takes_several_looks_of_so_many_rows(
    monkeypatch: pytest.MonkeyPatch,
):
    moment = NOW - timedelta(minutes=20)
    for number in range(7):
        # Some of them in the same moment: none is counted twice or left out.
        accepted(moment + timedelta(seconds=number // 3))
    monkeypatch.setattr(tallies, "BATCH", 2)
    mine, read = looks(monkeypatch), []
    for _ in range(4):
        with CaptureQueriesContext(connection) as queries:
            mine.look()
        jobs = [q["sql"] for q in queries.captured_queries if q["sql"].endswith("LIMIT 2")]
        read.append(len(jobs))
    assert read == [1, 1, 1, 1], "no look reads more than one batch"
    assert counts() == [(7, 0, 0, 0)]


def test_what_was_left_halfway_begins_anew_after_a_restart(monkeypatch: pytest.MonkeyPatch):
    for _ in range(5):
        accepted(NOW - timedelta(minutes=20))
    monkeypatch.setattr(tallies, "BATCH", 2)
    looks(monkeypatch).look()
    assert not JobTally.objects.exists()
    looks(monkeypatch, seconds=60).look()
    assert counts() == [(5, 0, 0, 0)]


def test_a_look_that_failed_is_followed_by_one_that_begins_anew(monkeypatch: pytest.MonkeyPatch):
    accepted(NOW - timedelta(minutes=20))
    mine = looks(monkeypatch, seconds=60)
    with monkeypatch.context() as away:
        away.setattr(tallies, "_jobs_of", lambda *_, **__: (_ for _ in ()).throw(DatabaseError))
        with pytest.raises(DatabaseError):
            mine.look()
    monkeypatch.setattr(mine, "_next_at", 0.0)
    mine.look()
    assert counts() == [(1, 0, 0, 0)]


def test_the_time_to_the_first_line_is_that_of_the_first_try_that_printed():
    moment = NOW - timedelta(minutes=20)
    job = accepted(moment)
    for number, seconds in enumerate((None, 4, 90), start=1):
        Attempt.objects.create(
            job=job,
            number=number,
            lease_owner="t",
            lease_expires_at=moment,
            created_at=moment,
            finished_at=moment,
            first_output_at=moment + timedelta(seconds=seconds) if seconds else None,
        )
    accepted(moment)
    count_up_to(NOW)
    (bar,) = [bar for bar in bars_of_hour(NOW) if bar.jobs]
    assert sum(bar.first_outputs) == 1, "a job that printed nothing has none"
    assert percentile(bar.first_outputs, STEPS, 0.5) == pytest.approx(4, rel=0.33)
    charts = {chart.id: chart for chart in trends_over(WINDOWS["hour"], now=NOW).charts}
    assert charts["trend-output"].title == "Accepted to first line"


def test_spans_with_open_jobs_take_turns(monkeypatch: pytest.MonkeyPatch):
    """However many there are, each is counted again some time."""
    for number in range(1, 5):
        accepted(NOW - number * timedelta(minutes=10), "queued")
    count_up_to(NOW)
    monkeypatch.setattr(tallies, "SPANS_AT_ONCE", 1)
    for later in range(1, 5):
        count_up_to(NOW + timedelta(seconds=later))
    assert all(moment > NOW for moment in JobTally.objects.values_list("counted_at", flat=True))


def test_a_span_whose_jobs_were_cleared_away_goes():
    accepted(NOW - timedelta(minutes=20), "queued")
    count_up_to(NOW)
    Job.objects.all().delete()
    count_up_to(NOW)
    assert not JobTally.objects.exists()


def test_counting_reads_no_job_outside_of_its_span():
    accepted(NOW - timedelta(minutes=20))
    with CaptureQueriesContext(connection) as queries:
        count_up_to(NOW)
    for query in queries.captured_queries:
        if query["sql"].startswith("SELECT") and '"training_job"' in query["sql"]:
            plan = plan_of(query["sql"])
            assert not plan.reads_all_of("training_job"), query["sql"]
            assert not plan.sorts, query["sql"]


def test_a_job_that_was_written_a_moment_late_is_counted_all_the_same():
    count_up_to(datetime(2025, 10, 23, 12, 5, 0, 100, tzinfo=UTC))
    accepted(datetime(2025, 10, 23, 12, 4, 59, tzinfo=UTC))
    count_up_to(datetime(2025, 10, 23, 12, 5, 15, tzinfo=UTC))
    assert counts(now=datetime(2025, 10, 23, 12, 6, tzinfo=UTC)) == [(1, 0, 0, 0)]


def test_the_supervisor_looks_often_and_counts_seldom(monkeypatch: pytest.MonkeyPatch):
    asked: list[datetime] = []

    def counted_up_to(now: datetime) -> Iterator[None]:
        asked.append(now)
        return iter(())

    monkeypatch.setattr(tallies, "work_up_to", counted_up_to)
    look = JobTallies().look
    look()
    look()
    assert len(asked) == 1


def test_what_no_chart_shows_is_forgotten():
    for moment in (NOW - KEPT - SPAN, NOW):
        JobTally.objects.create(begins_at=moment, counted_at=moment)
    assert tallies.forget_old(NOW) == 1
    for size, kept in prediction_tallies.KEPT.items():
        for moment in (NOW - kept - HOUR, NOW):
            PredictionTally.objects.create(
                begins_at=moment, seconds=size, process="0" * 32, answered=1
            )
            VersionTally.objects.create(
                model_name="m", version="1", begins_at=moment, seconds=size, process="0" * 32
            )
    assert prediction_tallies.forget_old(NOW) == 4


# -- predictions -----------------------------------------------------------------------------------
def test_what_was_counted_since_the_last_time_is_written_once():
    mine = Tallies()
    answered(3)
    metrics.series("m", "1").failed("bad_input")
    mine.flush(now=NOW)
    mine.flush(now=NOW)
    answered(2, version="2")
    mine.flush(now=NOW + timedelta(seconds=20))
    rows = PredictionTally.objects.values_list("seconds", "answered", "failed").order_by("seconds")
    assert list(rows) == [(MINUTE, 5, 1), (QUARTER, 5, 1)]


def test_a_process_that_answers_nothing_asks_the_database_nothing():
    with CaptureQueriesContext(connection) as queries:
        Tallies().flush(now=NOW)
    assert not queries.captured_queries


def test_each_minute_has_a_row_and_the_quarter_of_an_hour_grows():
    mine = Tallies()
    for minute in range(3):
        answered(1)
        mine.flush(now=NOW + timedelta(minutes=minute))
    assert PredictionTally.objects.filter(seconds=MINUTE).count() == 3
    assert PredictionTally.objects.get(seconds=QUARTER).answered == 3


def test_several_processes_are_told_together():
    for _ in range(2):
        answered(2)
        Tallies().flush(now=NOW)
    whole = answers_over(HOUR, points=60, now=NOW)
    assert whole[-1].answered == 2 + 4, "each counts from where it began"
    assert sum(whole[-1].latencies) == 6


def test_each_version_is_told_by_itself_and_over_all_processes():
    answered(2)
    answered(1, version="2")
    mine = Tallies()
    mine.flush(now=NOW)
    answered(3, version="2")
    metrics.series("m", "2").failed("bad_input")
    mine.flush(now=NOW + timedelta(seconds=5))
    Tallies().flush(now=NOW)
    (first, second) = (
        answers_over(HOUR, points=60, now=NOW, version=("m", number))[-1] for number in "12"
    )
    assert (first.answered, second.answered, second.failed) == (2 + 2, 4 + 4, 1 + 1)
    assert sum(second.latencies) == 8
    assert VersionTally.objects.filter(seconds=MINUTE).count() == 4


def test_a_version_that_nobody_asked_since_is_not_written_again():
    mine = Tallies()
    answered(1)
    mine.flush(now=NOW)
    answered(1, version="2")
    later = NOW + timedelta(minutes=1)
    mine.flush(now=later)
    assert not VersionTally.objects.filter(version="1", begins_at__gt=NOW).exists()
    assert VersionTally.objects.get(version="1", seconds=QUARTER).answered == 1


def test_many_versions_are_written_in_few_queries():
    for number in range(1, 101):
        answered(1, version=str(number))
    with CaptureQueriesContext(connection) as queries:
        Tallies().flush(now=NOW)
    assert len(queries) < 30
    assert VersionTally.objects.filter(seconds=MINUTE).count() == 100


def test_what_could_not_be_written_is_written_the_next_time(monkeypatch: pytest.MonkeyPatch):
    mine = Tallies()
    answered(2)
    with monkeypatch.context() as away:
        away.setattr(mine, "_write", lambda *_: (_ for _ in ()).throw(DatabaseError("away")))
        with pytest.raises(DatabaseError):
            mine.flush(now=NOW)
    mine.flush(now=NOW)
    assert PredictionTally.objects.get(seconds=MINUTE).answered == 2


def test_latencies_are_told_as_true_as_prometheus_steps_are_wide():
    answered(10, ms=4.0)
    Tallies().flush(now=NOW)
    latencies = answers_over(HOUR, points=60, now=NOW)[-1].latencies
    half = percentile(latencies, metrics.SECONDS, 0.5)
    assert half is not None and 0.002 < half <= 0.005


# -- the page --------------------------------------------------------------------------------------
def charts_in(page: str) -> dict[str, Any]:
    found = re.findall(r'id="(trend-[\w-]+)" data-chart="([^"]*)"', page)
    return {name: json.loads(html.unescape(told)) for name, told in found}


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, one look counts all that is due."""
    monkeypatch.setattr(tallies, "SECONDS_AT_ONCE", 60.0)


@pytest.fixture
def lived(room: Any) -> datetime:
    """An installation in which something has happened lately."""
    now = timezone.now()
    for hours in (0, 2, 30, 100):
        accepted(now - timedelta(hours=hours, minutes=6))
    accepted(now - timedelta(hours=2, minutes=6), "failed")
    count_up_to(now)
    answered(5)
    Tallies().flush(now=now)
    return now


@pytest.mark.parametrize(("over", "jobs"), [("hour", 1), ("day", 3), ("week", 5)])
def test_the_address_says_how_far_back_the_charts_go(lived: datetime, over: str, jobs: int):
    page = somebody("viewer").get(f"/admin/?over={over}").content.decode()
    charts = charts_in(page)
    assert set(charts) == {
        *("trend-jobs", "trend-success", "trend-wait", "trend-duration"),
        *("trend-rate", "trend-latency"),
    }
    assert sum(sum(line["values"]) for line in charts["trend-jobs"]["lines"]) == jobs
    assert len(charts["trend-jobs"]["x"]) == WINDOWS[over].bars
    assert re.search(f'id="over-{over}"[^>]* aria-current="true"', page)
    assert f'hx-get="/admin/day/?over={over}"' in page, "what refreshes keeps to it"


def test_without_a_word_or_with_a_wrong_one_it_is_the_day(lived: datetime):
    viewer = somebody("viewer")
    for address in ("/admin/", "/admin/?over=century", "/admin/day/"):
        assert 'id="over-day" href="/admin/?over=day#home-trends" aria-current="true"' in (
            viewer.get(address).content.decode()
        )


def test_success_is_told_of_those_that_ended(lived: datetime):
    trends = trends_over(WINDOWS["day"], now=lived)
    told = {chart.id: chart.told for chart in trends.charts}
    assert told["trend-success"] == "66.7 %"
    assert told["trend-jobs"] == "3"


def test_the_rate_of_the_minute_that_lasts_is_over_the_time_that_it_has_lasted():
    answered(30)
    now = NOW.replace(second=30)
    Tallies().flush(now=now)
    charts = {chart.id: chart for chart in trends_over(WINDOWS["hour"], now=now).charts}
    assert charts["trend-rate"].lines[0].values[-1] == pytest.approx(1.0)


def test_where_nothing_happened_it_says_so_instead_of_drawing_nothing(room: Any):
    page = somebody("viewer").get("/admin/?over=hour").content.decode()
    assert "Nothing in the last hour" in page
    assert "No job was accepted in the last hour." in page
    assert "No prediction was asked for in the last hour." in page
    assert not charts_in(page)


def test_the_charts_cost_two_queries_however_much_was_counted(lived: datetime):
    with CaptureQueriesContext(connection) as queries:
        trends_over(WINDOWS["week"], now=lived)
    assert len(queries) == 2
    for query in queries.captured_queries:
        assert '"training_job"' not in query["sql"]


@pytest.mark.parametrize("group", ["viewer", "administrator"])
def test_the_page_takes_at_most_fifteen_queries_also_where_no_job_is_recent(room: Any, group: str):
    old = timezone.now() - timedelta(days=20)
    accepted(old)
    client: Client = somebody(group)
    with CaptureQueriesContext(connection) as queries:
        page = client.get("/admin/").content.decode()
    assert len(queries) <= 15
    assert "Nothing runs or waits" in page
    assert "Nothing runs or waits" in client.get("/admin/now/").content.decode()

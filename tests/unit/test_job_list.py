"""The list of jobs: pages that neither lose nor repeat, filters, and plans that stay flat."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.fixtures.plans import plan_of, steps_of
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training import listing
from training.api.queries import cursor_of, place_of
from training.listing import JobFilter, Place, _columns, _rarest, jobs_query, page_of_jobs
from training.models import Job, JobTerm
from training.states import ENDINGS, TERMINAL, Phase, Reason, Status

LIST = "/mlops/training/jobs"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
FILTERS = {
    "nothing": JobFilter(),
    "status": JobFilter(status="failed"),
    "reason": JobFilter(reason="timeout"),
    "experiment": JobFilter(experiment="churn"),
    "model": JobFilter(model="churn"),
    "owner": JobFilter(owner="ada"),
    "environment": JobFilter(environment="a1b2"),
    "a tag": JobFilter(terms=("tag:team=growth",)),
    "words": JobFilter(terms=("word:churn", "word:train")),
    "a range": JobFilter(created_after=MOMENT, created_before=MOMENT),
    "a walk that ends": JobFilter(
        status="failed", experiment="churn", through=Place(MOMENT, uuid.UUID(int=1))
    ),
    "a walk of words that ends": JobFilter(
        model="churn", terms=("word:a",), through=Place(MOMENT, uuid.UUID(int=1))
    ),
    "an id": JobFilter(job_id=uuid.uuid4()),
    "two columns": JobFilter(status="failed", experiment="churn"),
    "a column and words": JobFilter(model="churn", terms=("word:a", "word:b")),
    **{f"phase {phase}": JobFilter(phase=phase) for phase in Phase.values},
}


def listed(api: Client, query: str = "") -> Any:
    answer = api.get(f"{LIST}?{query}")
    assert answer.status_code == 200, answer.json()
    return answer.json()


def names(api: Client, query: str) -> list[str]:
    return [job["script_name"] for job in listed(api, query)["jobs"]]


def wrong(api: Client, query: str) -> set[str]:
    answer = api.get(f"{LIST}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameters")
    assert all(error["hint"] for error in answer.json()["errors"])
    return {error["field"] for error in answer.json()["errors"]}


def test_without_jobs_there_is_an_empty_page(api: Client):
    assert listed(api) == {"jobs": [], "next": None}


def test_jobs_come_newest_first_as_they_are_told_alone_but_without_their_output(api: Client):
    first, _ = a_job(script_name="one.py"), a_job(script_name="two.py")
    assert names(api, "") == ["two.py", "one.py"]
    alone = api.get(f"{LIST}/{first.pk}").json()
    assert alone.pop("logs") == ""
    told = listed(api)["jobs"][1]
    assert told == alone


def test_pages_neither_lose_nor_repeat_a_job_even_of_the_same_moment(api: Client):
    for number in range(7):
        a_job(script_name=f"n{number}.py")
    Job.objects.update(created_at=MOMENT)
    JobTerm.objects.update(created_at=MOMENT)
    for query in ("limit=2", "limit=2&tag=team=growth"):
        path, seen = f"{LIST}?{query}", []
        while path:
            answer = api.get(path)
            seen += [job["job_id"] for job in answer.json()["jobs"]]
            path = answer.json()["next"]
            assert answer.headers.get("Link") == (f'<{path}>; rel="next"' if path else None)
        assert len(seen) == len(set(seen)) == 7


def test_a_job_that_comes_meanwhile_does_not_shift_the_next_page(api: Client):
    for number in range(4):
        a_job(script_name=f"n{number}.py")
    first = listed(api, "limit=2")
    a_job(script_name="late.py")
    second = api.get(first["next"]).json()
    assert [job["script_name"] for job in second["jobs"]] == ["n1.py", "n0.py"]


def test_each_filter_finds_its_jobs_and_no_others(api: Client, room):
    a_job(script_name="failed.py", experiment_name="ex", tags=(("team", "risk"), ("v", "1")))
    ended(claimed(), Reason.TIMEOUT)
    job = a_job(script_name="running.py", model_name="mo")
    claimed()
    Job.objects.filter(pk=job.pk).update(environment_key="a1b2")
    a_job(script_name="waiting.py", owner="bob", tags=(("team", "risk"), ("v", "2")))
    for query, wanted in {
        "status=failed": ["failed.py"],
        "phase=building_environment": ["running.py"],
        "phase=waiting": ["waiting.py"],
        "phase=ended": ["failed.py"],
        "phase=ended&status=running": [],
        "reason=timeout": ["failed.py"],
        "experiment=ex": ["failed.py"],
        "model=mo": ["running.py"],
        "owner=bob": ["waiting.py"],
        "tag=team=risk": ["waiting.py", "failed.py"],
        "tag=team=risk&tag=v=1": ["failed.py"],
        "tag=team=risk&status=failed": ["failed.py"],
        "text=Failed": ["failed.py"],
        "text=risk+waiting": ["waiting.py"],
        "text=nobody": [],
        "text=risk&owner=bob&status=queued": ["waiting.py"],
        "owner=bob&status=failed": [],
        "environment=a1b2": ["running.py"],
        "environment=a1b": [],
    }.items():
        assert names(api, query) == wanted, query


def test_an_id_as_text_finds_that_job(api: Client):
    job = a_job()
    a_job()
    assert [row["job_id"] for row in listed(api, f"text={job.pk}")["jobs"]] == [str(job.pk)]
    assert listed(api, f"text={uuid.uuid4()}")["jobs"] == []


def test_a_range_holds_its_beginning_and_not_its_end(api: Client):
    for hours in range(3):
        job = a_job(script_name=f"h{hours}.py")
        Job.objects.filter(pk=job.pk).update(created_at=MOMENT + timedelta(hours=hours))
    for query in (
        "created_after=2026-01-01T01:00:00Z&created_before=2026-01-01T02:00:00Z",
        "created_after=2026-01-01T01:00&created_before=2026-01-01 02:00",
        "created_after=2026-01-01T02:00:00+01:00&created_before=2026-01-01T03:00:00%2B01:00",
    ):
        assert names(api, query) == ["h1.py"], query
    assert len(names(api, "created_after=2026-01-01")) == 3


@pytest.mark.parametrize(
    "query",
    [
        *("status=faild", "phase=x", "reason=", "limit=0", "limit=201", "limit=ten", "limit=²"),
        *("tag=team", "tag==x", "created_after=yesterday", "created_before=2026-02-31"),
        *(
            "created_after=0001-01-01T00:00:00%2B10:00",
            "cursor=nonsense",
            "cursor=",
            "cursor=bnVsbA",
        ),
        *("text=%20", "text=!!", "text=a%00b", "experiment=", "status=failed&status=queued"),
        *("stauts=failed", "offset=5", "text=a+b+c+d+e+f+g+h+i+j+k"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(api: Client, query: str):
    assert wrong(api, query) == {query.partition("=")[0]}


def test_all_that_is_wrong_comes_in_one_answer(api: Client):
    assert wrong(api, "status=x&limit=0&tag=a&colour=red") == {"status", "limit", "tag", "colour"}


def test_a_cursor_leads_back_to_its_place():
    place = Place(timezone.now(), uuid.uuid4())
    assert place_of(cursor_of(place)) == place


@pytest.mark.parametrize("after", [None, Place(MOMENT, uuid.uuid4())], ids=["first", "next"])
@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS)
def test_every_page_is_read_from_an_index_in_its_order(db, wanted: JobFilter, after: Place | None):
    first = _rarest(_columns(wanted), wanted.terms)
    with CaptureQueriesContext(connection) as asked:
        list(jobs_query(wanted, first, after=after)[:51])
    plan = plan_of(asked.captured_queries[-1]["sql"])
    assert not plan.sorts, plan
    # The newest of all are read from their index too, and a LIMIT ends that.
    assert not plan.reads_all_of("training_job") or plan.uses("USING INDEX job_newest"), plan


def walked(api: Client, query: str) -> tuple[list[int], list[str]]:
    """How many jobs each page has, and all of their names."""
    path, sizes, found = f"{LIST}?{query}", [], []
    while path:
        answer = api.get(path).json()
        sizes.append(len(answer["jobs"]))
        found += [job["script_name"] for job in answer["jobs"]]
        path = answer["next"]
    return sizes, found


@pytest.mark.parametrize(
    "filters",
    [
        *("experiment=ex&tag=team=risk", "tag=team=risk&text=ex", "status=queued&owner=ada"),
        *("phase=waiting&owner=ada", "phase=ended", "text=risk+ada"),
    ],
)
def test_filters_that_exclude_each_other_are_compared_for_so_long_and_the_next_page_goes_on(
    api: Client, monkeypatch: pytest.MonkeyPatch, filters: str
):
    """Jobs of one moment, so that a walk ends between two that differ in their ids only."""
    for number in range(10):
        a_job(script_name=f"a{number}.py", experiment_name="ex", owner="bob")
        a_job(script_name=f"b{number}.py", tags=(("team", "risk"),), owner="cyd")
    moments = {"created_at": MOMENT}
    Job.objects.update(**moments)
    JobTerm.objects.update(**moments)
    monkeypatch.setattr(listing, "RARE_ENOUGH", 2)
    monkeypatch.setattr(listing, "COMPARED_MAX", 4)
    sizes, found = walked(api, f"limit=3&{filters}")
    assert found == []
    # A filter that fits nothing is itself the rarest one, and its index has nothing to walk.
    assert len(sizes) in (1, 20 // 4 + 1, 10 // 4 + 1)
    if "ada" not in filters:
        assert len(sizes) > 1


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_what_is_rare_among_the_frequent_is_found_once_across_short_pages(
    api: Client, monkeypatch: pytest.MonkeyPatch, limit: int
):
    for number in range(12):
        tags = (("team", "risk"),) if number in (0, 1, 2, 11) else (("team", "growth"),)
        a_job(script_name=f"n{number}.py", experiment_name="ex", tags=tags)
        a_job(script_name=f"o{number}.py", tags=(("team", "risk"),))
    monkeypatch.setattr(listing, "RARE_ENOUGH", 2)
    monkeypatch.setattr(listing, "COMPARED_MAX", 4)
    sizes, found = walked(api, f"limit={limit}&experiment=ex&tag=team=risk")
    assert found == ["n11.py", "n2.py", "n1.py", "n0.py"]
    assert max(sizes) <= limit


def test_a_page_whose_filters_exclude_each_other_compares_no_more_however_many_jobs_there_are(
    db, monkeypatch: pytest.MonkeyPatch
):
    """Counted by the database itself, row by row."""
    if connection.vendor != "sqlite":
        pytest.skip("SQLite calls back for every so many steps.")
    monkeypatch.setattr(listing, "RARE_ENOUGH", 5)
    monkeypatch.setattr(listing, "COMPARED_MAX", 20)
    wanted = JobFilter(experiment="ex", terms=("tag:team=risk",))

    def steps() -> int:
        return steps_of(lambda: page_of_jobs(wanted, limit=50))

    def more(count: int) -> None:
        for _ in range(count):
            a_job(experiment_name="ex")
            a_job(tags=(("team", "risk"),))

    more(30)
    few = steps()
    more(120)
    assert steps() < few * 1.2


@pytest.mark.parametrize("status", Status.values)
@pytest.mark.parametrize("reason", Reason.values)
def test_a_reason_that_never_leads_to_a_status_is_answered_without_a_query(
    db, status: str, reason: str
):
    with CaptureQueriesContext(connection) as asked:
        page_of_jobs(JobFilter(status=status, reason=reason), limit=50)
    assert bool(asked) == (ENDINGS[Reason(reason)].status == status)


@pytest.mark.parametrize("status", Status.values)
@pytest.mark.parametrize("phase", Phase.values)
def test_a_phase_that_a_status_never_has_is_answered_without_a_query(db, status: str, phase: str):
    with CaptureQueriesContext(connection) as asked:
        page_of_jobs(JobFilter(status=status, phase=phase), limit=50)
    of_queued = phase == Phase.WAITING
    fits = of_queued if status == Status.QUEUED else (phase == Phase.ENDED) == (status in TERMINAL)
    assert bool(asked) == (fits and (of_queued <= (status == Status.QUEUED)))


def test_a_reason_says_its_status_and_phase_too(api: Client, room):
    a_job(script_name="failed.py")
    ended(claimed(), Reason.TIMEOUT)
    for query in ("", "&status=failed", "&phase=ended", "&status=failed&phase=ended"):
        assert names(api, f"reason=timeout{query}") == ["failed.py"]


@pytest.mark.parametrize("query", ["", "text=churn+train", "tag=team=growth&status=queued"])
def test_a_page_reads_no_long_column_and_asks_as_often_for_one_job_as_for_many(
    api: Client, query: str
):
    a_job()
    a_job()
    with CaptureQueriesContext(
        connection,
    ) as few:
        listed(api, query)
    for _ in range(10):
        a_job()
    with CaptureQueriesContext(connection) as many:
        listed(api, query)
    assert len(few) == len(many)
    for asked in many.captured_queries:
        for column in ('"script"', '"environment_lock"', '"data"', '"environment"'):
            assert column not in asked["sql"]

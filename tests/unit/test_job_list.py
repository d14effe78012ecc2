"""The list of jobs: pages that neither lose nor repeat, filters, and plans that stay flat."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.fixtures.plans import plan_of
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training.api.queries import cursor_of, place_of
from training.listing import JobFilter, Place, jobs_query
from training.models import Job, JobTerm
from training.states import Phase, Reason

LIST = "/mlops/training/jobs"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
FILTERS = {
    "nothing": JobFilter(),
    "status": JobFilter(status="failed"),
    "reason": JobFilter(reason="timeout"),
    "experiment": JobFilter(experiment="churn"),
    "model": JobFilter(model="churn"),
    "owner": JobFilter(owner="ada"),
    "a tag": JobFilter(terms=("tag:team=growth",)),
    "words": JobFilter(terms=("word:churn", "word:train")),
    "a range": JobFilter(created_after=MOMENT, created_before=MOMENT),
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
    a_job(script_name="running.py", model_name="mo")
    claimed()
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
    with CaptureQueriesContext(connection) as asked:
        list(jobs_query(wanted, after=after)[:51])
    plan = plan_of(asked.captured_queries[-1]["sql"])
    assert not plan.sorts, plan
    # The newest of all are read from their index too, and a LIMIT ends that.
    assert not plan.reads_all_of("training_job") or plan.uses("USING INDEX job_newest"), plan


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

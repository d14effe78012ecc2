"""The console's list of jobs: what a row says, filters as links, and acts that ask first."""

import html
import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.fixtures.pages import words
from tests.fixtures.people import somebody
from tests.fixtures.plans import plan_of
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training import listing
from training.console import tags
from training.models import Job
from training.services.cancel import cancel
from training.services.finish import end
from training.states import EndReason, Reason

pytestmark = pytest.mark.django_db
LIST = reverse("admin:training_job_changelist")
ASK, ACT = reverse("admin:training_job_ask"), reverse("admin:training_job_act")


@pytest.fixture
def operator() -> Client:
    return somebody("operator")


def page_of(client: Client, query: str = "") -> str:
    answer = client.get(f"{LIST}?{query}" if query else LIST)
    assert answer.status_code == 200, answer.headers.get("Location")
    return answer.content.decode()


def scripts(page: str) -> list[str]:
    """In the order of the rows."""
    return re.findall(r'<td class="lead"><a [^>]*>([^<]*)</a>', page)


def sent(action: str, *jobs: Job, back: str = "") -> dict[str, Any]:
    return {"action": action, "job": [str(job.pk) for job in jobs], "back": back}


def asked(client: Client, action: str, *jobs: Job) -> str:
    return words(
        client.post(ASK, sent(action, *jobs), headers={"HX-Request": "true"}).content.decode()
    )


def said(client: Client, action: str, *jobs: Job, back: str = "") -> list[str]:
    answer = client.post(ACT, sent(action, *jobs, back=back), follow=True)
    return [str(message) for message in answer.context["messages"]]


def failed(reason: Reason = Reason.MISSING_MODULE, *, sentence: str = "", **changed: Any) -> Job:
    job = a_job(**changed)
    attempt = claimed()
    end(attempt, EndReason.of(reason, sentence=sentence))
    job.refresh_from_db()
    return job


# -- what a row says -------------------------------------------------------------------------------
def test_a_failed_job_says_why_in_its_row(operator: Client, room: Any):
    failed(sentence="No module named 'xgboost'.")
    page = words(page_of(operator))
    assert "Failed missing module" in page and "No module named 'xgboost'." in page


def test_only_the_first_line_of_a_long_failure_is_shown(operator: Client, room: Any):
    failed(sentence="a" * 500 + "\nsecond line")
    page = page_of(operator)
    assert "a" * 200 + "…" in page and "a" * 201 not in page and "second line" not in page


def test_a_running_job_says_its_phase_and_a_waiting_one_why_it_waits(operator: Client, room: Any):
    a_job(script_name="first.py")
    claimed()
    a_job(script_name="second.py")
    a_job(script_name="third.py")
    page = words(page_of(operator))
    assert "Running building environment" in page
    assert "Queued is being taken" in page and "Queued 2nd in line" in page


def test_a_completed_job_has_its_version_and_a_bar_beside_the_longest(operator: Client, room: Any):
    for seconds in (30, 60):
        job = a_job(script_name=f"s{seconds}.py")
        ended(claimed(), Reason.SUCCEEDED, model_version="7")
        start = timezone.now() - timedelta(hours=1)
        end_at = start + timedelta(seconds=seconds)
        Job.objects.filter(pk=job.pk).update(started_at=start, completed_at=end_at)
    page = page_of(operator)
    assert "v7" in page
    assert re.findall(r'<rect width="(\d+)%"', page) == ["100", "50"]
    assert "30s" in page and "1m 0s" in page


def test_another_priority_than_the_usual_is_told(operator: Client):
    job = a_job()
    assert "priority</span>" not in page_of(operator)
    Job.objects.filter(pk=job.pk).update(priority=2)
    assert "high priority</span>" in page_of(operator)


def test_what_a_stranger_wrote_is_text(operator: Client, room: Any):
    evil = "<script>alert(1)</script>\u202e"
    failed(experiment_name=evil, model_name=evil, owner=evil, sentence=evil)
    for query in ("", f"experiment={quote(evil)}", f"text={quote(evil)}", f"status={quote(evil)}"):
        page = page_of(operator, query)
        assert "<script>alert" not in page
        shown = re.sub(r'<input [^>]*>|href="[^"]*"', "", page)
        assert "\u202e" not in shown, query


def test_a_name_that_steers_text_cannot_hide_in_the_question(operator: Client):
    job = a_job(script_name="train.py")
    Job.objects.filter(pk=job.pk).update(script_name="a\u202eyp.live")
    assert "a\\u202eyp.live leaves the queue" in asked(operator, "cancel", job)


# -- filters ---------------------------------------------------------------------------------------
def test_each_filter_is_a_link_and_finds_its_jobs(operator: Client, room: Any):
    failed(script_name="failed.py", experiment_name="ex", tags=(("team", "risk"),))
    a_job(script_name="waiting.py", owner="bob", model_name="mo")
    for query, found in {
        "": ["waiting.py", "failed.py"],
        "status=failed": ["failed.py"],
        "reason=missing_module": ["failed.py"],
        "experiment=ex": ["failed.py"],
        "model=mo": ["waiting.py"],
        "owner=bob": ["waiting.py"],
        "tag=team%3Drisk": ["failed.py"],
        "text=waiting": ["waiting.py"],
        "date=24h": ["waiting.py", "failed.py"],
        "date=1h&status=failed": ["failed.py"],
        "created_before=2000-01-01": [],
        "owner=nobody": [],
    }.items():
        assert scripts(page_of(operator, query)) == found, query


def tag_choices(page: str) -> list[str]:
    choice = page.partition('aria-label="Tag of the newest jobs"')[2].partition("</select>")[0]
    return [html.unescape(tag) for tag in re.findall(r'<option value="([^"]+)"', choice)]


def test_a_tag_is_chosen_from_those_that_the_newest_jobs_have(operator: Client):
    for team, kind in (("growth", "nightly"), ("growth", "sweep"), ("risk & co", "nightly")):
        a_job(script_name=f"{team}.py", tags=(("team", team), ("kind", kind)))
    page = page_of(operator)
    assert tag_choices(page) == [
        *("kind=nightly", "kind=sweep"),
        *("team=growth", "team=risk & co"),
    ], "by name, the most frequent value first"
    assert '<optgroup label="team">' in page and "team = growth" in words(page)
    found = page_of(operator, "tag=team%3Drisk+%26+co")
    assert scripts(found) == ["risk &amp; co.py"]
    assert "team=risk & co" not in tag_choices(found), "it is on already"
    assert "tag=kind%3Dnightly" in operator.get(f"{LIST}?tag=&tag=kind%3Dnightly").url


def test_a_tag_with_a_value_of_its_own_in_every_job_is_no_choice():
    of_jobs = [{"commit": f"{number:07x}", "team": "growth"} for number in range(40)]
    assert [one.name for one in tags.names_in(of_jobs)] == ["team"]
    assert tags.names_in(of_jobs)[0].values[0].jobs == 40


def test_what_is_too_long_to_be_read_is_no_choice():
    of_jobs = [{"long": "x" * 200}, {"plain": "a"}]
    assert [one.name for one in tags.names_in(of_jobs)] == ["plain"]


def test_many_names_are_cut_to_the_frequent_ones():
    of_jobs = [{f"n{number:02}": "x" for number in range(at, 30)} for at in range(30)]
    names = [one.name for one in tags.names_in(of_jobs)]
    assert names == [f"n{number:02}" for number in range(30 - tags.NAMES_SHOWN, 30)]


def test_the_choice_of_tags_reads_a_bounded_number_of_the_newest_jobs(
    operator: Client, monkeypatch: pytest.MonkeyPatch
):
    a_job(tags=(("age", "old"),))
    for _ in range(2):
        a_job(tags=(("age", "new"),))
    monkeypatch.setattr(tags, "JOBS_READ", 2)
    with CaptureQueriesContext(connection) as queries:
        assert tag_choices(page_of(operator)) == ["age=new"]
    (query,) = [q["sql"] for q in queries.captured_queries if q["sql"].endswith("LIMIT 2")]
    plan = plan_of(query)
    assert plan.uses("job_newest") and not plan.sorts


def test_what_a_stranger_called_a_tag_is_text(operator: Client):
    a_job(tags=(("<b>\u202e", "<i>"),))
    page = page_of(operator)
    assert "<b>" not in page.partition("<optgroup")[2].partition("</optgroup>")[0]
    assert tag_choices(page) == ["<b>\u202e=<i>"]


def test_a_date_is_counted_from_now(operator: Client):
    job = a_job()
    Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(hours=2))
    assert scripts(page_of(operator, "date=1h")) == []
    assert scripts(page_of(operator, "date=24h")) == ["train.py"]


def test_the_empty_fields_of_a_form_leave_the_address(operator: Client):
    answer = operator.get(f"{LIST}?text=&status=failed&reason=&tag=")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{LIST}?status=failed")


def test_each_filter_that_is_on_can_be_taken_off(operator: Client):
    page = page_of(operator, "owner=ada&tag=team%3Dgrowth&tag=v%3D1&cursor=WyIyMDI1")
    taken_off = [
        html.unescape(link)
        for link in re.findall(r'<a href="([^"]*)" aria-label="Remove filter', page)
    ]
    assert sorted(taken_off) == [
        "?owner=ada&tag=team%3Dgrowth",
        "?owner=ada&tag=v%3D1",
        "?tag=team%3Dgrowth&tag=v%3D1",
    ]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("status=faild", "There is no 'faild'."),
        ("colour=red", "There is no such parameter."),
        ("date=soon", "There is no date 'soon'."),
        ("cursor=nonsense", "This is not a cursor of ours."),
        ("tag=team", "is not NAME=VALUE."),
    ],
)
def test_a_filter_that_is_wrong_is_named_and_nothing_is_shown(
    operator: Client, query: str, told: str
):
    a_job()
    page = page_of(operator, query)
    assert told in words(page) and scripts(page) == []


def test_the_list_that_one_is_on_is_marked(operator: Client):
    for query, tab in (("", "All"), ("owner=olga", "Mine"), ("status=failed&date=24h", "Failed")):
        marked = re.findall(r'href="\?[^"]*" aria-current="page">(\w+)', page_of(operator, query))
        assert marked == [tab]


def test_pages_lead_on_and_back_to_the_newest(operator: Client):
    for number in range(5):
        a_job(script_name=f"n{number}.py")
    first = page_of(operator, "limit=2&owner=ada")
    older = html.unescape(re.search(r'href="(\?[^"]*)" rel="next"', first).group(1))
    second = page_of(operator, older[1:])
    assert scripts(second) == ["n2.py", "n1.py"]
    assert 'href="?owner=ada">Newest' in second and ">Newest<" not in first
    last = html.unescape(re.search(r'href="(\?[^"]*)" rel="next"', second).group(1))
    assert 'rel="next"' not in page_of(operator, last[1:])


def test_nothing_yet_and_nothing_that_fits_are_told_apart(operator: Client):
    assert "No job yet" in page_of(operator)
    a_job()
    assert "No job fits these filters" in page_of(operator, "owner=nobody")


def test_a_search_that_was_long_enough_says_that_it_goes_on(
    operator: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listing, "RARE_ENOUGH", 2)
    monkeypatch.setattr(listing, "COMPARED_MAX", 4)
    for _ in range(6):
        a_job(experiment_name="ex", owner="bob")
        a_job(owner="cyd")
    page = page_of(operator, "experiment=ex&owner=cyd")
    assert "None among the newest that were compared" in page and "Look further" in page


# -- what it costs ---------------------------------------------------------------------------------
@pytest.mark.parametrize("query", ["", "status=queued&owner=ada", "text=churn"])
def test_the_list_asks_as_often_for_many_jobs_as_for_few(operator: Client, room: Any, query: str):
    def cost() -> list[str]:
        with CaptureQueriesContext(connection) as queries:
            page_of(operator, query)
        return [query["sql"] for query in queries.captured_queries]

    a_job()
    claimed()
    for _ in range(2):
        a_job()
    few = cost()
    for number in range(15):
        a_job(experiment_name=f"e{number}")
    many = cost()
    assert len(many) == len(few) <= 14
    for sql in many:
        assert '"script"' not in sql and '"environment_lock"' not in sql
        # What has ended is never counted; what is alive has a cap.
        assert not re.match(r'SELECT COUNT\(\*\) AS "__count" FROM "training_job"$', sql)


def test_rows_that_are_alive_are_refreshed_and_no_others(operator: Client, room: Any):
    done = failed()
    assert 'data-refresh="3"' not in page_of(operator)
    alive = a_job()
    page = page_of(operator)
    address = html.unescape(re.search(r'hx-get="([^"]*)"[^>]*data-refresh="3"', page).group(1))
    assert str(alive.pk) in address and str(done.pk) not in address
    cancel(alive.pk, actor="olga")
    fragment = operator.get(address).content.decode()
    assert "Cancelled" in fragment
    pieces = re.findall(r'id="([\w-]+)" hx-swap-oob', fragment)
    assert len(pieces) == 3 and all(f'id="{piece}"' in page for piece in pieces)
    assert "data-refresh" not in fragment, "what has ended is asked for no more"


def test_a_refresh_of_what_is_no_id_is_empty(operator: Client):
    answer = operator.get(reverse("admin:training_job_now"), {"job": ["x", "1' OR 1=1"]})
    assert answer.status_code == 200
    assert re.findall(rb' id="(\w+)', answer.content) == [b"alive"]


# -- it asks first ---------------------------------------------------------------------------------
def test_cancelling_says_what_happens_to_each_job_and_does_nothing_yet(operator: Client, room: Any):
    over = failed(script_name="over.py")
    running = a_job(script_name="running.py")
    claimed()
    waiting = a_job(script_name="waiting.py")
    told = asked(operator, "cancel", over, running, waiting)
    assert told.startswith("Cancel 2 jobs?")
    assert "waiting.py leaves the queue" in told
    assert "running.py is stopped before its script starts" in told
    assert "over.py has ended already (failed): nothing happens" in told
    assert "killed if it still runs after 10 s" in told
    assert Job.objects.filter(cancel_requested_at=None).count() == 3


def test_a_script_that_runs_is_told_of_with_its_time(operator: Client, room: Any):
    job = a_job()
    claimed()
    start = timezone.now() - timedelta(seconds=125)
    Job.objects.filter(pk=job.pk).update(phase="training", started_at=start)
    assert "train.py is stopped, 2m 5s after it began" in asked(operator, "cancel", job)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("rerun", "Rerun 1 job? train.py runs again as a new job of yours"),
        ("high", "Set high priority of 1 job? train.py goes from normal to high priority"),
        ("normal", "Nothing to do train.py has normal priority already"),
    ],
)
def test_every_act_says_what_it_would_do(operator: Client, action: str, told: str):
    assert asked(operator, action, a_job()).startswith(told)


def test_where_nothing_would_happen_there_is_no_button(operator: Client, room: Any):
    page = operator.post(ASK, sent("cancel", failed())).content.decode()
    assert "Nothing to do" in page
    assert 'name="action"' not in page


def test_nobody_selected_says_how_to_select(operator: Client):
    assert "No job is selected" in asked(operator, "cancel")


def test_without_javascript_the_question_is_a_page(operator: Client):
    job = a_job()
    page = operator.post(ASK, sent("cancel", job)).content.decode()
    assert page.startswith("<!DOCTYPE html>") and f'value="{job.pk}"' in page
    assert (
        operator.post(ASK, sent("cancel", job), headers={"HX-Request": "true"})
        .content.decode()
        .startswith("<dialog")
    )


def test_the_harmless_button_comes_first_and_the_other_has_verb_and_count(operator: Client):
    page = operator.post(ASK, sent("cancel", a_job(), a_job())).content.decode()
    footer = page[page.index("<footer>") :]
    assert words(footer).startswith("Keep them Cancel 2 jobs")


@pytest.mark.parametrize("path", [ASK, ACT])
def test_an_act_that_there_is_none_of_is_not_found(operator: Client, path: str):
    assert operator.post(path, {"action": "delete", "job": []}).status_code == 404
    assert operator.get(path).status_code == 405


# -- and tells what it did -------------------------------------------------------------------------
def test_the_result_says_what_was_done_and_what_was_not(operator: Client, room: Any):
    over = failed(script_name="over.py")
    waiting = a_job(script_name="waiting.py")
    done, refused = said(operator, "cancel", over, waiting)
    short = str(waiting.pk)[:8]
    assert done == (
        "1 job cancelled or being stopped.\n"
        f"waiting.py {short}: The job was cancelled while it waited."
    )
    assert refused.startswith("1 job left as before.\nover.py")
    waiting.refresh_from_db()
    assert waiting.status == "cancelled"


def test_what_became_of_a_job_since_the_question_decides(operator: Client, room: Any):
    job = a_job()
    assert "leaves the queue" in asked(operator, "cancel", job)
    ended(claimed(), Reason.TIMEOUT)
    assert said(operator, "cancel", job)[0].startswith("1 job left as before.")


def test_one_that_is_refused_keeps_none_of_the_others_from_running_again(
    operator: Client, settings: Any
):
    jobs = [a_job(), a_job()]
    settings.JOB_CAPS = {**settings.JOB_CAPS, "queue_jobs": 3}
    done, refused = said(operator, "rerun", *jobs)
    assert done.startswith("1 job run again.") and "no more are accepted" in refused
    assert Job.objects.filter(owner="olga").count() == 1


def test_after_an_act_one_is_back_at_the_same_list(operator: Client):
    answer = operator.post(ACT, sent("cancel", a_job(), back="owner=ada&status=queued"))
    assert answer.headers["Location"] == f"{LIST}?owner=ada&status=queued"


@pytest.mark.parametrize("back", ["//evil.example", "http://evil.example/", "\r\nX-Evil: 1"])
def test_an_act_leads_nowhere_else(operator: Client, back: str):
    answer = operator.post(ACT, sent("cancel", a_job(), back=back))
    assert answer.headers["Location"].startswith(f"{LIST}?")
    assert "X-Evil" not in answer.headers


def test_priorities_move_what_waits_and_leave_a_line_in_its_history(operator: Client, room: Any):
    first, second = a_job(), a_job()
    said(operator, "high", second)
    second.refresh_from_db()
    assert (second.priority, second.revision) == (2, 1)
    event = second.events.get(name="priority_changed")
    assert (event.actor, event.detail) == ("olga", "normal to high")
    assert claimed().job_id == second.pk
    assert "runs already" in said(operator, "low", second)[0]
    first.refresh_from_db()
    assert first.priority == 1


def test_a_data_scientist_cancels_his_own_jobs_only():
    scientist = somebody("data scientist")
    mine, theirs = a_job(owner="olga"), a_job(owner="bob")
    done, refused = said(scientist, "cancel", mine, theirs)
    assert done.startswith("1 job cancelled")
    assert "is not yours: only an operator may cancel it" in refused
    theirs.refresh_from_db()
    assert theirs.status == "queued"


def test_more_than_a_page_of_jobs_is_never_touched_at_once(operator: Client, monkeypatch: Any):
    monkeypatch.setattr("training.console.bulk.LIMIT_MAX", 2)
    said(operator, "cancel", *[a_job() for _ in range(3)])
    assert Job.objects.filter(status="cancelled").count() == 2

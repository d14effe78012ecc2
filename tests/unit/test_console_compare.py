"""Two jobs side by side: is the second better, what was changed, what did it cost."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from registry.mlflow_client import RegistryUnavailable, RunNotFound
from registry.mlflow_documents import Run
from tests.fixtures.pages import words
from tests.fixtures.people import GROUPS, somebody
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training.console import compare, differences
from training.console.differences import Difference, Row, Side, difference
from training.models import Job, JobEvent
from training.states import Phase, Reason

pytestmark = pytest.mark.django_db
COMPARE, CHOSEN = reverse("admin:job_compare"), reverse("admin:job_chosen")
LIST = reverse("admin:training_job_changelist")
EVIL = "<script>alert(1)</script>\u202e"


class Mlflow:
    """What it knows, by the run's id; `silent` when it does not answer."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.silent = False

    @property
    def catalog(self) -> "Mlflow":
        return self

    def run(self, run_id: str) -> Run:
        if self.silent:
            raise RegistryUnavailable
        if run_id not in self.runs:
            raise RunNotFound(run_id)
        return self.runs[run_id]


@pytest.fixture(autouse=True)
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    made = Mlflow()
    monkeypatch.setattr(compare, "model_registry", lambda: made)
    return made


@pytest.fixture
def viewer() -> Client:
    return somebody("viewer")


def with_run(mlflow: Mlflow, metrics: Any = None, parameters: Any = None, **changed: Any) -> Job:
    job = a_job(**changed)
    Job.objects.filter(pk=job.pk).update(run_id=f"run-{job.pk.hex[:8]}")
    job.refresh_from_db()
    run = Run(job.run_id, "", "1", "FINISHED", metrics or {}, parameters or {}, {})
    mlflow.runs[job.run_id] = run
    return job


def page_of(client: Client, first: Job, second: Job, **more: str) -> str:
    answer = client.get(COMPARE, {"a": str(first.pk), "b": str(second.pk), **more})
    assert answer.status_code == 200
    return answer.content.decode()


def card(page: str, name: str) -> str:
    """What one reads in the section of that name."""
    return words(page[page.index(f'aria-label="{name}"') :].partition("</section>")[0])


# -- better or worse -------------------------------------------------------------------------------
def test_metrics_stand_side_by_side_with_their_difference_and_what_it_means(
    viewer: Client, mlflow: Mlflow
):
    first = with_run(mlflow, {"accuracy": 0.8912, "log_loss": 0.28, "only_a": 1.0})
    second = with_run(mlflow, {"accuracy": 0.9034, "log_loss": 0.29})
    told = card(page_of(viewer, first, second), "Metrics")
    assert "1 better, 1 worse" in told
    assert "accuracy 0.8912 0.9034 +0.0122 better" in told
    assert "log_loss 0.2800 0.2900 +0.0100 worse" in told and "only_a 1 – –" in told


def test_parameters_that_differ_come_first_and_equal_ones_are_folded(
    viewer: Client, mlflow: Mlflow
):
    first = with_run(mlflow, parameters={"depth": "8", "trees": "100"})
    second = with_run(mlflow, parameters={"depth": "8", "trees": "300"})
    page = page_of(viewer, first, second)
    told = card(page, "Parameters")
    assert "1 differs" in told and "trees 100 300" in told
    assert "<details" in page and told.index("trees") < told.index("1 equal parameter")


def test_an_mlflow_that_is_silent_is_said_and_takes_nothing_else(viewer: Client, mlflow: Mlflow):
    first, second = with_run(mlflow, script="a = 1\n"), with_run(mlflow, script="a = 2\n")
    mlflow.silent = True
    page = page_of(viewer, first, second)
    assert "MLflow does not answer." in words(page)
    assert "1 line added, 1 removed" in words(page)


def test_a_run_that_is_gone_and_one_that_never_was_are_told_apart(viewer: Client, mlflow: Mlflow):
    first, second = with_run(mlflow), a_job()
    mlflow.runs.clear()
    told = words(page_of(viewer, first, second))
    assert "The run of A was deleted in MLflow." in told and "B has no run in MLflow yet." in told


# -- what was changed ------------------------------------------------------------------------------
def test_what_was_asked_for_is_compared_by_names_and_never_by_values(viewer: Client):
    first = a_job(environment=(("KEY", "one"), ("GONE", "x")), timeout=300)
    second = a_job(
        environment=(("KEY", "two"), ("NEW", "y")), timeout=600, requirements=("pandas",)
    )
    page = page_of(viewer, first, second)
    told = card(page, "Asked for")
    assert "Requirement – pandas" in told and "Requirement scikit-learn –" in told
    assert "Variable GONE –" in told and "Variable – NEW" in told and "Time 5m 0s 10m 0s" in told
    assert "KEY" not in told and "one" not in told.split() and "two" not in told.split()


def test_two_jobs_whose_values_alone_differ_are_told_to_be_the_same(viewer: Client):
    """Otherwise a secret could be found out by trying."""
    first = a_job(environment=(("KEY", "one"),))
    pages = [
        page_of(viewer, first, a_job(environment=(("KEY", value),))) for value in ("one", "two")
    ]
    assert card(pages[0], "Asked for") == card(pages[1], "Asked for")


def test_packages_that_differ_are_listed_and_equal_ones_are_counted(viewer: Client):
    first, second = a_job(), a_job()
    one, other = "numpy==2.0.2\nscipy==1.14.1\n", "numpy==2.1.3\nscipy==1.14.1\nxgboost==2.1.2\n"
    Job.objects.filter(pk=first.pk).update(environment_lock=one)
    Job.objects.filter(pk=second.pk).update(environment_lock=other)
    told = card(page_of(viewer, first, second), "Lock")
    assert "2 packages differ, 1 do not" in told
    assert "numpy 2.0.2 2.1.3" in told and "xgboost – 2.1.2" in told and "scipy" not in told


def test_what_is_not_resolved_is_not_told_to_be_the_same(viewer: Client):
    told = card(page_of(viewer, a_job(), a_job()), "Lock")
    assert "when the requirements of both are resolved" in told


def test_equal_lines_are_folded_and_one_address_shows_them_all(viewer: Client):
    same = "".join(f"line_{n} = {n}\n" for n in range(40))
    first, second = a_job(script=f"{same}end = 1\n"), a_job(script=f"{same}end = 2\n")
    page = page_of(viewer, first, second)
    assert "37 equal lines" in page and "line_3 = 3<" not in page and "line_39 = 39<" in page
    assert "whole=1#script" in page
    whole = page_of(viewer, first, second, whole="1")
    assert "line_3 = 3<" in whole and "equal lines</a></td>" not in whole


def test_phases_stand_with_what_the_second_took_more(viewer: Client):
    jobs = [a_job(), a_job()]
    for job, seconds in zip(jobs, (100, 112), strict=True):
        JobEvent.objects.filter(job=job).delete()
        at = job.created_at
        for phase, offset in ((Phase.TRAINING, 0), (Phase.ENDED, seconds)):
            moment = at + _seconds(offset)
            JobEvent.objects.create(job=job, at=moment, name="x", status=job.status, phase=phase)
    told = card(page_of(viewer, *jobs), "Cost")
    assert "Training 1m 40s 1m 52s +12 %" in told and "Memory, peak – –" in told


def _seconds(count: int) -> Any:
    return timedelta(seconds=count)


# -- which two -------------------------------------------------------------------------------------
def test_a_job_is_compared_with_the_one_before_it_in_its_experiment(viewer: Client):
    first, _, last = a_job(), a_job(experiment_name="other"), a_job()
    answer = viewer.get(COMPARE, {"a": "before", "b": str(last.pk)})
    assert answer.headers["Location"] == f"{COMPARE}?a={first.pk}&b={last.pk}"


def test_the_first_job_of_an_experiment_asks_for_another_one(viewer: Client):
    job = a_job()
    page = viewer.get(COMPARE, {"a": "before", "b": str(job.pk)}).content.decode()
    assert "There is no earlier job of churn" in words(page) and f'value="{job.pk}"' in page


def test_without_two_jobs_it_asks_which(viewer: Client):
    page = viewer.get(COMPARE).content.decode()
    assert 'name="a"' in page and 'name="b"' in page


@pytest.mark.parametrize("other", ["nonsense", "7ad31c90-41e2-4f5b-8a6d-0d8b2c19e7f4", "<b>"])
def test_a_job_that_there_is_none_of_is_not_found(viewer: Client, other: str):
    assert viewer.get(COMPARE, {"a": str(a_job().pk), "b": other}).status_code == 404
    assert viewer.get(COMPARE, {"a": "before", "b": other}).status_code == 404


def test_two_of_the_list_are_compared_the_older_one_first():
    client, first, second = somebody("data scientist"), a_job(), a_job()
    assert f'formaction="{CHOSEN}"' in client.get(LIST).content.decode()
    answer = client.post(CHOSEN, {"job": [str(second.pk), str(first.pk)]})
    assert answer.headers["Location"] == f"{COMPARE}?a={first.pk}&b={second.pk}"


@pytest.mark.parametrize(("count", "told"), [(0, "None is"), (1, "One is"), (3, "3 are")])
def test_any_other_number_of_jobs_is_not_compared(count: int, told: str):
    client, jobs = somebody("operator"), [a_job() for _ in range(3)]
    sent = {"job": [str(job.pk) for job in jobs[:count]], "back": "status=queued"}
    answer = client.post(CHOSEN, sent, follow=True)
    assert answer.redirect_chain[0][0] == f"{LIST}?status=queued"
    assert f"Select two jobs to compare them. {told} selected." in words(answer.content.decode())


def test_the_page_leads_to_the_swapped_one_and_to_a_rerun_for_who_may():
    first, second = a_job(), a_job()
    page = page_of(somebody("data scientist"), first, second)
    assert f"?a={second.pk}&amp;b={first.pk}" in page
    assert f"{reverse('admin:job_new')}?from={second.pk}" in page
    assert "Rerun B" not in page_of(somebody("viewer", name="vera"), first, second)


# -- strangers, rights, cost -----------------------------------------------------------------------
def test_what_a_stranger_wrote_is_text(viewer: Client, mlflow: Mlflow, room: Any):
    hostile = {"script": f"{EVIL}\n", "experiment_name": EVIL, "owner": EVIL, "model_name": EVIL}
    first = with_run(mlflow, {EVIL: 1.0}, {EVIL: EVIL}, **hostile)
    ended(claimed(), Reason.SCRIPT_ERROR)
    Job.objects.filter(pk=first.pk).update(error=EVIL, environment_lock=f"{EVIL}==1")
    tags, variables = ((EVIL, EVIL),), ((EVIL, "x"),)
    second = with_run(mlflow, {EVIL: 2.0}, {EVIL: "x"}, tags=tags, environment=variables)
    page = page_of(viewer, first, second)
    assert "<script>alert" not in page and "\u202e" not in page
    assert not re.search(r"<style|style=|\son\w+=|javascript:|hx-on", page)


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_compares_and_nobody_else_does(group: str):
    first, second = a_job(), a_job()
    asked = {"a": str(first.pk), "b": str(second.pk)}
    assert somebody(group).get(COMPARE, asked).status_code == 200
    assert somebody(name="nobody").get(COMPARE, asked).status_code == 302
    assert somebody(name="staff", staff=True).get(COMPARE, asked).status_code == 403


def test_a_page_costs_few_queries(viewer: Client):
    first, second = a_job(), a_job()
    with CaptureQueriesContext(connection) as queries:
        page_of(viewer, first, second)
    assert len(queries) <= 15


# -- differences of texts --------------------------------------------------------------------------
def texts(side: Side | None) -> str:
    return "".join(bit.text for bit in side.bits) if side else ""


def shown(found: Difference) -> list[tuple[str, str]]:
    return [(texts(row.left), texts(row.right)) for row in found.rows if not row.folded]


def test_lines_stand_beside_each_other_with_what_differs_inside():
    found = difference("a = 1\nb = [1, 2]\n", "a = 1\nb = [1, 2, 3]\nc = 3\n")
    assert (found.added, found.removed) == (2, 1)
    assert shown(found)[1:] == [("b = [1, 2]", "b = [1, 2, 3]"), ("", "c = 3")]
    right = found.rows[1].right
    assert right and [bit.text for bit in right.bits if bit.changed] == [", 3"]


def test_lines_that_have_nothing_in_common_are_not_marked_inside():
    (row,) = difference("import os\n", "x = 1\n").rows
    assert row.left and not any(bit.changed for bit in row.left.bits)


def test_texts_that_differ_in_the_ends_of_their_lines_only_are_the_same():
    assert difference("a\r\nb\r\n", "a\nb\n").rows == []


def test_what_only_looks_like_the_end_of_a_line_is_none():
    assert len(difference("a\u2028b\x0cc\n", "a\n").rows) == 1


def test_every_line_of_both_is_shown_once_and_in_order():
    left = "".join(f"{n % 7}\n" for n in range(60))
    right = "".join(f"{n % 5}\n" for n in range(60))
    rows = difference(left, right, folds=0).rows
    for side, text in (("left", left), ("right", right)):
        found = [getattr(row, side) for row in rows if getattr(row, side)]
        assert [one.number for one in found] == list(range(1, 61))
        assert "".join(f"{texts(one)}\n" for one in found) == text


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a\nb\n" * 2000, "b\na\nc\n" * 1300),
        ("".join(f"{n % 97}\n" for n in range(3900)), "".join(f"{n % 89}\n" for n in range(3900))),
        ("x = 1\n" * 500_000, "y = 2\n" * 500_000),
        ("a b " * 250_000, "b a " * 250_000),
    ],
    ids=["repeated", "periodic", "many lines", "one line"],
)
def test_of_hostile_texts_no_more_is_shown_than_a_page_may_hold(left: str, right: str):
    found = difference(left, right)
    assert found.rows and len(found.rows) <= differences.ROWS_MOST


def test_a_long_line_is_cut_and_a_long_text_says_that_it_goes_on():
    assert len(texts(difference("a\n", "b" * 5000).rows[0].right)) == 1001
    found = difference("a\n" * 30_000, "a\n" * 30_000 + "b\n")
    assert found == Difference([], 0, 0, is_cut=True)
    assert isinstance(difference("a\n", "b\n").rows[0], Row)

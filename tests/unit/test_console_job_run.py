"""Behind the page of a job: what its run logged, what it used over time, what happened to it."""

import html
import json
import math
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from registry.mlflow_client import ModelVersionNotFound, RegistryUnavailable, RunNotFound
from registry.mlflow_documents import Artifact, Point, Run
from registry.mlflow_models import AboutModel
from registry.signatures import Declared
from tests.fixtures.people import somebody
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training.console import run as run_page
from training.models import Job, JobEvent, UsageSeries

pytestmark = pytest.mark.django_db
EVIL = "<script>alert(1)</script>\u202e"
RUN = "f" * 32


@dataclass
class Logged:
    """MLflow's catalogue of one run."""

    metrics: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    files: list[Artifact] = field(default_factory=list)
    error: Exception | None = None
    declared: Declared | None = None

    def version(self, name: str, number: str) -> str:
        if self.declared is None:
            raise ModelVersionNotFound(name, number)
        return number

    def about(self, version: str) -> AboutModel:
        return AboutModel(declared=self.declared or Declared.UNKNOWN)

    @property
    def catalog(self) -> "Logged":
        return self

    def run(self, run_id: str) -> Run:
        if self.error:
            raise self.error
        known = frozenset(self.curves)
        return Run(run_id, "name", "7", "FINISHED", self.metrics, self.parameters, {}, known)

    def curve(self, run_id: str, metric: str, *, points: int) -> list[Point]:
        values = self.curves[metric]
        return [
            Point(at, value, datetime(2026, 1, 1, tzinfo=UTC)) for at, value in enumerate(values)
        ]

    def artifacts(self, run_id: str) -> list[Artifact]:
        return self.files


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Logged:
    made = Logged()
    monkeypatch.setattr(run_page, "model_registry", lambda: made)
    return made


@pytest.fixture
def viewer() -> Client:
    return somebody("viewer")


def piece(client: Client, what: str, job: Job) -> str:
    answer = client.get(reverse(f"admin:training_job_{what}", args=[job.pk]))
    assert answer.status_code == 200
    return answer.content.decode()


def charts_in(page: str) -> list[dict]:
    return [json.loads(html.unescape(found)) for found in re.findall(r'data-chart="(.*?)"', page)]


def with_run() -> Job:
    job = a_job()
    Job.objects.filter(pk=job.pk).update(run_id=RUN)
    return job


def test_metrics_parameters_and_artifacts_of_the_run_are_told(viewer: Client, logged: Logged):
    logged.metrics, logged.parameters = {"accuracy": 0.93125}, {"trees": "100"}
    logged.files = [Artifact("plots", True, None), Artifact("notes.txt", False, 2048)]
    page = piece(viewer, "run", with_run())
    assert "0.93125" in page and "trees" in page
    assert "plots/" in page and "2 KB" in page
    assert f"/runs/{RUN}/artifacts/notes.txt" in page


def test_a_metric_with_steps_is_a_curve_and_what_is_no_number_a_gap(viewer: Client, logged: Logged):
    logged.metrics = {"loss": 0.25}
    logged.curves = {"loss": [1.0, math.nan, 0.25]}
    (chart,) = charts_in(piece(viewer, "run", with_run()))
    assert chart["axis"] == "step" and chart["x"] == [0, 1, 2]
    assert chart["lines"][0]["values"] == [1.0, None, 0.25]


def test_a_curve_is_told_in_words_too(viewer: Client, logged: Logged):
    logged.metrics, logged.curves = {"loss": 0.25}, {"loss": [1.0, 0.25]}
    page = piece(viewer, "run", with_run())
    assert 'aria-label="loss: 0.25. loss from 0.25 to 1, last 0.25"' in page


def test_names_that_a_script_gave_are_shown_and_not_obeyed(viewer: Client, logged: Logged):
    logged.metrics, logged.parameters = {EVIL: 1.0}, {EVIL: EVIL}
    logged.curves = {EVIL: [1.0, 2.0]}
    logged.files = [Artifact(EVIL, False, 1)]
    page = piece(viewer, "run", with_run())
    assert "<script>" not in page and "\u202e" not in html.unescape(
        re.sub(r'data-chart=".*?"', "", page)
    )


def test_an_mlflow_that_is_silent_is_said_and_no_error(viewer: Client, logged: Logged):
    logged.error = RegistryUnavailable()
    assert "MLflow does not answer." in piece(viewer, "run", with_run())


def test_a_run_that_was_deleted_is_said(viewer: Client, logged: Logged):
    logged.error = RunNotFound(RUN)
    assert "deleted in MLflow" in piece(viewer, "run", with_run())


def test_a_job_without_a_run_asks_nobody_and_says_how_there_is_one(viewer: Client, logged: Logged):
    logged.error = AssertionError("nobody may be asked")
    assert "opens its MLflow run" in piece(viewer, "run", a_job())


@pytest.mark.parametrize("what", ["run", "history"])
def test_a_piece_of_an_ended_job_asks_no_more(viewer: Client, logged: Logged, room, what: str):
    job = a_job()
    assert "data-refresh" in piece(viewer, what, job)
    ended(claimed())
    assert "hx-get" not in piece(viewer, what, job)


@pytest.mark.parametrize("what", ["run", "history"])
def test_a_job_that_is_not_there_is_not_found(viewer: Client, logged: Logged, what: str):
    address = reverse(f"admin:training_job_{what}", args=[uuid.uuid4()])
    assert viewer.get(address).status_code == 404


@pytest.mark.parametrize("what", ["run", "history"])
def test_whoever_may_not_see_jobs_sees_no_piece(logged: Logged, what: str):
    address = reverse(f"admin:training_job_{what}", args=[a_job().pk])
    assert Client().get(address).status_code == 302


def test_what_happened_is_told_in_words_and_in_order(viewer: Client, room):
    job = a_job()
    ended(claimed())
    page = piece(viewer, "history", job)
    words = ["Accepted", "Taken by a worker", "Failed"]
    assert sorted(words, key=page.index) == words
    assert "script error" in page


def test_of_a_long_story_the_newest_is_told(viewer: Client):
    job = a_job()
    again = JobEvent.objects.get(job=job)
    for _ in range(250):
        again.pk = None
        again.save()
    page = piece(viewer, "history", job)
    assert page.count("<tr><td") == 200 and "the newest 200" in page


def test_use_over_time_stands_beside_its_limit(viewer: Client, room):
    job = a_job()
    values = {"step_seconds": 5, "memory_bytes": [10 * 2**20, None, 30 * 2**20]}
    UsageSeries.objects.create(attempt=claimed(), cpus=[None, 0.5, 0.75], **values)
    memory, cpus = charts_in(piece(viewer, "history", job))
    assert memory["x"] == [0, 5, 10]
    assert memory["lines"][0]["values"] == [10.0, None, 30.0]
    assert memory["lines"][1]["values"] == [job.memory_mb] * 3
    assert cpus["lines"][0]["values"] == [None, 0.5, 0.75]


def test_a_piece_costs_few_queries(viewer: Client, room):
    job = a_job()
    claimed()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        piece(viewer, "history", job)
    assert len(queries) <= 15


# -- the signature of the model that it registered -------------------------------------------------
def registered(*, lock: str = "") -> Job:
    job = with_run()
    Job.objects.filter(pk=job.pk).update(model_version="3", environment_lock=lock)
    return job


def test_a_lost_signature_is_told_with_the_packages_that_were_missing(
    viewer: Client, logged: Logged
):
    logged.declared = Declared.ANY
    lock = "numpy==2.1.3\npandas==2.2.3 \\\n  --hash"
    page = html.unescape(piece(viewer, "run", registered(lock=lock)))
    assert "The signature does not say what the model takes" in page
    assert "The job's environment has no scipy." in page
    assert "Name the columns and their types in the signature" in page


@pytest.mark.parametrize("declared", [Declared.NAMED, Declared.NONE, Declared.UNKNOWN])
def test_of_every_other_signature_nothing_is_told(
    viewer: Client, logged: Logged, declared: Declared
):
    logged.declared = declared
    assert "signature-lost" not in piece(viewer, "run", registered())


def test_a_version_that_is_gone_takes_nothing_else_with_it(viewer: Client, logged: Logged):
    logged.metrics = {"accuracy": 0.93}
    page = piece(viewer, "run", registered())
    assert "0.93" in page and "signature-lost" not in page

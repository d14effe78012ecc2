"""The console's pages of models: what they show, what may be done, and trying one."""

import asyncio
import html
import json
import re
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from inference import gateway, metrics
from inference.console import form, lookup, trial
from inference.console.form import FORM, JSON
from inference.descriptions import read_description
from inference.figures import figures_of, percentile
from inference.lanes import read_lane
from inference.models import AliasChange, ModelPolicy, ModelServer, VersionTally
from inference.prediction_tallies import KEPT, begin_of
from inference.services import pool
from inference.services.policy import policy_of
from inference.services.rows import ServerView
from registry.compared import compare, shown
from registry.mlflow_documents import Artifact
from registry.mlflow_models import AboutModel
from registry.signatures import Declared
from tests.fixtures.models_registry import FakeRegistry
from tests.fixtures.pages import piece, words
from tests.fixtures.people import BROWSER, GROUPS, somebody

pytestmark = pytest.mark.django_db
LIST = reverse("admin:models")
STATIC = Path(django_settings.BASE_DIR) / "mlops_site" / "static" / "mlops_site" / "console"
ODD = "Ümläut & co #1? 100%"
EVIL = "<script>alert(1)</script>\u202e"
SAID: dict[str, Any] = {
    "model_type": "RandomForestClassifier",
    "probabilities": True,
    "classes": ["stays", "churns"],
    "columns": [
        {"name": "age", "type": "long", "required": True},
        {"name": "income", "type": "double", "required": True},
        {"name": "plan", "type": "string", "required": True},
        {"name": "member", "type": "boolean", "required": True},
        {"name": "idle", "type": "double", "required": False},
    ],
    "example": {
        "inputs": {
            "age": [35],
            "income": [75000.0],
            "plan": ["pro"],
            "member": [True],
            "idle": [None],
        }
    },
    "lane": {"state": "refused", "reason": "A step is not known.", "proof": None},
}
FILLED = {
    "mode": "form",
    "in.age": "41",
    "in.income": "1e3",
    "in.plan": "pro",
    "in.member": "false",
    "in.idle": "",
}


@pytest.fixture
def registry(models_registry: FakeRegistry) -> FakeRegistry:
    models_registry.add("churn", "1", metrics={"accuracy": 0.88, "log_loss": 0.4, "rows": 10})
    models_registry.add("churn", "2", metrics={"accuracy": 0.9, "log_loss": 0.5, "rows": 12})
    return models_registry


@pytest.fixture
def operator() -> Client:
    return somebody("operator")


def a_server(**fields: Any) -> ModelServer:
    now = timezone.now()
    made: dict[str, Any] = {
        "model_name": "churn",
        "version": "2",
        "source": "models:/m-churn-2",
        "status": "ready",
        "container_id": "c",
        "address": "127.0.0.1:1",
        "memory_mb": 512,
        "cpus": 1.0,
        "description": SAID,
        "created_at": now,
        "changed_at": now,
        "ready_at": now,
        "last_used_at": now,
        **fields,
    }
    return ModelServer.objects.create(**made)


def moved(alias: str, version: str, previous: str, **fields: Any) -> None:
    AliasChange.objects.create(
        model_name="churn",
        alias=alias,
        version=version,
        previous=previous,
        at=timezone.now(),
        **{"how": "set", "actor": "ann", **fields},
    )


def model_at(name: str = "churn") -> str:
    return reverse("admin:model", args=[name])


def version_at(number: str = "2", name: str = "churn") -> str:
    return reverse("admin:model_version", args=[name, number])


def page_of(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.headers.get("Location")
    return answer.content.decode()


def asked(client: Client, action: str, name: str = "churn", **sent: str) -> str:
    answer = client.post(
        reverse("admin:model_ask", args=[name]),
        {"action": action, **sent},
        headers={"HX-Request": "true"},
    )
    assert answer.status_code == 200
    return answer.content.decode()


def said(client: Client, action: str, name: str = "churn", **sent: str) -> str:
    answer = client.post(
        reverse("admin:model_act", args=[name]), {"action": action, **sent}, follow=True
    )
    return " ".join(str(message) for message in answer.context["messages"])


# -- the list --------------------------------------------------------------------------------------
def test_a_row_says_newest_version_aliases_serving_and_last_use(
    operator: Client, registry: FakeRegistry
):
    registry.named["churn"] = {"staging": "2", "champion": "1"}
    a_server(last_used_at=timezone.now() - timedelta(minutes=5))
    page = words(page_of(operator, LIST))
    assert "churn champion v1, staging v2 v2" in page, "the champion stands first"
    assert "Ready" in page and "5 min ago" in page


def test_a_model_that_failed_says_why_in_its_row(operator: Client, registry: FakeRegistry):
    a_server(status="failed", reason="wrong_environment", error="No module named 'xgboost'")
    assert "Failed No module named 'xgboost'" in words(page_of(operator, LIST))


def test_servers_of_all_versions_are_summed_up(operator: Client, registry: FakeRegistry):
    a_server()
    a_server(version="1", status="failed", reason="crashed", error="It ended.")
    a_server(replica=2, status="stopped", reason="idle")
    assert "1 ready, 1 failed" in words(page_of(operator, LIST))


def test_a_search_finds_a_part_of_a_name(operator: Client, registry: FakeRegistry):
    registry.add("iris", "1")
    page = words(page_of(operator, f"{LIST}?text=IRI"))
    assert "iris" in page and "churn" not in page.partition("Errors")[2]
    assert "No model fits" in page_of(operator, f"{LIST}?text=nothing")


def test_an_empty_list_says_how_a_model_comes(operator: Client, models_registry: FakeRegistry):
    assert "No model yet" in page_of(operator, LIST)
    assert "No model is loaded" in page_of(operator, f"{LIST}?state=running")
    assert "No model has failed" in page_of(operator, f"{LIST}?state=failed")


def test_a_long_list_leads_on(
    operator: Client, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lookup, "MODELS_SHOWN", 1)
    registry.add("iris", "1")
    first = page_of(operator, LIST)
    following = html.unescape(re.search(r'href="([^"]*)" rel="next"', first).group(1))
    assert "iris" in page_of(operator, following) and ">First<" in page_of(operator, following)


def test_the_failed_and_the_running_are_lists_of_their_own(
    operator: Client, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lookup, "LOOKED_UP_SHOWN", 1)
    registry.add("iris", "1")
    a_server()
    for name in ("gone", "iris"):
        a_server(model_name=name, status="failed", reason="crashed", error="It ended.")
    running = words(page_of(operator, f"{LIST}?state=running"))
    assert "churn" in running and "It ended" not in running
    first = page_of(operator, f"{LIST}?state=failed")
    assert "not in MLflow any more" in first
    following = html.unescape(re.search(r'href="([^"]*)" rel="next"', first).group(1))
    assert "iris" in page_of(operator, following)


def test_without_mlflow_the_list_says_so_and_shows_what_is_known_here(
    operator: Client, registry: FakeRegistry
):
    registry.silent = True
    assert "Nothing is known here yet" in page_of(operator, LIST)
    a_server()
    AliasChange.objects.create(
        model_name="older", alias="champion", version="3", how="set", at=timezone.now()
    )
    page = words(page_of(operator, LIST))
    assert "MLflow does not answer." in page and "churn" in page and "older" in page
    assert registry.calls.count("model") == 0, "one call that is not answered is enough"


def test_a_place_in_the_list_that_is_none_is_told(operator: Client, registry: FakeRegistry):
    page = page_of(operator, f"{LIST}?after=nonsense")
    assert "Invalid page token" in page and "All models" in page


def test_the_list_asks_as_often_for_many_models_as_for_few(
    operator: Client, registry: FakeRegistry
):
    def cost() -> int:
        registry.calls.clear()
        with CaptureQueriesContext(connection) as queries:
            page_of(operator, LIST)
        assert registry.calls == ["models"]
        return len(queries.captured_queries)

    a_server()
    few = cost()
    for number in range(12):
        registry.add(f"m{number}", "1")
        a_server(model_name=f"m{number}")
    assert cost() == few <= 15


def test_rows_that_are_alive_are_refreshed_and_no_others(operator: Client, registry: FakeRegistry):
    registry.add("iris", "1")
    a_server(status="stopped", reason="idle")
    assert "data-refresh" not in page_of(operator, LIST)
    server = a_server(model_name="iris", status="starting", phase="loading", address="")
    page = page_of(operator, LIST)
    address = html.unescape(re.search(r'hx-get="([^"]*)"[^>]*data-refresh="5"', page).group(1))
    assert "iris" in address and "churn" not in address
    ModelServer.objects.filter(pk=server.pk).update(status="failed", reason="hang", error="Hung.")
    registry.calls.clear()
    fragment = operator.get(address, headers={"HX-Request": "true"}).content.decode()
    assert "Failed" in words(fragment) and registry.calls == []
    pieces = re.findall(r'id="([\w-]+)" hx-swap-oob', fragment)
    assert len(pieces) == 3 and all(f'id="{piece}"' in page for piece in pieces)
    assert "data-refresh" not in fragment, "what has ended is asked for no more"


@pytest.mark.parametrize("path", ["{list}", "{list}?text={evil}", "{model}", "{version}"])
def test_what_a_stranger_wrote_is_text(operator: Client, models_registry: FakeRegistry, path: str):
    name = f"a{EVIL}"
    models_registry.add(
        name,
        "1",
        description=EVIL,
        metrics={EVIL: 1.0},
        tags={EVIL: EVIL, "mlops.requirements": json.dumps([EVIL]), "mlops.job_id": EVIL},
    )
    models_registry.named[name] = {"champion": "1"}
    AliasChange.objects.create(
        model_name=name,
        alias=EVIL,
        version="1",
        actor=EVIL,
        note=EVIL,
        how="set",
        at=timezone.now(),
    )
    columns = [{"name": EVIL, "type": EVIL, "required": True}]
    a_server(
        model_name=name,
        version="1",
        source=f"models:/m-{name}-1",
        description={
            "model_type": EVIL,
            "classes": [EVIL],
            "columns": columns,
            "example": {"inputs": {EVIL: [EVIL]}},
            "lane": {"state": "refused", "reason": EVIL, "proof": {"form": EVIL}},
        },
    )
    a_server(
        model_name=name,
        version="1",
        replica=2,
        status="failed",
        reason="crashed",
        error=EVIL,
        log_tail=EVIL,
    )
    places = {
        "list": LIST,
        "evil": EVIL,
        "model": reverse("admin:model", args=[name]),
        "version": reverse("admin:model_version", args=[name, "1"]),
    }
    page = page_of(operator, path.format(**places))
    assert "<script>alert" not in page
    fields = r'<input [^>]*>|<textarea.*?</textarea>|(?:href|value)="[^"]*"'
    assert "\u202e" not in re.sub(fields, "", page, flags=re.S)


def test_every_icon_of_the_pages_is_there(operator: Client, registry: FakeRegistry):
    a_server()
    known = set(re.findall(r'<symbol id="(\w+)"', (STATIC / "icons.svg").read_text()))
    for path in (LIST, model_at(), version_at()):
        named = set(re.findall(r"icons\.svg#([\w-]+)", page_of(operator, path)))
        assert named and named <= known
        assert not re.search(r"<style|style=|\son\w+=|javascript:", page_of(operator, path))


# -- one model -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["churn", ODD, "a.b", "ask", "versions", "..x"])
def test_every_name_has_a_page(operator: Client, models_registry: FakeRegistry, name: str):
    models_registry.add(name, "1")
    assert html.escape(name) in page_of(operator, model_at(name))
    assert html.escape(name) in page_of(operator, version_at("1", name))
    assert version_at("1", name) in html.unescape(page_of(operator, model_at(name)))


def test_a_model_shows_its_versions_and_what_serves_them(operator: Client, registry: FakeRegistry):
    registry.named["churn"] = {"champion": "2"}
    a_server()
    page = words(page_of(operator, model_at()))
    assert page.index("Version 2 champion") < page.index("Version 1")
    assert "Version 2 champion Ready" in page and "Version 1 Not loaded" in page


def test_versions_lead_on_to_older_ones(
    operator: Client, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lookup, "VERSIONS_SHOWN", 1)
    page = page_of(operator, model_at())
    assert 'href="?below=2"' in page
    older = page_of(operator, f"{model_at()}?below=2")
    assert "Version 1" in older and "Version 2" not in older and ">Newest<" in older


def test_the_history_says_who_moved_an_alias_when_and_why(operator: Client, registry: FakeRegistry):
    registry.named["churn"] = {"champion": "2"}
    moved("champion", "1", "")
    moved("champion", "2", "1", how="rolled_back", actor="bob", note="recall fell")
    page = words(piece(page_of(operator, model_at()), "history"))
    assert "1 → 2 roll back recall fell bob" in page and "none → 1" in page


def test_a_change_in_mlflow_itself_is_noticed_once(operator: Client, registry: FakeRegistry):
    registry.named["churn"] = {"champion": "2"}
    moved("champion", "1", "")
    moved("gone", "1", "")
    for _ in range(2):
        assert "Roll back to 1" in page_of(operator, model_at())
    seen = AliasChange.objects.filter(how="seen").values_list("alias", "version", "previous")
    assert set(seen) == {("champion", "2", "1"), ("gone", "", "1")}


def test_without_mlflow_a_model_shows_what_is_known_here(operator: Client, registry: FakeRegistry):
    a_server()
    moved("champion", "1", "")
    registry.silent = True
    page = words(page_of(operator, model_at()))
    assert "MLflow does not answer." in page
    assert "Version 2" in page and "Version 1" in page and "none → 1" in page


def test_a_model_that_there_is_none_of_is_not_found(operator: Client, registry: FakeRegistry):
    page_of(operator, model_at("nothing"), 404)
    page_of(operator, version_at("9"), 404)
    page_of(operator, version_at("1", "nothing"), 404)


def test_a_model_that_is_gone_in_mlflow_keeps_what_is_known_here(
    operator: Client, registry: FakeRegistry
):
    a_server(model_name="gone", version="4")
    assert "MLflow has no such model any more." in page_of(operator, model_at("gone"))
    assert "MLflow has no such version any more." in page_of(operator, version_at("4", "gone"))


def test_the_page_of_a_model_asks_as_often_for_many_versions_as_for_few(
    operator: Client, registry: FakeRegistry
):
    def cost() -> int:
        page_of(operator, model_at())  # notices what was moved
        with CaptureQueriesContext(connection) as queries:
            page_of(operator, model_at())
        return len(queries.captured_queries)

    a_server()
    registry.named["churn"] = {"champion": "1"}
    few = cost()
    for number in range(3, 12):
        registry.add("churn", str(number))
        registry.named["churn"][f"a{number}"] = str(number)
        a_server(version=str(number))
    assert cost() == few <= 15


# -- one version -----------------------------------------------------------------------------------
def test_a_version_says_what_it_takes_and_gives(operator: Client, registry: FakeRegistry):
    a_server()
    told = words(piece(page_of(operator, version_at()), "signature"))
    assert "age long 35" in told and "idle double, optional" in told
    assert "classes stays , churns" in told and "with probabilities" in told


def test_a_version_leads_to_its_job_script_lock_run_and_environment(
    operator: Client, registry: FakeRegistry
):
    job = uuid.uuid4()
    tags = {
        "mlops.job_id": str(job),
        "mlops.environment": "a41f9c07",
        "mlops.python_version": "3.12",
        "mlops.requirements": '["scikit-learn==1.5"]',
        "team": "growth",
    }
    registry.add("churn", "3", tags=tags)
    page = html.unescape(page_of(operator, version_at("3")))
    for shown_ in (
        f'href="/admin/training/job/{job}/change/"',
        f'href="/admin/training/job/{job}/change/#job-environment"',
        f'href="/mlops/training/jobs/{job}/script"',
        "/#/experiments/7/runs/run-2",
        "/admin/training/builtenvironment/a41f9c07/change/",
        "scikit-learn==1.5",
        "team = growth",
    ):
        assert shown_ in page, shown_


def test_a_run_names_the_job_where_a_version_was_registered_by_hand(
    operator: Client, registry: FakeRegistry
):
    job = uuid.uuid4()
    registry.add("churn", "3", run_tags={"job_id": str(job)})
    assert f"/admin/training/job/{job}/" in page_of(operator, version_at("3"))
    registry.add("churn", "4", run_tags={"job_id": "../../evil"})
    assert "none: it was registered by hand" in page_of(operator, version_at("4"))


def test_metrics_stand_beside_those_of_the_version_before(operator: Client, registry: FakeRegistry):
    told = words(piece(page_of(operator, version_at()), "metrics"))
    assert "beside version 1" in told
    assert "accuracy 0.8800 0.9000 better +0.0200" in told
    assert "log_loss 0.4000 0.5000 worse +0.1000" in told
    assert "rows 10 12 +2" in told


def test_metrics_stand_beside_those_of_any_other_version(operator: Client, registry: FakeRegistry):
    registry.add("churn", "3", metrics={"accuracy": 0.95})
    page = piece(page_of(operator, f"{version_at('3')}?beside=1"), "metrics")
    assert "beside version 1" in page
    assert "beside" not in words(
        piece(page_of(operator, f"{version_at('3')}?beside=99"), "metrics").partition("<form")[0]
    )


def test_a_signature_that_was_lost_is_told_before_anything_was_loaded(
    operator: Client, registry: FakeRegistry
):
    registry.abouts["models:/m-churn-2"] = AboutModel(declared=Declared.ANY)
    page = words(page_of(operator, version_at()))
    assert "wrote a signature of the type `any`" in page and "usually scipy or pandas" in page
    assert "does not say what" not in words(page_of(operator, version_at("1")))


def test_a_model_without_a_signature_says_how_one_comes(operator: Client, registry: FakeRegistry):
    a_server(description={**SAID, "signature": "none"})
    page = page_of(operator, version_at())
    assert "infer_signature(rows)" in words(piece(page, "signature"))
    assert 'id="signature-lost"' not in page


def tallied(*, answered: int, version: str = "2") -> None:
    now = timezone.now()
    for size in KEPT:
        VersionTally.objects.create(
            model_name="churn",
            version=version,
            begins_at=begin_of(now, size),
            seconds=size,
            process=uuid.uuid4(),
            answered=answered,
            latencies=[0, 0, 0, 0, answered, *[0] * 13],
        )


def trends_of(client: Client, over: str) -> str:
    return page_of(client, f"{version_at()}trends/?over={over}")


@pytest.mark.parametrize("over", ["hour", "day", "week", "century"])
def test_requests_and_latency_over_time_are_those_of_all_processes(
    operator: Client, registry: FakeRegistry, over: str
):
    tallied(answered=30)
    tallied(answered=12)
    tallied(answered=1000, version="1")
    page = words(trends_of(operator, over))
    assert "Predictions per second 42 in all" in page and "Latency" in page and "p99" in page
    assert "1,000" not in page and "1 000" not in page


def test_the_charts_come_behind_the_page_and_cost_one_query_of_their_own(
    operator: Client, registry: FakeRegistry
):
    page = page_of(operator, version_at() + "?over=week")
    assert f'hx-get="{version_at()}trends/?over=week"' in page and 'hx-trigger="load"' in page
    with CaptureQueriesContext(connection) as queries:
        piece = trends_of(operator, "week")
    tallies = [query for query in queries.captured_queries if "versiontally" in query["sql"]]
    assert len(tallies) == 1
    assert 'hx-trigger="refresh" data-refresh="30"' in piece


def test_where_nobody_asked_it_says_so(operator: Client, registry: FakeRegistry):
    assert "Nobody asked this version in the last hour." in words(trends_of(operator, "hour"))


def test_parameters_stand_beside_those_of_the_version_before(
    operator: Client, models_registry: FakeRegistry
):
    models_registry.add("churn", "1", parameters={"depth": "10", "trees": "100", "seed": "7"})
    models_registry.add("churn", "2", parameters={"depth": "10", "trees": "200", "rate": EVIL})
    page = piece(page_of(operator, version_at()), "parameters")
    told = words(page)
    assert "Parameters, beside version 1" in told
    assert "trees 100 200 , changed" in told and "seed 7 – , changed" in told
    assert told.index("trees") < told.index("depth 10 10"), "what differs comes first"
    assert "<script>" not in page


def test_a_version_tells_its_flavours_and_files(operator: Client, registry: FakeRegistry):
    files = (Artifact("metadata", True, None), Artifact(EVIL, False, 2048))
    registry.abouts["models:/m-churn-2"] = AboutModel(
        flavours=("sklearn", "python_function"),
        mlflow_version="3.13.0",
        size_bytes=3 * 1024**2,
        declared=Declared.NAMED,
        files=files,
    )
    page = piece(page_of(operator, version_at()), "files")
    told = words(page)
    assert "sklearn , python_function" in told and "MLflow 3.13.0" in told
    assert "3 MB in all" in told and "metadata/ –" in told and "2 KB" in told
    assert "/experiments/7/models/m/artifacts" in page and "<script>" not in page
    assert "not kept by this MLflow server" in words(page_of(operator, version_at("1")))


def test_an_alias_leads_to_the_version_that_it_names(operator: Client, registry: FakeRegistry):
    registry.named["churn"] = {"champion": "1"}
    for selector, number in {"champion": "1", "latest": "2", "002": "2"}.items():
        answer = operator.get(version_at(selector))
        assert (answer.status_code, answer.headers["Location"]) == (302, version_at(number))
    page_of(operator, version_at("nobody"), 404)


def test_the_serving_card_says_state_memory_lane_latency_and_errors(
    operator: Client, registry: FakeRegistry
):
    registry.add("counted", "1")
    a_server(
        model_name="counted",
        version="1",
        memory_bytes=128 * 1024 * 1024,
        environment_key="a41f9c07",
    )
    series = metrics.series("counted", "1")
    for _ in range(1500):
        series.answered(total_ms=0.6, queue_ms=0.1, model_ms=0.15, batch=1, lane="original")
    for _ in range(3):
        series.failed("columns_mismatch")
    told = words(piece(page_of(operator, version_at("1", "counted")), "serving"))
    assert "Ready" in told and "128 MB of 512 MB" in told
    assert "Requests 1,500" in told and "p50 0.7 ms" in told or "p50 0.8 ms" in told
    assert "3 columns_mismatch" in told
    assert "the model itself A step is not known." in told
    assert "1,500 by the model itself" in told


def test_a_server_that_failed_says_why_what_to_do_and_what_it_printed(
    operator: Client, registry: FakeRegistry
):
    a_server(
        status="failed",
        reason="crash_loop",
        error="It ended 4 times in a row.",
        log_tail="boom\x1b[31m",
        crashes=4,
    )
    told = words(piece(page_of(operator, version_at()), "serving"))
    assert "It ended 4 times in a row." in told and "boom\\u001b[31m" in told
    assert "The last lines that it printed are below." in told and "GET /mlops" not in told


def test_only_what_serves_a_version_is_refreshed_and_only_while_it_is_alive(
    operator: Client, registry: FakeRegistry
):
    assert "data-refresh" not in page_of(operator, version_at())
    a_server()
    page = page_of(operator, version_at())
    address = html.unescape(re.search(r'hx-get="([^"]*)"[^>]*data-refresh="5"', page).group(1))
    registry.calls.clear()
    fragment = operator.get(address).content.decode()
    assert registry.calls == []
    pieces = re.findall(r'id="([\w-]+)"[^>]* hx-swap-oob', fragment)
    assert pieces == ["alive", "serving"] and all(f'id="{one}"' in page for one in pieces)
    ModelServer.objects.update(status="stopped", reason="idle")
    assert "data-refresh" not in operator.get(address).content.decode()


def test_a_refresh_tells_requests_a_second_since_the_last_one(
    operator: Client, registry: FakeRegistry
):
    registry.add("rated", "1")
    a_server(model_name="rated", version="1")
    series = metrics.series("rated", "1")
    before = timezone.now().timestamp() - 10
    for _ in range(50):
        series.answered(total_ms=1, queue_ms=0, model_ms=1, batch=1, lane="original")
    address = reverse("admin:model_version_now", args=["rated", "1"])
    told = words(operator.get(f"{address}?seen=0-{before}").content.decode())
    # Ten seconds and what the request itself took.
    rate = re.search(r"50, ([\d.]+) /s now", told)
    assert rate is not None and 0 < float(rate[1]) <= 5
    for seen in ("", "x", "1-y", "0-99999999999999999999", "60-1"):
        assert "/s now" not in operator.get(address, {"seen": seen}).content.decode()


def test_a_version_without_mlflow_shows_what_serves_it(operator: Client, registry: FakeRegistry):
    a_server()
    registry.silent = True
    page = words(page_of(operator, version_at()))
    assert "MLflow does not answer." in page and "Ready" in page and "age long 35" in page


def test_the_page_of_a_version_asks_a_bounded_number_of_times(
    operator: Client, registry: FakeRegistry
):
    def cost() -> int:
        page_of(operator, version_at())
        registry.calls.clear()
        with CaptureQueriesContext(connection) as queries:
            page_of(operator, version_at())
        assert len(registry.calls) <= 6
        return len(queries.captured_queries)

    registry.named["churn"] = {"champion": "2"}
    a_server()
    few = cost()
    for number in range(2, 9):
        a_server(replica=number)
        registry.named["churn"][f"a{number}"] = "2"
    assert cost() == few <= 15
    ModelServer.objects.update(status="starting", description=None)
    assert cost() <= 15, "also of one that nobody has described yet"


def test_a_job_leads_to_the_version_that_it_registered():
    template = Path(django_settings.BASE_DIR) / "templates" / "console" / "job_facts.html"
    assert (
        '{% url "admin:model_version" job.model_name job.model_version %}' in template.read_text()
    )


# -- rights ----------------------------------------------------------------------------------------
SEES = {"viewer": set(), "data scientist": {"predict"}, "operator": {"predict", "do-promote"}}
SEES["administrator"] = SEES["operator"]


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_sees_the_pages_and_the_buttons_that_are_its_own(
    group: str, registry: FakeRegistry
):
    client = somebody(group)
    a_server()
    page_of(client, LIST)
    page_of(client, model_at())
    page = page_of(client, version_at())
    found = {name for name in ("predict", "do-promote") if f'id="{name}"' in page}
    assert found == SEES[group]
    operates = "do-promote" in SEES[group]
    for name in ("do-stop", "do-pin", "do-scale"):
        assert (f'id="{name}"' in page) == operates


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("act", ["promote", "roll_back", "start", "stop", "pin", "scale"])
def test_only_operators_act(group: str, act: str, registry: FakeRegistry):
    client = somebody(group)
    may = "do-promote" in SEES[group]
    sent = {"action": act, "version": "1", "alias": "champion"}
    done = client.post(reverse("admin:model_act", args=["churn"]), sent)
    assert (done.status_code != 403) == may
    assert (ModelServer.objects.exists() or ModelPolicy.objects.exists()) <= may


def test_somebody_of_no_group_sees_none_of_it(registry: FakeRegistry):
    assert somebody(staff=True).get(LIST).status_code == 403
    assert "/admin/login/" in somebody(name="nobody").get(version_at()).headers["Location"]


@pytest.mark.parametrize("page", ["model_ask", "model_act"])
def test_an_act_that_there_is_none_of_is_not_found(
    operator: Client, registry: FakeRegistry, page: str
):
    path = reverse(f"admin:{page}", args=["churn"])
    assert operator.post(path, {"action": "delete"}).status_code == 404
    assert operator.post(path, {"action": "stop", "version": "x"}).status_code == 404
    assert operator.get(path).status_code == 405


# -- it asks first, and tells what it did ----------------------------------------------------------
def test_promoting_says_what_each_alias_would_name_and_does_nothing_yet(
    operator: Client, registry: FakeRegistry
):
    registry.named["churn"] = {"champion": "1", "staging": "2"}
    page = asked(operator, "promote", version="2")
    assert page.startswith("<dialog")
    told = words(page)
    assert "champion names version 1 now, then 2" in told
    assert "staging names version 2 already" in told
    assert re.search(r'value="champion" checked', page)
    assert re.search(r'value="staging" disabled', page)
    assert registry.named["churn"]["champion"] == "1" and not AliasChange.objects.exists()


def test_promoting_moves_the_alias_starts_the_server_and_keeps_why(
    operator: Client, registry: FakeRegistry
):
    registry.named["churn"] = {"champion": "1"}
    told = said(operator, "promote", version="2", alias="champion", note="A/B held")
    assert told == "The alias champion names version 2 now; before it named version 1."
    assert registry.named["churn"] == {"champion": "2"}
    change = AliasChange.objects.first()
    assert change and (change.actor, change.note, change.how) == ("olga", "A/B held", "set")
    assert ModelServer.objects.get(version="2").status == "starting"


def test_a_new_alias_is_made_by_its_name(operator: Client, registry: FakeRegistry):
    assert 'value="champion"' in asked(operator, "promote", version="2")
    assert "before it named nothing" in said(operator, "promote", version="2", new_alias="canary")
    assert "cannot be an alias" in said(operator, "promote", version="2", new_alias="7")
    assert "No alias was chosen" in said(operator, "promote", version="2")
    assert registry.named["churn"] == {"canary": "2"}


def test_rolling_back_says_to_which_version_and_how_metrics_differ(
    operator: Client, registry: FakeRegistry
):
    registry.named["churn"] = {"champion": "2"}
    moved("champion", "1", "")
    moved("champion", "2", "1")
    page = asked(operator, "roll_back", alias="champion", page="2")
    told = words(page)
    assert "Roll champion back to version 1?" in told and "Stay with 2" in told
    assert "accuracy −0.0200, log_loss −0.1000 against version 2" in told
    assert 'name="to" value="1"' in page
    assert "names version 1 again" in said(
        operator, "roll_back", alias="champion", to="1", note="recall"
    )
    change = AliasChange.objects.first()
    assert change and (change.how, change.note) == ("rolled_back", "recall")


def test_a_roll_back_that_would_lead_elsewhere_by_now_is_not_done(
    operator: Client, registry: FakeRegistry
):
    registry.add("churn", "3")
    registry.named["churn"] = {"champion": "3"}
    for version, previous in (("1", ""), ("2", "1"), ("3", "2")):
        moved("champion", version, previous)
    told = said(operator, "roll_back", alias="champion", to="1")
    assert "was moved meanwhile: a roll back would lead to version 2 now" in told
    assert registry.named["churn"] == {"champion": "3"}


def test_an_alias_with_nothing_before_cannot_be_rolled_back(
    operator: Client, registry: FakeRegistry
):
    registry.named["churn"] = {"champion": "2"}
    moved("champion", "2", "")
    assert "Roll back" not in page_of(operator, model_at())
    page = asked(operator, "roll_back", alias="champion")
    assert "never named another version" in page and "btn-destroy" not in page


def test_an_alias_is_taken_away(operator: Client, registry: FakeRegistry):
    registry.named["churn"] = {"champion": "2"}
    assert "It names version 2 of churn now." in asked(operator, "take_away", alias="champion")
    assert "is gone" in said(operator, "take_away", alias="champion")
    assert registry.named["churn"] == {}
    assert "no such alias any more" in asked(operator, "take_away", alias="champion")


def test_without_mlflow_no_alias_moves_and_that_is_said(operator: Client, registry: FakeRegistry):
    registry.silent = True
    assert "MLflow does not answer." in asked(operator, "promote", version="2")
    assert said(operator, "promote", version="2", alias="champion") == "MLflow does not answer."


def test_stopping_names_each_server_and_what_starts_it_again(
    operator: Client, registry: FakeRegistry
):
    a_server()
    a_server(replica=2)
    told = words(asked(operator, "stop", version="2"))
    assert "Stop 2 servers of version 2?" in told and "Server 2 of version 2 is ready" in told
    assert set(ModelServer.objects.values_list("status", flat=True)) == {"ready"}
    assert "1 server is being stopped" in said(operator, "stop", version="2", replica="2")
    assert "1 server is being stopped" in said(operator, "stop", version="2")
    assert set(ModelServer.objects.values_list("status", "reason")) == {
        ("stopping", "stopped_by_hand")
    }
    assert "nothing was stopped" in said(operator, "stop", version="2")


def test_what_keeps_servers_running_is_said_before_they_are_stopped(
    operator: Client, registry: FakeRegistry
):
    a_server()
    said(operator, "scale", **scaled(min_servers="1"))
    assert "keeps at least 1 of them" in words(asked(operator, "stop", version="2"))


def test_a_start_by_hand_does_not_wait_for_the_pause_after_a_failure(
    operator: Client, registry: FakeRegistry
):
    later = timezone.now() + timedelta(hours=1)
    a_server(status="failed", reason="crash_loop", error="It ended.", not_before=later)
    assert 'id="do-start"' in page_of(operator, version_at())
    assert "starts" in said(operator, "start", version="2")
    assert ModelServer.objects.get().status == "starting"


def test_a_version_that_there_is_none_of_is_not_started(operator: Client, registry: FakeRegistry):
    assert "not found" in said(operator, "start", version="9")
    registry.silent = True
    assert said(operator, "start", version="9") == "MLflow does not answer."
    assert not ModelServer.objects.exists()


def scaled(**changed: str) -> dict[str, str]:
    wanted = {"min_servers": "0", "max_servers": "2", "idle_seconds": "60"}
    return {**wanted, "memory_mb": "1024", "cpus": "0.5", **changed}


def test_pinning_changes_nothing_else_of_a_policy(operator: Client, registry: FakeRegistry):
    said(operator, "scale", **scaled(max_servers="3"))
    assert "Pinned" in said(operator, "pin")
    policy = policy_of("churn")
    assert (policy.pinned, policy.max_servers, policy.idle_seconds, policy.cpus) == (
        True,
        3,
        60,
        0.5,
    )
    assert 'aria-pressed="true"' in page_of(operator, model_at())
    said(operator, "scale", **scaled())
    assert policy_of("churn").pinned, "scaling keeps the pin"
    said(operator, "unpin")
    assert not policy_of("churn").pinned
    assert ModelPolicy.objects.get().changed_by == "olga"


def test_what_was_filled_in_wrong_is_asked_once_more(operator: Client, registry: FakeRegistry):
    sent = {"action": "scale", **scaled(min_servers="5", memory_mb="lots")}
    answer = operator.post(reverse("admin:model_act", args=["churn"]), sent)
    page = answer.content.decode()
    assert answer.status_code == 200 and 'value="lots"' in page
    assert "A valid integer is required." in page
    assert not ModelPolicy.objects.exists()


def test_nothing_is_kept_for_a_model_that_there_is_none_of(
    operator: Client, registry: FakeRegistry
):
    path = reverse("admin:model_act", args=["nothing"])
    for sent in ({"action": "pin"}, {"action": "scale", **scaled()}):
        operator.post(path, sent)
    assert not ModelPolicy.objects.exists()


def test_after_an_act_one_is_back_where_one_was(operator: Client, registry: FakeRegistry):
    path = reverse("admin:model_act", args=["churn"])
    for page, address in {"": model_at(), "2": version_at()}.items():
        answer = operator.post(path, {"action": "pin", "page": page})
        assert answer.headers["Location"] == address
    assert operator.post(path, {"action": "pin", "page": "//evil"}).status_code == 404


# -- trying one ------------------------------------------------------------------------------------
class Container:
    """A model's server, which answers what it is told to and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, Any] = (
            200,
            {
                "predictions": ["churns"],
                "probabilities": [[0.287, 0.713]],
                "classes": ["stays", "churns"],
                "inference_time_ms": 0.08,
            },
        )
        self.asked: list[Any] = []
        self.holds = threading.Event()
        self.holds.set()
        container = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                container.holds.wait(10)
                length = int(self.headers["content-length"])
                container.asked.append(json.loads(self.rfile.read(length)))
                status, document = container.answer
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.send_header("x-mlops-request", self.headers["x-mlops-request"])
                self.send_header("x-mlops-lane", "compact")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Not into the tests' output."""

        self.web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.web.server_port}"
        threading.Thread(target=self.web.serve_forever, daemon=True).start()


@pytest.fixture
def container(transactional_db: Any, registry: FakeRegistry) -> Iterator[Container]:
    """Version 2 has a server that is ready."""
    made = Container()
    a_server(address=made.address, token="t")
    yield made
    made.holds.set()
    made.web.shutdown()
    made.web.server_close()


def person(*rights: str) -> Client:
    """With rights of its own: the groups are gone after a test that commits."""
    user = User.objects.create_user("dan")
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_job", *rights]))
    client = Client(**BROWSER)
    client.force_login(user)
    return client


@pytest.fixture
def scientist(transactional_db: Any) -> Client:
    return person("view_modelserver", "add_modelserver")


def tried(client: Client, *, number: str = "2", again: bool = False, **sent: str) -> Any:
    headers = {"HX-Request": "true", **({"HX-Trigger": "starting"} if again else {})}
    path = reverse("admin:model_try", args=["churn", number])
    return client.post(path, sent or FILLED, headers=headers)


def answered(client: Client, **sent: str) -> str:
    answer = tried(client, **sent)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_form_has_a_field_for_each_column_with_the_example_in_it(
    operator: Client, registry: FakeRegistry
):
    a_server()
    page = page_of(operator, version_at())
    assert re.search(r'name="in.age" value="35" inputmode="numeric"', page)
    assert re.search(r'name="in.income" value="75000.0" inputmode="decimal"', page)
    assert re.search(r"<option selected>true</option>", page)
    assert re.search(r'name="in.idle" value=""[^>]*placeholder="no value"', page)
    assert "&quot;plan&quot;: &quot;pro&quot;" in page, "the same rows as JSON"


def test_a_prediction_is_told_with_its_probabilities_as_bars(
    scientist: Client, container: Container
):
    page = answered(scientist)
    assert container.asked == [
        {
            "model_name": "churn",
            "model_version": "2",
            "inputs": {
                "age": [41],
                "income": [1000.0],
                "plan": ["pro"],
                "member": [False],
                "idle": [None],
            },
            "return_probabilities": True,
        }
    ]
    told = words(page)
    assert "Prediction: churns" in told and "0.08 ms in the model's compact form" in told
    assert re.findall(r'<rect width="([\d.]+)%"', page)[:2] == ["28.7", "71.3"]
    assert "stays 28.7 % churns 71.3 %" in told and 'class="top"' in page


def test_the_same_call_stands_there_as_curl_and_python(scientist: Client, container: Container):
    page = html.unescape(answered(scientist, **{**FILLED, "in.plan": "it's", "call": "python"}))
    assert re.search(r'id="call-python"[^>]* checked>', page), "what was looked at stays"
    curl = re.search(r'<pre id="curl"[^>]*>(.*?)</pre>', page, re.S).group(1)
    assert "http://testserver/mlops/inference" in curl
    sent = curl.partition("-d ")[2].replace("'\"'\"'", "'").strip("'")
    assert json.loads(sent) == container.asked[0]
    python = re.search(r'<pre id="python"[^>]*>(.*?)</pre>', page, re.S).group(1)
    compile(python, "call", "exec")
    assert "'return_probabilities': True" in python and 'data-copy="python"' in page


def test_what_is_no_value_of_a_column_is_told_beside_its_field_and_nobody_is_asked(
    scientist: Client, container: Container
):
    wrong = {"in.age": "12.5", "in.income": "inf", "in.member": "", "in.idle": ""}
    page = words(answered(scientist, **{**FILLED, **wrong}))
    assert "Expected a whole number." in page and "Expected a number that ends." in page
    assert "A value is needed." in page
    assert container.asked == []


def test_what_the_model_refuses_is_told_beside_its_field(scientist: Client, container: Container):
    places = [{"field": "inputs.age", "detail": "row 0: nobody is so old"}]
    told = {"code": "wrong_type", "detail": "inputs.age: row 0: nobody is so old"}
    container.answer = (400, {**told, "errors": places})
    page = answered(scientist, **{**FILLED, "in.age": "200"})
    assert re.search(r'id="wrong-1">.*?row 0: nobody is so old', page, re.S)
    assert 'value="200"' in page and words(page).count("nobody is so old") == 2


def test_several_rows_go_as_json(scientist: Client, container: Container):
    container.answer = (
        200,
        {
            "predictions": [1, 2.5, None],
            "probabilities": None,
            "classes": None,
            "inference_time_ms": 1,
        },
    )
    rows = [{"age": 1}, {"age": 2}, {"age": 3}]
    page = words(answered(scientist, mode="json", inputs=json.dumps(rows)))
    assert container.asked[0]["inputs"] == rows
    assert "0 1 1 2.5 2 null" in page


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[{", "This is not JSON"),
        ("7", "Expected records"),
        ("[" * 400 + "]" * 400, "too deep"),
        (json.dumps(["x" * 300_000]), "A trial may have 256 KB"),
    ],
)
def test_json_that_cannot_be_asked_is_told(
    scientist: Client, container: Container, text: str, told: str
):
    assert told in words(answered(scientist, mode="json", inputs=text))
    assert container.asked == []


def test_what_a_model_answers_is_text(scientist: Client, container: Container):
    container.answer = (
        200,
        {
            "predictions": [EVIL, {"a": [EVIL]}, "x" * 5000],
            "probabilities": [["x", 7, None], [-1, 2], 5],
            "classes": [EVIL, 1],
            "inference_time_ms": 1,
        },
    )
    page = piece(answered(scientist), "tried")
    assert "<script>alert" not in page and "\u202e" not in page
    assert "x" * 201 not in page
    assert all(0 <= float(width) <= 100 for width in re.findall(r'<rect width="([\d.]+)%"', page))


@pytest.mark.parametrize(
    "document", [{"predictions": "x"}, [], {"code": "x"}, {"predictions": [[]] * 3, "classes": 1}]
)
def test_an_answer_that_nobody_understands_is_one_problem(
    scientist: Client, container: Container, document: Any
):
    container.answer = (200, document)
    assert "nobody understands" in words(answered(scientist))


def test_a_version_without_a_server_gets_one_and_the_page_asks_again(
    scientist: Client, container: Container
):
    ModelServer.objects.update(status="stopped", reason="idle")
    page = answered(scientist)
    assert "The model is being loaded" in words(page) and "Starting" in words(page)
    assert 'id="starting" hx-post=' in page and 'data-refresh="2"' in page
    assert ModelServer.objects.get().status == "starting"
    ModelServer.objects.update(phase="loading")
    waiting = tried(scientist, again=True)
    assert waiting.headers["HX-Reswap"] == "none", "the form is left alone meanwhile"
    assert "Loading." in words(waiting.content.decode())
    ModelServer.objects.update(status="ready", address=container.address, container_id="c")
    assert "Prediction: churns" in words(tried(scientist, again=True).content.decode())


def test_a_version_that_never_said_what_it_takes_is_loaded_before_it_is_asked(
    scientist: Client, container: Container
):
    ModelServer.objects.update(status="stopped", reason="idle", description=None)
    page = page_of(scientist, version_at())
    assert "Load the model" in words(piece(page, "try")) and "0.0" not in piece(page, "try")
    page = answered(scientist, mode="load")
    assert "The model is being loaded" in words(page) and "The form comes by itself" in words(page)
    assert ModelServer.objects.get().status == "starting"
    waiting = tried(scientist, again=True, mode="load")
    assert waiting.headers["HX-Reswap"] == "none"
    ModelServer.objects.update(
        status="ready", address=container.address, container_id="c", description=SAID
    )
    page = tried(scientist, again=True, mode="load").content.decode()
    assert 'name="in.age" value="35"' in page and "Predict" in words(page)
    assert container.asked == [], "nothing was sent that nobody had filled in"


@pytest.mark.parametrize("again", [False, True])
def test_a_server_that_becomes_ready_while_the_page_asks_says_what_it_takes(
    scientist: Client, container: Container, monkeypatch: pytest.MonkeyPatch, again: bool
):
    ModelServer.objects.update(status="starting", phase="loading", description=None)
    ensured = pool.ensure_server

    def ready_meanwhile(*names: str, **more: str) -> ServerView:
        server = ensured(*names, **more)
        ModelServer.objects.update(status="ready", address=container.address, description=SAID)
        return server

    monkeypatch.setattr(pool, "ensure_server", ready_meanwhile)
    page = tried(scientist, again=again, mode="load").content.decode()
    assert 'name="in.age" value="35"' in page and "Predict" in words(page)
    assert 'id="starting"' not in page and container.asked == []


def test_a_page_that_is_asked_for_while_a_server_becomes_ready_says_what_it_takes(
    scientist: Client, container: Container, monkeypatch: pytest.MonkeyPatch
):
    ModelServer.objects.update(status="starting", phase="loading", description=None)
    read = pool.description_of

    def ready_meanwhile(*names: str, **more: str) -> dict[str, object] | None:
        said = read(*names, **more)
        ModelServer.objects.update(status="ready", address=container.address, description=SAID)
        return said

    monkeypatch.setattr(pool, "description_of", ready_meanwhile)
    page = words(piece(page_of(scientist, version_at()), "try"))
    assert "Nobody wrote down what this model takes" not in page


def test_rows_that_came_too_early_are_not_sent(scientist: Client, container: Container):
    ModelServer.objects.update(status="stopped", reason="idle", description=None)
    assert "The model is being loaded" in words(answered(scientist, mode="json", inputs="[[0.0]]"))
    assert container.asked == []


def test_a_version_that_somebody_has_loaded_is_waited_for(scientist: Client, container: Container):
    ModelServer.objects.update(status="starting", phase="loading", description=None)
    page = page_of(scientist, version_at())
    assert 'id="starting" hx-post=' in page and "The form comes by itself" in words(page)


def test_a_model_that_nobody_described_is_asked_by_rows_that_somebody_writes(
    scientist: Client, container: Container
):
    ModelServer.objects.update(description={"model_type": "pyfunc", "signature": "any"})
    page = piece(page_of(scientist, version_at()), "try")
    assert "name of a column" in html.unescape(page) and "put in its columns" in words(page)
    assert "Prediction: churns" in words(answered(scientist, mode="json", inputs='[{"a": 1}]'))


def test_the_rows_that_were_logged_stand_there_where_no_column_is_known(
    scientist: Client, container: Container
):
    said = {"model_type": "pyfunc", "signature": "lost", "example": {"inputs": {"age": [25.0]}}}
    ModelServer.objects.update(description=said)
    page = page_of(scientist, version_at())
    assert "The rows that stand here work" in words(piece(page, "try"))
    assert '"age"' in html.unescape(piece(page, "try"))
    assert "The signature does not say what the model takes" in words(page)


def test_a_version_that_cannot_be_loaded_says_why(scientist: Client, container: Container):
    ModelServer.objects.update(
        status="failed", reason="model_not_loadable", error="No such file.", log_tail="boom"
    )
    page = answered(scientist)
    assert "No such file." in words(piece(page, "tried")) and 'id="starting"' not in page


def test_it_asks_through_the_gateway_that_serves_which_needs_no_mlflow_any_more(
    scientist: Client,
    container: Container,
    registry: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(gateway.Gateway, "listen", lambda self: None)
    loop = asyncio.new_event_loop()
    serving = threading.Thread(target=loop.run_forever, daemon=True)
    serving.start()

    async def serve() -> None:
        gateway.serve()

    try:
        asyncio.run_coroutine_threadsafe(serve(), loop).result(5)
        assert "Prediction: churns" in words(answered(scientist))
        registry.silent = True
        assert "Prediction: churns" in words(answered(scientist))
    finally:
        asyncio.run_coroutine_threadsafe(gateway.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        serving.join(5)
        loop.close()
    assert len(container.asked) == 2


def test_a_model_that_hangs_is_given_up(
    scientist: Client, container: Container, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trial, "TRY_SECONDS", 0.3)
    container.holds.clear()
    assert "did not answer within" in words(answered(scientist))


def test_no_more_than_a_few_try_at_once(
    scientist: Client, container: Container, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trial, "_turns", threading.BoundedSemaphore(1))
    with trial._turns:
        assert "Others are trying models right now." in words(answered(scientist))
    assert "Prediction: churns" in words(answered(scientist))


def test_a_viewer_does_not_try(container: Container):
    assert tried(person("view_modelserver")).status_code == 403
    assert container.asked == []


def test_without_scripts_the_whole_page_comes_back_with_the_answer(
    scientist: Client, container: Container
):
    answer = scientist.post(reverse("admin:model_try", args=["churn", "2"]), FILLED)
    page = words(answer.content.decode())
    assert "Prediction: churns" in page and "Alias history" in page


# -- the form, by itself ---------------------------------------------------------------------------
def sheet_of(**changed: Any) -> form.Sheet:
    return form.blank(read_description("churn", "1", {**SAID, **changed}))


@pytest.mark.parametrize(
    "inputs",
    [
        {"age": [7], "income": [2.5], "plan": ["a"], "member": [False], "idle": [None]},
        [{"age": 7, "income": 2.5, "plan": "a", "member": False, "idle": None}],
        [[7, 2.5, "a", False, None]],
    ],
)
def test_an_example_of_any_form_fills_the_fields(inputs: Any):
    values = [one.value for one in sheet_of(example={"inputs": inputs}).fields]
    assert values == ["7", "2.5", "a", "false", ""]


@pytest.mark.parametrize("inputs", [7, "x", {"age": 7}, [[]], [7], {}, {"age": []}])
def test_an_example_that_is_none_leaves_the_fields_empty(inputs: Any):
    sheet = sheet_of(example={"inputs": inputs})
    assert [one.value for one in sheet.fields] == [""] * 5


def test_a_model_without_names_or_with_too_many_is_asked_by_json():
    assert sheet_of(columns=None).mode == JSON
    many = [{"name": f"c{number}", "type": "double"} for number in range(form.FIELDS_MOST + 1)]
    assert sheet_of(columns=many, example=None).mode == JSON
    assert sheet_of().mode == FORM


def test_an_example_that_is_too_long_or_too_deep_is_none():
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    for inputs in (["x" * 300_000], deep):
        sheet = sheet_of(example={"inputs": inputs})
        assert (sheet.text, sheet.body) == ("[]", None)


# -- numbers ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("steps", "share", "value"),
    [
        ([(1.0, 0.0), (2.0, 10.0), (float("inf"), 10.0)], 0.5, 1.5),
        ([(1.0, 10.0), (2.0, 10.0), (float("inf"), 10.0)], 0.99, 0.99),
        ([(1.0, 0.0), (2.0, 0.0), (float("inf"), 5.0)], 0.5, 2.0),
    ],
)
def test_a_share_of_answers_is_read_from_the_steps(steps: Any, share: float, value: float):
    assert percentile(steps, share) == pytest.approx(value)


def test_a_version_that_nobody_asked_has_no_figures_and_makes_no_series():
    told = figures_of(("never-asked", "1"))
    assert (told.requests, told.errors, told.whole) == (0, {}, None)
    assert b"never-asked" not in metrics.generate_latest(metrics.REGISTRY)


@pytest.mark.parametrize(
    ("name", "now", "before", "judged"),
    [
        ("val_accuracy", 0.9, 0.8, "better"),
        ("val_log_loss", 0.4, 0.5, "better"),
        ("RMSE", 3.0, 2.0, "worse"),
        ("f1_score", 0.5, 0.6, "worse"),
        ("train_rows", 5.0, 4.0, ""),
        ("accuracy", float("nan"), 0.8, ""),
    ],
)
def test_only_the_usual_metrics_are_judged(name: str, now: float, before: float, judged: str):
    assert compare({name: now}, {name: before})[0].judged == judged


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.90341, "0.9034"),
        (-0.0122, "−0.0122"),
        (100000.0, "100,000"),
        (0.0, "0"),
        (1.5e-7, "1.5e-07"),
        (float("nan"), "not a number"),
        (float("-inf"), "−infinity"),
        (None, ""),
    ],
)
def test_a_number_is_told_with_what_says_something(value: float | None, told: str):
    assert shown(value) == told


@pytest.mark.parametrize("said_", [None, 7, {}, {"state": "odd"}, {"state": ["kept"]}])
def test_a_lane_of_no_known_form_is_not_known(said_: Any):
    assert read_lane(said_) is None


def test_of_a_lane_only_what_is_known_is_taken():
    told = read_lane(
        {
            "state": "kept",
            "reason": "x" * 999,
            "proof": {"gain": 2.5, "covers": {"rows": 3}, "evil": "y", "form": ["a"] * 99},
        }
    )
    assert told and len(told.reason) == 300
    assert dict(told.proof) == {"form": ", ".join(["a"] * 20), "gain": 2.5, "covers": "rows (3)"}

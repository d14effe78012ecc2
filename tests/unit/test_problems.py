"""Errors: a problem document for programs, a plain page for browsers, never a trace."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from rest_framework.views import APIView

import mlops_site.urls
from mlops_site import problems
from registry.mlflow_client import RegistryUnavailable

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Broken(APIView):
    def get(self, request: Any) -> HttpResponse:
        raise RuntimeError("a secret of the inside")


class Away(APIView):
    def get(self, request: Any) -> HttpResponse:
        raise RegistryUnavailable


class Full(APIView):
    def get(self, request: Any) -> HttpResponse:
        raise OperationalError("database or disk is full")


def broken_page(request: Any) -> HttpResponse:
    raise RuntimeError("a secret of the inside")


urlpatterns = [
    path("mlops/broken", Broken.as_view()),
    path("mlops/away", Away.as_view()),
    path("mlops/full", Full.as_view()),
    path("broken", broken_page),
    path("", include(mlops_site.urls)),
]
handler400 = problems.bad_request
handler403 = problems.forbidden
handler404 = problems.not_found
handler500 = problems.server_error


@pytest.fixture
def client(settings: Any) -> Iterator[Client]:
    settings.ALLOWED_HOSTS = ["testserver"]
    with override_settings(ROOT_URLCONF=__name__):
        yield Client(raise_request_exception=False, enforce_csrf_checks=True)


def problem_of(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = json.loads(answer.content)
    assert body["status"] == status
    assert body["detail"]
    return body


@pytest.mark.parametrize("place", ["/mlops", "/mlops/", "/mlops/nothing", "/mlops/models/a/b"])
@pytest.mark.parametrize("headers", [{}, BROWSER], ids=["program", "browser"])
def test_an_unknown_path_of_the_api_is_a_problem(client: Client, place: str, headers: Any):
    assert problem_of(client.get(place, headers=headers), 404)["code"] == "not_found"


def test_any_other_unknown_path_is_a_page_in_a_browser_and_a_problem_elsewhere(client: Client):
    page = client.get("/nothing", headers=BROWSER)
    assert page.status_code == 404
    assert b"There is nothing at /nothing" in page.content
    problem_of(client.get("/nothing"), 404)


def test_what_is_asked_for_is_never_markup_on_the_page(client: Client):
    page = client.get("/<script>alert(1)</script>", headers=BROWSER)
    assert b"<script>" not in page.content


def test_an_error_that_nobody_foresaw_tells_nothing_of_the_inside(client: Client):
    for place, headers in (("/mlops/broken", {}), ("/broken", {}), ("/broken", BROWSER)):
        answer = client.get(place, headers=headers)
        assert answer.status_code == 500
        assert b"secret" not in answer.content
        assert b"Traceback" not in answer.content
        assert b"Something went wrong on our side" in answer.content


def test_a_part_that_is_away_says_when_to_come_back(client: Client):
    answer = client.get("/mlops/away")
    problem_of(answer, 503)
    assert answer.headers["Retry-After"] == "5"


def test_a_database_that_does_not_answer_says_when_to_come_back(client: Client):
    answer = client.get("/mlops/full")
    assert problem_of(answer, 503)["code"] == "database_unavailable"
    assert b"disk is full" not in answer.content
    assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize(
    "place",
    ["/mlops/status", "/mlops/training/jobs/x", "/docs", "/redoc", "/openapi.json", "/"],
)
def test_a_wrong_method_is_a_problem_that_names_the_right_one(client: Client, place: str):
    for method in ("put", "delete", "patch"):
        answer = getattr(client, method)(place)
        assert "this path takes GET" in problem_of(answer, 405)["detail"]
        assert "GET" in answer.headers["Allow"]


def test_options_says_the_methods_and_nothing_of_the_code(client: Client):
    body = client.options("/mlops/inference").json()
    assert body == {"methods": ["POST", "OPTIONS"], "documentation": "/docs"}
    problem_of(client.options("/docs"), 405)


def test_a_form_without_its_token_is_refused_in_words(client: Client):
    page = client.post("/admin/login/", headers=BROWSER)
    assert page.status_code == 403
    assert b"Reload its page" in page.content
    assert problem_of(client.post("/admin/login/"), 403)["code"] == "form_expired"


def test_a_host_that_is_not_answered_says_which_setting_names_it(client: Client):
    answer = client.get("/mlops/status", headers={"Host": "other.example"})
    assert "MLOPS_ALLOWED_HOSTS" in problem_of(answer, 400)["detail"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "The body is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(client: Client, body: bytes, told: str):
    answer = client.post("/mlops/registry", body, content_type="application/json")
    assert told in problem_of(answer, 400)["detail"]


def test_a_body_of_another_type_says_which_type_is_read(client: Client):
    answer = client.post("/mlops/registry", b"<a/>", content_type="application/xml")
    assert "Content-Type: application/json" in problem_of(answer, 415)["detail"]


def test_every_wrong_field_is_named_however_deep_it_lies(client: Client):
    asked = {"run_id": "x y", "tags": {"team": {"a": 1}, "mlops.job_id": "1"}}
    answer = client.post("/mlops/registry", json.dumps(asked), content_type="application/json")
    body = problem_of(answer, 400)
    fields = {error["field"] for error in body["errors"]}
    assert fields == {"model_name", "run_id", "tags.team"}
    assert "ErrorDetail" not in answer.content.decode()
    assert "tags.team: Not a valid string." in body["detail"]


def test_a_large_body_is_a_413(client: Client, settings: Any):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
    for place in ("/mlops/registry", "/mlops/training/upload"):
        answer = client.post(place, b" " * (1024 * 1024 + 1), content_type="application/json")
        body = problem_of(answer, 413)
        assert (body["code"], body["detail"]) == (
            "body_too_large",
            "The body is larger than 1 MiB.",
        )


def test_whatever_a_client_accepts_the_api_answers_json(client: Client):
    answer = client.get("/mlops/training/jobs/x?format=api", headers={"Accept": "text/html"})
    assert problem_of(answer, 404)["code"] == "job_not_found"

"""The pages: what they may load, and what an operator finds on them."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

OUTSIDE = re.compile(r"""(?:src|href)=["'](?:https?:)?//""")


@pytest.fixture
def client(settings: Any) -> Client:
    settings.ALLOWED_HOSTS = ["testserver"]
    return Client()


@pytest.fixture
def operator(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.mark.parametrize("place", ["/docs", "/docs/", "/redoc", "/redoc/"])
def test_the_documentation_names_no_other_host_and_may_ask_none(client: Client, place: str):
    page = client.get(place)
    assert page.status_code == 200
    assert not OUTSIDE.search(page.content.decode())
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_no_page_has_a_script_of_its_own(client: Client):
    for place in ("/docs", "/redoc", "/admin/login/"):
        scripts = re.findall(r"<script([^>]*)>", client.get(place).content.decode())
        assert scripts
        assert all("src=" in script for script in scripts)


def test_the_bare_address_leads_to_the_documentation(client: Client):
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/docs")


def test_the_schema_is_json_that_a_browser_shows(client: Client):
    for place in ("/openapi.json", "/openapi.json/"):
        answer = client.get(place)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json()["info"]["version"] == "5.0.0"


def test_the_admin_is_found_without_its_slash(client: Client):
    assert client.get("/admin").headers["Location"] == "/admin/"


def test_the_admin_leads_to_documentation_and_mlflow(operator: Client, settings: Any):
    settings.MLFLOW_TRACKING_URI = "http://mlflow.example:5000"
    page = operator.get("/admin/").content.decode()
    assert "MLOps engine" in page
    assert 'href="/docs"' in page
    assert 'href="http://mlflow.example:5000"' in page


def test_the_admin_shows_nothing_of_the_queue(operator: Client):
    """A scheduled task may be any function, and the web process must not order any."""
    page = operator.get("/admin/").content.decode()
    assert "django_q" not in page
    assert operator.get("/admin/django_q/schedule/add/").status_code == 404

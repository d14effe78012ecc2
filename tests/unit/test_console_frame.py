"""The console's frame: what a page may load, who may come in, and what an error looks like."""

import hashlib
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client

from mlops_site import urls
from registry.console import age, span, visible
from registry.read_only_admin import BoundedPaginator
from tests.fixtures.people import BROWSER, GROUPS, somebody
from tests.fixtures.sent_jobs import a_job

STATIC = Path(django_settings.BASE_DIR) / "mlops_site" / "static" / "mlops_site"
LISTS = (
    *("training/job", "training/jobevent", "training/attempt", "training/sandboxproof"),
    *("training/builtenvironment", "training/waitingcontainer", "inference/modelserver"),
    *("inference/aliaschange", "inference/modelpolicy", "inference/batchprediction"),
    *("mlops_site/heartbeat", "features"),
)
OURS_ONLY = re.compile(r"""(?:src|href|action)=["'](?!/|\?|#|http://127\.0\.0\.1:5000)""")


@pytest.fixture
def browser(db: Any) -> Client:
    return Client(raise_request_exception=False, **BROWSER)


def page_of(client: Client, path: str) -> str:
    return client.get(path).content.decode()


@pytest.mark.parametrize("path", ["/admin/", "/admin/nothing/here", "/admin/auth/user/add/"])
def test_a_page_of_the_console_may_load_our_files_and_nothing_else(db: Any, path: str):
    policy = somebody("administrator").get(path).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy and "data:" not in policy and "http" not in policy


def test_the_login_page_is_held_by_the_same_policy(browser: Client):
    policy = browser.get("/admin/login/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_keeps_what_it_needs(browser: Client, path: str):
    assert (
        "style-src 'self' 'unsafe-inline'" in browser.get(path).headers["Content-Security-Policy"]
    )


@pytest.mark.parametrize("path", ["/admin/", *(f"/admin/{path}/" for path in LISTS)])
def test_no_page_holds_a_script_a_style_or_a_handler_of_its_own(db: Any, path: str):
    page = page_of(somebody("administrator"), path)
    assert not re.search(r"<style|style=|\son\w+=|javascript:|hx-on", page)
    assert all("src=" in tag for tag in re.findall(r"<script([^>]*)>", page))
    assert not OURS_ONLY.search(page), OURS_ONLY.search(page)


def test_htmx_is_told_to_evaluate_nothing(db: Any):
    page = page_of(somebody("viewer"), "/admin/")
    assert '"allowEval":false' in page and '"includeIndicatorStyles":false' in page
    # A filter in a trigger would be evaluated.
    assert not re.search(r'hx-trigger="[^"]*\[', page)


def test_htmx_is_the_file_of_its_package():
    told = (STATIC / "vendor" / "htmx" / "README.md").read_text()
    whole = (STATIC / "vendor" / "htmx" / "htmx.min.js").read_bytes()
    assert hashlib.sha256(whole).hexdigest() in told
    assert (STATIC / "vendor" / "htmx" / "LICENSE").is_file()


def test_every_icon_that_a_page_names_is_there(db: Any):
    known = set(re.findall(r'<symbol id="(\w+)"', (STATIC / "console" / "icons.svg").read_text()))
    for path in ("/admin/", "/admin/training/job/"):
        named = set(
            re.findall(r"icons\.svg#([\w-]+)", page_of(somebody("operator", name=path), path))
        )
        assert named and named <= known


def test_a_stranger_is_asked_to_log_in_and_comes_back_to_the_page(browser: Client):
    answer = browser.get("/admin/training/job/?status=failed")
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/admin/login/?next=/admin/training/job/")


@pytest.mark.parametrize("group", GROUPS)
def test_whoever_is_in_a_group_logs_in_without_being_staff(browser: Client, db: Any, group: str):
    somebody(group, password="a long password")
    credentials = {"username": "olga", "password": "a long password", "next": "/admin/"}
    assert browser.post("/admin/login/", credentials).headers["Location"] == "/admin/"


@pytest.mark.parametrize("sent", [{"password": "wrong"}, {"username": "nobody"}, {}])
def test_a_refused_login_does_not_say_what_was_wrong(browser: Client, sent: dict[str, str]):
    User.objects.create_user("olga", password="a long password")  # of no group
    credentials = {"username": "olga", "password": "a long password", "next": "/admin/", **sent}
    page = browser.post("/admin/login/", credentials).content.decode()
    assert "Name or password is wrong, or this account may not open the console." in page


def test_somebody_without_rights_finds_a_page_that_says_so(db: Any):
    client = somebody(staff=True)
    assert "Your account may see nothing yet" in page_of(client, "/admin/")
    assert client.get("/admin/now/").status_code == 403


def test_what_is_not_there_is_said_in_the_frame(db: Any):
    answer = somebody("viewer").get("/admin/training/nothing/")
    page = answer.content.decode()
    assert answer.status_code == 404
    assert "There is nothing at /admin/training/nothing/" in page
    assert 'aria-label="Console"' in page


def test_what_one_may_not_is_said_in_the_frame(db: Any):
    answer = somebody("viewer").get("/admin/auth/user/")
    page = answer.content.decode()
    assert answer.status_code == 403
    assert "Your account may not do this." in page and 'aria-label="Console"' in page


def test_a_form_that_is_too_old_is_said_in_the_frame(db: Any):
    somebody("operator")
    browser = Client(enforce_csrf_checks=True, raise_request_exception=False, **BROWSER)
    browser.force_login(User.objects.get())
    answer = browser.post("/admin/training/job/act/", {"action": "cancel"})
    assert answer.status_code == 403
    assert "This form is too old" in answer.content.decode()


def test_an_error_of_ours_is_told_without_anything_that_may_have_failed(
    db: Any, monkeypatch: pytest.MonkeyPatch
):
    client = somebody("viewer")

    def breaks(**_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("mlops_site.console.home.last_day", breaks)
    answer = client.get("/admin/")
    page = answer.content.decode()
    assert answer.status_code == 500
    assert "broken" not in page and "<h1>Internal server error</h1>" in page


def test_what_a_page_does_not_find_is_said_in_its_words(db: Any):
    page = page_of(somebody("viewer"), f"/admin/training/job/{uuid.uuid4()}/change/")
    assert "There is no such job." in page and "Find jobs" in page


def test_the_address_of_a_button_that_is_opened_by_hand_has_a_page_too(db: Any):
    answer = somebody("operator").get("/admin/training/job/ask/", HTTP_ACCEPT="text/html")
    assert answer.status_code == 405 and answer.headers["Allow"] == "POST"
    assert "reached by a button of the console" in answer.content.decode()


def test_a_path_that_only_begins_like_the_console_is_not_it(browser: Client):
    answer = browser.get("/administrator")
    assert answer.status_code == 404
    assert "data:" in answer.headers["Content-Security-Policy"]


def test_an_error_outside_of_the_console_has_its_plain_page(browser: Client):
    assert urls.handler404 == "mlops_site.problems.not_found"
    assert 'aria-label="Console"' not in page_of(browser, "/nothing")


def test_the_navigation_shows_only_what_one_may_open(db: Any):
    viewer, administrator = somebody("viewer"), somebody("administrator", name="ada")
    assert "/admin/auth/user/" not in page_of(viewer, "/admin/")
    assert "/admin/auth/user/" in page_of(administrator, "/admin/")


def test_the_page_that_one_is_on_is_marked(db: Any):
    page = page_of(somebody("viewer"), "/admin/training/job/")
    assert re.findall(r'href="([^"]+)"[^>]*aria-current="page"', page)[0] == "/admin/training/job/"


@pytest.mark.parametrize(
    ("seconds", "long", "coarse"),
    [
        (0.04, "0.0s", "0s"),
        (7.94, "7.9s", "7s"),
        (48, "48s", "48s"),
        (187, "3m 7s", "3 min"),
        (7500, "2h 5m", "2 h"),
        (273_700, "3d 4h", "3 d"),
    ],
)
def test_a_span_of_time_is_told_in_two_units_at_most(seconds: float, long: str, coarse: str):
    assert (span(seconds), age(seconds)) == (long, coarse)


def test_what_steers_text_is_shown_instead_of_obeyed():
    assert visible("invoice\u202efdp.exe") == "invoice\\u202efdp.exe"
    assert visible("\x1b[31mred\x07") == "\\u001b[31mred\\u0007"
    assert visible("plain äöü 模型\n\tsecond") == "plain äöü 模型\n\tsecond"


@pytest.mark.parametrize("app", ["training", "inference", "mlops_site"])
def test_the_page_of_an_app_lists_what_is_in_it(db: Any, app: str):
    page = page_of(somebody("viewer"), f"/admin/{app}/")
    assert f'href="/admin/{app}/' in page and "Running and waiting" not in page


def test_a_long_list_is_counted_no_further_than_anybody_turns_pages(
    db: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(BoundedPaginator, "most", 3)
    for _ in range(5):
        a_job()
    page = page_of(somebody("viewer"), "/admin/training/jobevent/")
    assert "more than 3 job events" in page

"""The console's pages of environments: what takes the disk, who needs it, acts that ask first."""

import html
import re
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from inference.models import ModelServer
from tests.fixtures.pages import words
from tests.fixtures.people import GROUPS, somebody
from tests.fixtures.plans import plan_of
from tests.unit.test_built_environments import a_job, running_in
from training import environment_listing as listing
from training.console.environment_rows import needer_of, size_in_words
from training.models import BuiltEnvironment, EnvironmentPackage, Job
from training.services import environments

pytestmark = pytest.mark.django_db
LIST = reverse("admin:training_builtenvironment_changelist")
ASK, ACT = (reverse(f"admin:training_builtenvironment_{name}") for name in ("ask", "act"))
MB = 1_000_000
EVIL = "<script>alert(1)</script>\u202e"


@pytest.fixture
def operator() -> Client:
    return somebody("operator")


def an_environment(key: str, *pins: str, **changed: Any) -> BuiltEnvironment:
    lock = "".join(f"{pin} \\\n    --hash=sha256:aa\n" for pin in pins or ("six==1.17.0",))
    made = {"lock": lock, "pylock": 'lock-version = "1.0"\n', "python_version": "3.11"}
    environments.make_row(key, at=timezone.now(), **made)
    used = {"size_bytes": 471 * MB, "last_used_at": timezone.now(), **changed}
    BuiltEnvironment.objects.filter(pk=key).update(**used)
    return BuiltEnvironment.objects.get(pk=key)


def page_of(client: Client, query: str = "") -> str:
    answer = client.get(f"{LIST}?{query}" if query else LIST)
    assert answer.status_code == 200, answer.headers.get("Location")
    return answer.content.decode()


def one(client: Client, key: str) -> str:
    address = reverse("admin:training_builtenvironment_change", args=[key])
    return client.get(address).content.decode()


def keys(page: str) -> list[str]:
    """In the order of the rows."""
    return re.findall(r'<td class="lead">.*?<code[^>]*>(\w+)</code>', page, re.DOTALL)


def asked(client: Client, action: str, *chosen: str) -> str:
    sent = {"action": action, "environment": list(chosen)}
    return words(client.post(ASK, sent, headers={"HX-Request": "true"}).content.decode())


def said(client: Client, action: str, *chosen: str, page: str = "") -> str:
    sent = {"action": action, "environment": list(chosen), "page": page}
    answer = client.post(ACT, sent, follow=True)
    return " ".join(str(message) for message in answer.context["messages"])


# -- what the list says ----------------------------------------------------------------------------
def test_a_row_calls_it_by_what_its_newest_job_asked_for(operator: Client):
    an_environment("a1", "pandas==2.2.3", "scikit-learn==1.5.2", "six==1.17.0")
    Job.objects.filter(pk=a_job("a1").pk).update(requirements=["scikit_learn>=1.5", "not @@ one"])
    page = words(page_of(operator))
    assert "scikit-learn 1.5.2 a1" in page
    assert "Ready" in page and "471 MB" in page


def test_without_a_job_a_row_calls_it_by_what_is_well_known_of_it(operator: Client):
    an_environment("a1", "attrs==1.0", "xgboost==2.1.2", "pandas==2.2.3")
    an_environment("b2", "attrs==1.0")
    page = words(page_of(operator))
    assert "xgboost 2.1.2, pandas 2.2.3 a1" in page
    assert "what every job has, no more b2" in page


def test_the_page_begins_with_what_takes_the_disk(operator: Client, settings: Any, room: Any):
    settings.ENVIRONMENTS_MAX_MB = 1000
    an_environment("a1", build_seconds=8.0)
    an_environment("b2", build_seconds=10.0)
    an_environment("c3", state="gone", size_bytes=0)
    page = words(page_of(operator))
    assert "On the disk 942 MB of 1 GB" in page
    assert "Environments 2 1 more are gone" in page
    assert "Free on this host 49 GB No job starts below 2.0 GB" in page
    assert "A build, usually 9.0s" in page
    assert '<rect width="94%" height="100%" class="over"/>' in page_of(operator)


def test_without_a_budget_there_is_no_bar(operator: Client, settings: Any):
    settings.ENVIRONMENTS_MAX_MB = 0
    an_environment("a1")
    page = page_of(operator)
    assert "There is no budget" in page and "of the budget" not in page


def test_what_nobody_used_for_long_is_told_with_its_size(operator: Client):
    long_ago = timezone.now() - timedelta(days=40)
    an_environment("old", last_used_at=long_ago)
    an_environment("needed", last_used_at=long_ago, needed_by=["model m version 1"])
    an_environment("new")
    page = page_of(operator)
    assert "1 environment that nobody used for 30 days holds 471 MB" in words(page)
    form = page.split('class="note is-warn"')[1].split("</form>")[0]
    assert re.findall(r'name="environment" value="(\w+)"', form) == ["old"]


def test_who_has_it_and_which_models_need_it_is_in_its_row(operator: Client):
    an_environment("a1", needed_by=["model churn version 7"])
    running_in("a1")
    page = words(page_of(operator))
    assert "churn v7" in page and "1 has it now" in page


@pytest.mark.parametrize(
    ("called", "told", "model"),
    [
        ("model churn version 7", "churn v7", "churn"),
        ("model a version 2 version 7", "a version 2 v7", "a version 2"),
        ("the server of m version 1", "the server of m version 1", ""),
        ("job 8f14e45f-ceea-467f-9575-5d2b1a3f5c7e", "job 8f14e45f", ""),
    ],
)
def test_who_needs_one_is_told_apart(called: str, told: str, model: str):
    needer = needer_of(called)
    assert (needer.words, needer.model) == (told, model)
    assert (needer.job is not None) == called.startswith("job")


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 MB"), (471 * MB, "471 MB"), (1_020 * MB, "1.02 GB"), (2_000_000 * MB, "2000 GB")],
)
def test_sizes_are_told_as_the_budget_is_set(count: int, told: str):
    assert size_in_words(count) == told


def test_what_a_stranger_wrote_is_text(operator: Client):
    an_environment("a1", f"{EVIL}==1", needed_by=[f"model {EVIL} version 1"], error=EVIL)
    BuiltEnvironment.objects.update(build_log=EVIL, state="failed")
    job = a_job("a1")
    Job.objects.filter(pk=job.pk).update(
        requirements=[EVIL], script_name=EVIL, experiment_name=EVIL
    )
    for page in (page_of(operator), one(operator, "a1"), page_of(operator, f"text={EVIL}")):
        assert "<script>alert" not in page
        assert "\u202e" not in re.sub(r'<input [^>]*>|href="[^"]*"', "", page)


# -- filters ---------------------------------------------------------------------------------------
def test_each_filter_is_a_link_and_finds_its_environments(operator: Client):
    now = timezone.now()
    an_environment("aa1", "xgboost==2.1.2", last_used_at=now - timedelta(days=10))
    an_environment("bb2", "xgboost==1.7.6", python_version="3.12", size_bytes=900 * MB)
    an_environment("cc3", state="gone", size_bytes=0)
    an_environment("dd4", state="failed", last_used_at=None)
    for query, found in {
        "": ["bb2", "aa1", "dd4"],
        "state=gone": ["cc3"],
        "shown=all": ["cc3", "bb2", "aa1", "dd4"],
        "state=failed": ["dd4"],
        "python=3.12": ["bb2"],
        "unused=7": ["aa1"],
        "unused=30": [],
        "text=xgboost": ["bb2", "aa1"],
        "text=xgboost==2": ["aa1"],
        "text=bb": ["bb2"],
        "text=nobody": [],
        "sort=size": ["bb2", "dd4", "aa1"],
        "sort=newest": ["dd4", "bb2", "aa1"],
        "shown=all&text=six": ["cc3", "dd4"],
    }.items():
        assert keys(page_of(operator, query)) == found, query


@pytest.mark.parametrize("query", ["state=broken", "unused=1", "sort=colour", "shown=some"])
def test_a_filter_that_is_wrong_is_named_and_nothing_is_shown(operator: Client, query: str):
    an_environment("a1")
    page = page_of(operator, query)
    assert f"There is no {query.replace('=', ' ', 1).partition(' ')[0]}" in words(page)
    assert keys(page) == [] and "Nothing was looked up" in page


def test_the_empty_fields_of_a_form_leave_the_address(operator: Client):
    answer = operator.get(f"{LIST}?text=&state=gone&python=")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{LIST}?state=gone")


def test_pages_lead_on_and_back(operator: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("training.console.environments.ON_A_PAGE", 2)
    for number in range(5):
        an_environment(f"n{number}")
    first = page_of(operator, "sort=newest")
    assert keys(first) == ["n4", "n3"] and 'rel="prev"' not in first
    older = html.unescape(re.search(r'href="(\?[^"]*)" rel="next"', first).group(1))
    assert keys(page_of(operator, older[1:])) == ["n2", "n1"]
    last = page_of(operator, "sort=newest&page=3")
    assert keys(last) == ["n0"] and 'rel="next"' not in last and 'rel="prev"' in last


def test_nothing_yet_and_nothing_that_fits_are_told_apart(operator: Client):
    assert "No environment yet" in page_of(operator)
    an_environment("a1")
    assert "No environment fits" in page_of(operator, "state=gone")


def test_the_jobs_of_an_environment_are_a_list_of_their_own(operator: Client):
    an_environment("a1", jobs=1)
    a_job("a1")
    a_job("b2")
    page = page_of(operator)
    address = html.unescape(re.search(r'href="([^"]*environment=a1)"', page).group(1))
    shown = operator.get(address).content.decode()
    assert shown.count('<td class="lead">') == 1 and "environment <b>a1</b>" in shown


# -- what it costs ---------------------------------------------------------------------------------
@pytest.mark.parametrize("query", ["", "text=six==1&sort=size", "shown=all&unused=7"])
def test_the_list_asks_as_often_for_many_as_for_few(operator: Client, room: Any, query: str):
    def cost() -> list[str]:
        with CaptureQueriesContext(connection) as queries:
            page_of(operator, query)
        return [query["sql"] for query in queries.captured_queries]

    an_environment("a0")
    few = cost()
    now = timezone.now()
    for number in range(1, 12):
        an_environment(f"a{number}", needed_by=[f"model m version {number}"])
        running_in(f"a{number}")
        ModelServer.objects.create(
            model_name=f"m{number}",
            version="1",
            status="starting",
            environment_key=f"a{number}",
            created_at=now,
            changed_at=now,
        )
    many = cost()
    assert len(many) == len(few) <= 15
    for sql in many:
        assert '"lock"' not in sql and '"build_log"' not in sql and '"script"' not in sql


def test_one_page_asks_as_often_for_many_jobs_as_for_few(operator: Client):
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            one(operator, "a1")
        return len(queries)

    an_environment("a1")
    few = cost()
    for _ in range(5):
        running_in("a1")
    assert cost() == few <= 15


@pytest.mark.parametrize("order", listing.Order)
def test_a_page_is_found_without_reading_the_locks_of_all(order: listing.Order):
    for states in ((), listing.ON_DISK):
        wanted = listing.EnvironmentFilter(states=states)
        asking = listing.matching(wanted).order_by(*listing.ORDERS[order]).values("pk")[:50]
        with CaptureQueriesContext(connection) as queries:
            list(asking)
        plan = plan_of(queries.captured_queries[0]["sql"])
        assert plan.uses("environment_facts") or plan.uses("environment_newest"), plan


def test_what_takes_the_disk_is_counted_from_the_index_alone():
    with CaptureQueriesContext(connection) as queries:
        listing.disk_now()
    assert len(queries) == 2
    assert plan_of(queries.captured_queries[0]["sql"]).uses("environment_facts")


# -- one environment -------------------------------------------------------------------------------
def test_one_page_has_everything_that_is_known_of_it(operator: Client, settings: Any):
    settings.PYTHON_IMAGES = {"3.11": "runner:one"}
    built = {"build_log": "Resolving\nCompiling\n", "build_seconds": 8.1, "jobs": 12}
    an_environment("a1", "pandas==2.2.3", needed_by=["model churn version 7"], **built)
    job = running_in("a1")
    Job.objects.filter(pk=job.pk).update(requirements=["pandas>2"])
    page = one(operator, "a1")
    told = words(page)
    assert "Packages 1, all of them" in told and "pandas 2.2.3" in told
    assert "Asked for pandas>2" in told and "Base image runner:one" in told
    assert f'data-log="{log_of("a1")}" data-parts="0 Environment" data-size="20"' in page
    assert "data-live" not in page, "nothing more comes"
    assert "the newest 1 of 12" in told
    assert f'href="{reverse("admin:training_job_change", args=[job.pk])}"' in page
    assert "/admin/models/churn/versions/7/" in page
    assert "in 8.1s" in told


def log_of(key: str) -> str:
    return reverse("admin:training_builtenvironment_log", args=[key])


def followed(client: Client, *, offset: int = 0, seen: str = "") -> str:
    headers = {"Last-Event-ID": seen} if seen else {}
    answer = client.get(f"{log_of('a1')}?follow=1&offset={offset}", headers=headers)
    assert answer.headers["Content-Type"] == "text/event-stream"
    return answer.content.decode()


def test_the_log_of_a_build_is_read_in_pieces_and_downloaded(operator: Client):
    an_environment("a1", build_log="Lösung\nCompiling\n")
    whole = operator.get(log_of("a1"))
    assert whole.content.decode() == "Lösung\nCompiling\n"
    assert whole.headers["Content-Type"].startswith("text/plain")
    piece = operator.get(f"{log_of('a1')}?offset=8&length=9")
    assert (piece.content, piece.headers["X-Log-Dropped"]) == (b"Compiling", "0")
    download = operator.get(f"{log_of('a1')}?download=1").headers["Content-Disposition"]
    assert download == 'attachment; filename="build-a1.log"'
    assert operator.get(log_of("nobody")).status_code == 404


def test_a_build_that_goes_on_is_followed_to_its_end(operator: Client):
    an_environment("a1", state="building", build_log="Resolving\n")
    page = one(operator, "a1")
    assert "data-live data-in-turns" in page and "as it comes" in words(page)
    first = followed(operator)
    assert "retry: 1000" in first and "event: end" not in first
    assert 'id: 10\nevent: log\ndata: {"text":"Resolving\\n","offset":0' in first
    assert "event:" not in followed(operator, seen="10"), "nothing is new"
    BuiltEnvironment.objects.update(state="ready", build_log="Resolving\nCompiling\n")
    last = followed(operator, seen="10")
    assert '"text":"Compiling\\n","offset":10' in last and last.endswith("event: end\ndata: {}\n\n")


def test_what_the_build_before_printed_is_over_once_another_is_asked_for(operator: Client):
    an_environment("a1", asked="rebuild", asked_at=timezone.now(), build_log="long ago")
    assert 'data-size="0" data-live' in one(operator, "a1")
    assert "event:" not in followed(operator)
    BuiltEnvironment.objects.update(asked="delete")
    assert 'data-size="8"' in one(operator, "a1")


def test_what_a_build_prints_cannot_end_an_event(operator: Client):
    an_environment("a1", state="building", build_log="x\n\nevent: end\ndata: {}\n\n")
    assert followed(operator).count("\nevent: ") == 1


@pytest.mark.parametrize("name", ["requirements.txt", "pylock.toml"])
def test_its_lock_is_had_as_a_file(operator: Client, name: str):
    row = an_environment("a1")
    assert f'/lock/{name}" download' in one(operator, "a1")
    address = reverse("admin:training_builtenvironment_lock", args=["a1", name])
    answer = operator.get(address)
    wanted = row.lock if name == "requirements.txt" else row.pylock
    assert answer.content.decode() == wanted
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'


@pytest.mark.parametrize(
    ("key", "name"), [("a1", "passwd"), ("a1", "lock"), ("b2", "pylock.toml"), ("x", "pylock.toml")]
)
def test_a_lock_that_there_is_not_is_not_found(operator: Client, key: str, name: str):
    an_environment("a1")
    an_environment("b2", pylock="")
    address = reverse("admin:training_builtenvironment_lock", args=[key, name])
    assert operator.get(address).status_code == 404


def test_an_unknown_environment_is_not_found(operator: Client):
    page = reverse("admin:training_builtenvironment_change", args=["nobody"])
    assert operator.get(page).status_code == 404
    assert operator.get(f"{page.removesuffix('change/')}now/").status_code == 404
    assert operator.post(page, {}).status_code == 403


def test_a_button_that_cannot_be_used_says_why(operator: Client):
    an_environment("a1", needed_by=["model churn version 7"])
    page = one(operator, "a1")
    delete = re.search(r'<button[^>]*id="do-delete"[^>]*>', page).group()
    rebuild = re.search(r'<button[^>]*id="do-rebuild"[^>]*>', page).group()
    assert "disabled" in delete and "disabled" not in rebuild
    assert "It stays: churn v7 was made in it." in words(page)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"asked": "rebuild", "asked_at": timezone.now()}, "It will be built again"),
        ({"state": "building"}, "It is being built again"),
        ({"state": "gone"}, "It is not on the disk"),
        ({"state": "failed", "error": "No wheel."}, "The last build failed No wheel."),
        ({"error": "Environment a1 is needed."}, "What was asked for was not done"),
    ],
)
def test_what_is_the_matter_with_it_is_said_in_words(
    operator: Client, changed: dict[str, Any], told: str
):
    an_environment("a1", **changed)
    assert told in words(one(operator, "a1"))


def test_it_is_refreshed_while_something_is_about_to_become_of_it(operator: Client):
    an_environment("a1")
    assert "data-refresh" not in one(operator, "a1")
    BuiltEnvironment.objects.update(state="building")
    page = one(operator, "a1")
    address = html.unescape(re.search(r'hx-get="([^"]*)"[^>]*data-refresh', page).group(1))
    fragment = operator.get(address).content.decode()
    assert "data-refresh" in fragment and "data-log" not in fragment
    BuiltEnvironment.objects.update(state="ready", build_log="Compiling\n")
    fragment = operator.get(address).content.decode()
    assert "data-refresh" not in fragment
    pieces = re.findall(r'id="([\w-]+)"[^>]* hx-swap-oob', fragment)
    assert len(pieces) == 4 and all(f'id="{piece}"' in page for piece in pieces)


def test_rows_that_are_alive_are_refreshed_and_no_others(operator: Client):
    an_environment("done")
    assert "data-refresh" not in page_of(operator)
    an_environment("alive", asked="delete", asked_at=timezone.now())
    page = page_of(operator)
    address = html.unescape(re.search(r'hx-get="([^"]*)"[^>]*data-refresh', page).group(1))
    assert "alive" in address and "done" not in address
    assert "will be deleted" in words(page)
    BuiltEnvironment.objects.filter(pk="alive").update(asked="", state="gone", size_bytes=0)
    fragment = operator.get(address).content.decode()
    assert "Gone" in fragment and "data-refresh" not in fragment
    pieces = re.findall(r'id="([\w-]+)"[^>]* hx-swap-oob', fragment)
    assert len(pieces) == 3 and all(f'id="{piece}"' in page for piece in pieces)


# -- it asks first ---------------------------------------------------------------------------------
def test_deleting_says_what_happens_to_each_and_does_nothing_yet(operator: Client):
    an_environment("free1")
    an_environment("model1", needed_by=["model churn version 7"])
    an_environment("used1")
    running_in("used1")
    an_environment("gone1", state="gone", size_bytes=0)
    told = asked(operator, "delete", "free1", "model1", "used1", "gone1")
    assert told.startswith("Delete 1 environment?")
    assert "goes: 471 MB" in told and "Frees up to 471 MB" in told
    assert "stays: churn v7 was made in it" in told
    assert "stays while it is in use: job " in told
    assert "is gone already: nothing happens" in told
    assert not BuiltEnvironment.objects.exclude(asked="").exists()


def test_building_again_says_how_long_it_took(operator: Client):
    an_environment("a1", build_seconds=8.1)
    an_environment("none", packages=0)
    told = asked(operator, "rebuild", "a1", "none")
    assert told.startswith("Build 1 environment again?")
    assert "is built again from its lock, in about 8.1s" in told and "has no lock" in told


def test_what_may_be_done_is_asked_for_and_what_not_is_told(operator: Client):
    an_environment("free1")
    an_environment("model1", needed_by=["model churn version 7"])
    told = said(operator, "delete", "free1", "model1")
    assert "1 environment will be deleted." in told and "1 environment left as before." in told
    rows = dict(BuiltEnvironment.objects.values_list("key", "asked"))
    assert rows == {"free1": "delete", "model1": ""}
    assert "will be built again" in said(operator, "rebuild", "model1")


def test_what_the_service_refuses_is_told_in_its_words(
    operator: Client, monkeypatch: pytest.MonkeyPatch
):
    """Somebody began to use it between the question and the answer."""
    an_environment("a1")
    monkeypatch.setattr(environments, "in_use", lambda key: ["job 1"])
    assert "Environment a1 is needed by job 1." in said(operator, "delete", "a1")


def test_from_its_own_page_one_comes_back_to_it(operator: Client):
    an_environment("a1")
    sent = {"action": "rebuild", "environment": ["a1"], "page": "a1"}
    assert operator.post(ACT, sent).headers["Location"].endswith("/a1/change/")
    for page in ("//evil.example", "../x", ""):
        answer = operator.post(ACT, {**sent, "page": page})
        assert answer.headers["Location"] == LIST


def test_nothing_selected_says_how_to_select(operator: Client):
    assert "No environment is selected" in asked(operator, "delete")
    assert "No environment was selected" in said(operator, "delete")
    assert operator.post(ASK, {"action": "explode"}).status_code == 404
    assert operator.get(ASK).status_code == 405


def test_without_javascript_the_question_is_a_page(operator: Client):
    an_environment("a1")
    page = operator.post(ASK, {"action": "delete", "environment": ["a1"]}).content.decode()
    assert 'aria-label="Console"' in page and "Delete 1 environment?" in page


# -- rights ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("group", GROUPS)
def test_everybody_sees_and_operators_act(group: str):
    client, may = somebody(group), group in ("operator", "administrator")
    an_environment("a1")
    assert ('type="checkbox"' in page_of(client)) == may
    assert ('id="do-delete"' in one(client, "a1")) == may
    said(client, "delete", "a1")
    assert (BuiltEnvironment.objects.get(pk="a1").asked == "delete") == may


def test_whoever_may_see_nothing_sees_none_of_it():
    client = somebody(staff=True)
    an_environment("a1")
    lock = reverse("admin:training_builtenvironment_lock", args=["a1", "requirements.txt"])
    change = reverse("admin:training_builtenvironment_change", args=["a1"])
    now = reverse("admin:training_builtenvironment_one_now", args=["a1"])
    for address in (LIST, lock, change, now, reverse("admin:training_builtenvironment_now")):
        assert client.get(address).status_code == 403, address
    for address in (ASK, ACT):
        sent = {"action": "delete", "environment": ["a1"]}
        assert client.post(address, sent).status_code == 403


# -- rows of packages ------------------------------------------------------------------------------
def test_environments_of_before_are_searched_too():
    """The migration reads the locks that are there."""
    row = BuiltEnvironment.objects.create(
        pk="old",
        lock="six==1.17.0 \\\n    --hash=sha256:aa\n# a comment\nown @ https://e.example/w.whl\n",
        created_at=timezone.now(),
    )
    import_module("training.migrations.0010_environment_packages").fill(apps, None)
    packages = EnvironmentPackage.objects.filter(environment=row).values_list("name", "version")
    assert set(packages) == {("six", "1.17.0"), ("own", "@ https://e.example/w.whl")}


def test_a_row_that_goes_takes_its_packages_along():
    an_environment("a1")
    BuiltEnvironment.objects.all().delete()
    assert not EnvironmentPackage.objects.exists()

"""The audit: each act of a person, with its channel and address; read by few, changed by none."""

import csv
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from inference.models import ModelServer
from inference.services import aliases, policy, pool
from inference.states import Reason
from mlops_site import tasks
from registry import audit, audit_listing
from registry.audit import Act, Kind
from registry.audit_listing import AuditFilter, page_of_audit
from registry.models import AuditEntry, RowsStay
from registry.sources import Channel, Source, coming_from, shell
from tests.fixtures.people import BROWSER, GROUPS, somebody
from tests.fixtures.plans import plan_of, steps_of
from tests.fixtures.sent_jobs import a_job
from training.models import BuiltEnvironment, Job
from training.services import environments
from training.services.cancel import cancel
from training.services.priority import set_priority
from training.states import Priority

pytestmark = pytest.mark.django_db
PAGE, CSV = "/admin/audit/", "/admin/audit/csv/"
UPLOAD = {"script_name": "train.py", "script_content": "import mlflow\nmlflow.autolog()\n"}


def told() -> list[tuple[str, str, str]]:
    """Who did what, from where, the newest last."""
    rows = AuditEntry.objects.order_by("id")
    return [(row.actor, row.act, row.channel) for row in rows]


def last() -> AuditEntry:
    return AuditEntry.objects.latest("id")


@pytest.fixture
def console() -> Iterator[None]:
    with coming_from(Source(Channel.CONSOLE, "10.1.4.7", person=lambda: "olga")):
        yield


def lines(count: int, **changed: Any) -> None:
    """Old enough to stand below what a test does."""
    now = timezone.now() - timedelta(hours=2)
    values = {"act": Act.LOGOUT, "kind": Kind.USER, "key": "x", "channel": "api", **changed}
    rows = (AuditEntry(at=now - timedelta(seconds=n), **values) for n in range(count))
    AuditEntry.objects.bulk_create(rows)


# -- what is written down -------------------------------------------------------------------------
def test_an_upload_a_rerun_and_a_cancel_over_the_api_are_those_of_an_address(
    api: Client, room: Any
):
    headers = {"content_type": "application/json", "REMOTE_ADDR": "10.0.0.9"}
    sent = api.post("/mlops/training/upload", json.dumps(UPLOAD), **headers).json()
    again = api.post(f"/mlops/training/jobs/{sent['job_id']}/rerun", "", **headers).json()
    api.post(f"/mlops/training/jobs/{again['job_id']}/cancel", "", **headers)
    assert told() == [
        ("10.0.0.9", "job.upload", "api"),
        ("10.0.0.9", "job.rerun", "api"),
        ("10.0.0.9", "job.cancel", "api"),
    ]
    assert last().key == again["job_id"] and last().address == "10.0.0.9"
    assert last().name == "train.py"


def test_what_is_done_in_the_console_is_that_of_a_person(room: Any):
    job = a_job()
    client = somebody("operator")
    sent = {"action": "high", "job": [str(job.pk)]}
    client.post("/admin/training/job/act/", sent, REMOTE_ADDR="10.1.4.7")
    entry = last()
    assert (entry.actor, entry.act, entry.channel) == ("olga", "job.priority", "console")
    assert (entry.address, entry.key, entry.detail) == ("10.1.4.7", str(job.pk), "normal to high")


def test_a_cancel_or_a_move_that_does_nothing_is_none(room: Any):
    job = a_job()
    before = AuditEntry.objects.count()
    set_priority(job.pk, Priority.NORMAL, actor="olga")
    cancel(job.pk, actor="olga")
    cancel(job.pk, actor="olga")
    assert AuditEntry.objects.count() == before + 1


def test_an_act_that_is_taken_back_is_not_written_down_either(room: Any):
    job = a_job()
    before = AuditEntry.objects.count()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        cancel(job.pk, actor="olga")
        raise ZeroDivisionError
    assert AuditEntry.objects.count() == before
    assert Job.objects.get().status == "queued"


def test_wishes_for_an_environment_are_written_down(console: None):
    now = timezone.now()
    BuiltEnvironment.objects.create(key="e1", lock="six==1\n", state="ready", created_at=now)
    environments.ask_rebuild("e1")
    environments.ask_delete("e1")
    assert told() == [
        ("olga", "environment.rebuild", "console"),
        ("olga", "environment.delete", "console"),
    ]


def test_a_server_that_somebody_stops_is_written_down_and_one_that_idles_is_not(console: None):
    moment = timezone.now()
    servers = [
        ModelServer.objects.create(
            model_name="churn",
            version=version,
            status="starting",
            created_at=moment,
            changed_at=moment,
        )
        for version in ("1", "2")
    ]
    pool.stop(servers[0].pk, reason=Reason.IDLE)
    pool.stop(servers[1].pk)
    pool.stop(servers[1].pk)
    assert told() == [("olga", "server.stop", "console")]
    assert last().name == "churn version 2"


def test_a_policy_is_written_down_with_what_it_says(console: None):
    policy.set_policy("churn", policy.default_policy(), actor="olga")
    assert (last().act, last().key) == ("serving.policy", "churn")
    assert last().detail.startswith("0 to 1 servers, idle after ")


def test_aliases_are_written_down_and_what_was_seen_in_mlflow_is_nobodys(
    console: None, monkeypatch: pytest.MonkeyPatch
):
    class Registry:
        now = {"champion": "1"}

        def aliases(self, name: str) -> dict[str, str]:
            return dict(self.now)

        def version(self, name: str, version: str) -> Any:
            return type("Version", (), {"source": "s"})

        def set_alias(self, name: str, alias: str, version: str) -> None:
            self.now[alias] = version

        def delete_alias(self, name: str, alias: str) -> None:
            del self.now[alias]

    registry = Registry()
    monkeypatch.setattr(aliases, "model_registry", lambda: registry)
    aliases.point("churn", "champion", "2", actor="olga")
    assert last().detail == "champion: 1 to 2"
    aliases.roll_back("churn", "champion", actor="olga")
    aliases.take_away("churn", "champion", actor="olga")
    assert [act for _, act, _ in told()] == ["alias.set", "alias.rolled_back", "alias.deleted"]


# -- who came in, and accounts --------------------------------------------------------------------
def test_a_login_and_a_logout_are_written_down():
    somebody("viewer", password="a long password")
    AuditEntry.objects.all().forget()
    browser = Client(**BROWSER)
    credentials = {"username": "olga", "password": "a long password"}
    browser.post("/admin/login/", credentials, REMOTE_ADDR="10.1.4.7")
    browser.post("/admin/logout/")
    assert told() == [("olga", "login", "console"), ("olga", "logout", "console")]
    assert AuditEntry.objects.earliest("id").address == "10.1.4.7"


def test_a_failed_login_names_an_account_and_never_what_a_stranger_typed():
    User.objects.create_user("olga", password="a long password")
    AuditEntry.objects.all().forget()
    browser = Client(**BROWSER)
    for name in ("olga", "my secret password"):
        browser.post("/admin/login/", {"username": name, "password": "wrong"})
    assert [(row.act, row.key) for row in AuditEntry.objects.order_by("id")] == [
        ("login.failed", "olga"),
        ("login.failed", "unknown"),
    ]
    assert not AuditEntry.objects.filter(detail__contains="secret").exists()


def test_somebody_with_the_right_password_and_no_group_failed_to_log_in():
    User.objects.create_user("olga", password="a long password")
    AuditEntry.objects.all().forget()
    Client(**BROWSER).post("/admin/login/", {"username": "olga", "password": "a long password"})
    assert told() == [("olga", "login.failed", "console")]


def test_whoever_guesses_passwords_does_not_fill_the_audit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit, "FAILED_LOGINS_A_MINUTE", 3)
    for _ in range(5):
        audit.record_failed_login("")
    assert AuditEntry.objects.count() == 3


def test_accounts_that_are_made_changed_and_deleted_in_the_console_are_written_down():
    client = somebody("administrator", name="adam")
    AuditEntry.objects.all().forget()
    made = {"username": "bob", "usable_password": "true"}
    made |= {"password1": "a long password", "password2": "a long password"}
    assert client.post("/admin/auth/user/add/", made).status_code == 302
    bob = User.objects.get(username="bob")
    group = Group.objects.get(name="operator")
    changed = {
        "username": "bob",
        "is_active": "",
        "groups": [group.pk],
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
    }
    assert client.post(f"/admin/auth/user/{bob.pk}/change/", changed).status_code == 302
    client.post(f"/admin/auth/user/{bob.pk}/delete/", {"post": "yes"})
    assert {actor for actor, _, _ in told()} == {"adam"}
    assert [(row.act, row.key, row.detail) for row in AuditEntry.objects.order_by("id")] == [
        ("user.add", "bob", ""),
        ("user.change", "bob", "is_active: yes to no"),
        ("user.change", "bob", "with operator"),
        ("user.delete", "bob", ""),
    ]


def test_several_accounts_that_are_deleted_at_once_are_all_written_down():
    client = somebody("administrator", name="adam")
    users = [User.objects.create_user(name) for name in ("bob", "carl")]
    AuditEntry.objects.all().forget()
    sent = {"action": "delete_selected", "_selected_action": [user.pk for user in users]}
    client.post("/admin/auth/user/", {**sent, "post": "yes"})
    assert sorted(row.key for row in AuditEntry.objects.filter(act="user.delete")) == [
        "bob",
        "carl",
    ]


def test_a_new_password_is_told_of_and_not_what_it_is(console: None):
    user = User.objects.create_user("bob", password="the old one 123")
    user.set_password("the new one 123")
    user.save()
    assert (last().act, last().detail) == ("user.change", "password")
    assert not AuditEntry.objects.filter(detail__contains="pbkdf2").exists()


def test_what_django_writes_at_a_login_is_no_act_of_anybody():
    user = User.objects.create_user("bob", password="a long password")
    before = AuditEntry.objects.count()
    user.last_login = timezone.now()
    user.save(update_fields=["last_login"])
    user.save()
    assert AuditEntry.objects.count() == before


def test_rights_of_groups_are_written_down_by_their_names(console: None):
    group = Group.objects.create(name="night shift")
    right = Group.objects.get(name="operator").permissions.get(codename="change_hold")
    group.permissions.add(right)
    group.permissions.clear()
    group.name = "day shift"
    group.save()
    group.delete()
    rows = AuditEntry.objects.filter(kind="group").order_by("id")
    assert [(row.act, row.detail) for row in rows] == [
        ("group.add", ""),
        ("group.change", "with registry.change_hold"),
        ("group.change", "without all"),
        ("group.change", "name: night shift to day shift"),
        ("group.delete", ""),
    ]


def test_a_command_is_that_of_the_account_that_ran_it():
    with coming_from(shell()):
        call_command("createsuperuser", "--noinput", username="root2", email="")
    assert (last().act, last().channel, last().detail) == ("user.add", "cli", "superuser")
    assert last().actor


# -- nobody changes it ----------------------------------------------------------------------------
def test_a_line_is_neither_changed_nor_deleted():
    lines(1)
    entry = AuditEntry.objects.get()
    entry.actor = "somebody else"
    for change in (
        entry.save,
        entry.delete,
        AuditEntry.objects.all().delete,
        lambda: AuditEntry.objects.update(actor="x"),
    ):
        with pytest.raises(RowsStay):
            change()
    assert AuditEntry.objects.get().actor == ""


def test_the_admin_knows_no_form_of_it():
    assert not admin.site.is_registered(AuditEntry)
    client = somebody("administrator")
    for path in ("/admin/registry/auditentry/", "/admin/registry/auditentry/add/"):
        assert client.get(path).status_code == 404


def test_whatever_is_too_long_or_unstorable_is_cut_and_kept(console: None):
    audit.record(Act.JOB_CANCEL, Kind.JOB, "k" * 999, name="n\x00" * 999, detail="d" * 9999)
    assert (len(last().key), len(last().name), len(last().detail)) == (300, 300, 1000)


def test_old_lines_go_with_their_age_and_that_they_went_is_written_down(settings: Any):
    settings.KEEP_AUDIT_DAYS = 30
    lines(2)
    old = timezone.now() - timedelta(days=31)
    AuditEntry.objects.bulk_create(
        [AuditEntry(at=old, act="login", kind="user", channel="api") for _ in range(3)]
    )
    assert (audit.old_entries(), audit.forget_old(), audit.old_entries()) == (3, 3, 0)
    assert (last().act, last().channel) == ("audit.forget", "platform")
    assert last().detail.startswith("3 from before ")
    settings.KEEP_AUDIT_DAYS = 0
    assert audit.forget_old() == 0


def test_the_daily_work_forgets_old_lines(monkeypatch: pytest.MonkeyPatch, settings: Any):
    settings.KEEP_AUDIT_DAYS = 1
    for name in ("watching.remove_unowned_models", "request_log.purge_old"):
        monkeypatch.setattr(f"mlops_site.tasks.{name}", lambda: None)
    monkeypatch.setattr("mlops_site.tasks.model_registry", lambda: None)
    retention = type("R", (), {"__init__": lambda *_, **__: None, "clear": lambda _: True})
    monkeypatch.setattr("mlops_site.tasks.Retention", retention)
    lines(1)
    AuditEntry.objects.bulk_create(
        [AuditEntry(at=timezone.now() - timedelta(days=2), act="a", kind="k", channel="api")]
    )
    tasks.retention()
    assert sorted(row.act for row in AuditEntry.objects.all()) == ["audit.forget", "logout"]


# -- the page -------------------------------------------------------------------------------------
def page_of(client: Client, query: str = "") -> str:
    answer = client.get(f"{PAGE}{query}")
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


@pytest.mark.parametrize("group", GROUPS)
def test_operators_and_administrators_see_it_and_nobody_else(group: str):
    client = somebody(group)
    may = group in ("operator", "administrator")
    for path in (PAGE, CSV):
        assert client.get(path).status_code == (200 if may else 403)
    assert ('href="/admin/audit/"' in client.get("/admin/").content.decode()) == may


def test_a_line_leads_to_what_it_was_done_to(room: Any):
    job = a_job()
    page = page_of(somebody("operator"))
    assert "sent a job" in page
    assert f'href="/admin/training/job/{job.pk}/change/"' in page
    assert f'href="?key={job.pk}&amp;kind=job"' in page


def test_every_kind_leads_to_a_page_that_is_there():
    client = somebody("administrator")
    for kind in Kind:
        audit.record(Act.LOGIN, kind, "3" if kind in (Kind.SERVER,) else "thing")
    page = page_of(client, "?limit=200")
    rows = page[page.index("<tbody>") :]
    links = {link for link in re.findall(r'href="(/admin/[^"]*)"', rows) if "change/" not in link}
    assert len(links) >= 4
    for link in links:
        assert client.get(link.replace("&amp;", "&")).status_code == 200, link


@pytest.mark.parametrize(
    ("query", "acts"),
    [
        ("?actor=olga", ["job.cancel"]),
        ("?act=alias.set", ["alias.set"]),
        ("?channel=cli", ["platform.pause"]),
        ("?kind=model&key=churn", ["alias.set"]),
        ("?key=churn", ["alias.set"]),
        ("?text=champ", ["alias.set"]),
        ("?text=10.1.4", ["job.cancel"]),
        ("?actor=olga&act=alias.set", []),
        ("?actor=olga&channel=console", ["job.cancel"]),
    ],
)
def test_filters_find_what_they_say(query: str, acts: list[str]):
    client = somebody("operator", name="viola")
    with coming_from(Source(Channel.CONSOLE, "10.1.4.7")):
        audit.record(Act.JOB_CANCEL, Kind.JOB, "j1", actor="olga")
    with coming_from(Source(Channel.API, "10.0.0.1")):
        audit.record(Act.ALIAS_SET, Kind.MODEL, "churn", detail="champion: 1 to 2")
    with coming_from(Source(Channel.CLI)):
        audit.record(Act.PAUSE, Kind.PLATFORM, "admission", actor="root")
    answer = client.get(f"{PAGE}{query}")
    assert [row.entry.act for row in answer.context["rows"]] == acts


def test_a_date_leaves_out_what_is_older():
    lines(3)
    client = somebody("operator")
    recent = {row.entry.act for row in client.get(f"{PAGE}?date=1h").context["rows"]}
    assert "logout" not in recent
    rows = client.get(f"{PAGE}?date=24h").context["rows"]
    assert sum(row.entry.act == "logout" for row in rows) == 3


@pytest.mark.parametrize("query", ["?act=nothing", "?actor=a%00b", "?cursor=x", "?sort=1"])
def test_a_filter_that_there_is_none_of_is_said_and_not_left_out(query: str):
    page = page_of(somebody("operator"), query)
    assert "This list cannot be shown" in page and "<tbody>" not in page


def test_empty_fields_of_the_form_are_no_filters():
    client = somebody("operator")
    answer = client.get(f"{PAGE}?text=&actor=olga&act=")
    assert answer.headers["Location"] == "?actor=olga"
    assert client.get(f"{PAGE}?text=").headers["Location"] == "."


def test_pages_follow_each_other_without_a_gap_or_a_double():
    lines(25)
    client, seen, address = somebody("operator"), [], f"{PAGE}?limit=10&act=logout"
    while address:
        context = client.get(address).context
        seen += [row.entry.pk for row in context["rows"]]
        address = f"{PAGE}{context['older']}" if context["older"] else ""
    assert len(seen) == len(set(seen)) == 25


def test_lines_of_one_moment_follow_each_other_too():
    now = timezone.now()
    AuditEntry.objects.bulk_create(
        [AuditEntry(at=now, act="login", kind="user", channel="api") for _ in range(5)]
    )
    first = page_of_audit(AuditFilter(act="login"), limit=2)
    second = page_of_audit(AuditFilter(act="login"), limit=9, after=first.next_place)
    assert len({entry.pk for entry in (*first.entries, *second.entries)}) == 5


def test_an_empty_audit_teaches(monkeypatch: pytest.MonkeyPatch):
    client = somebody("operator")
    AuditEntry.objects.all().forget()
    assert "Nothing was done yet" in page_of(client)


def test_what_strangers_wrote_is_text():
    client = somebody("operator")
    evil = "<img src=x onerror=alert(1)>\u202e"
    with coming_from(Source(Channel.API, evil)):
        audit.record(Act.JOB_CANCEL, Kind.JOB, evil, name=evil, detail=evil, actor=evil)
    page = page_of(client)
    assert "<img" not in page and "\u202e" not in page and "\\u202e" in page


# -- export ---------------------------------------------------------------------------------------
def exported(client: Client, query: str = "") -> list[list[str]]:
    answer = client.get(f"{CSV}{query}")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in answer.headers["Content-Disposition"]
    return list(csv.reader(StringIO(b"".join(answer.streaming_content).decode())))


def test_the_export_has_what_the_filters_find_and_is_itself_written_down():
    client = somebody("operator")
    lines(3)
    heading, *rows = exported(client, "?act=logout")
    assert heading[:3] == ["at_utc", "who", "channel"] and len(rows) == 3
    assert (last().act, last().actor, last().detail) == ("audit.export", "olga", "act=logout")


def test_no_cell_of_the_export_is_a_formula():
    client = somebody("operator")
    for name in ("=1+1", "+cmd", "-2", "@x", "\tx", "=HYPERLINK()", "\uff1dx", "x\r\n=1"):
        audit.record(Act.JOB_CANCEL, Kind.JOB, name, name=name, detail=name, actor=name)
    cells = [cell for row in exported(client)[1:] for cell in row if cell]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r\n\uff1d"]


def test_a_long_export_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mlops_site.console.audit_page.CSV_PAGE", 4)
    monkeypatch.setattr("mlops_site.console.audit_page.CSV_LINES_MAX", 10)
    client = somebody("operator")
    lines(15)
    assert len(exported(client, "?act=logout")) == 1 + 10


def test_an_export_with_a_wrong_filter_is_refused():
    assert somebody("operator").get(f"{CSV}?act=x").status_code == 400


# -- what it costs --------------------------------------------------------------------------------
QUERIES = ["", "?actor=olga", "?act=logout", "?channel=api", "?kind=user&key=x", "?text=nobody"]


@pytest.mark.parametrize("query", [*QUERIES, "?actor=olga&act=logout&channel=api"])
def test_the_page_costs_as_much_for_many_lines_as_for_few(
    monkeypatch: pytest.MonkeyPatch, query: str
):
    monkeypatch.setattr(audit_listing, "COMPARED_MAX", 100)
    monkeypatch.setattr(audit_listing, "RARE_ENOUGH", 50)
    client = somebody("operator")

    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            client.get(f"{PAGE}{query}")
        return len(queries)

    lines(200, actor="olga")
    few = asked()
    steps = steps_of(lambda: client.get(f"{PAGE}{query}")) if connection.vendor == "sqlite" else 0
    lines(2000, actor="olga")
    assert asked() == few <= 15
    if connection.vendor == "sqlite":
        assert steps_of(lambda: client.get(f"{PAGE}{query}")) < steps * 1.2


@pytest.mark.parametrize("query", QUERIES)
def test_no_query_of_the_page_sorts_or_reads_past_an_index(query: str):
    lines(50, actor="olga")
    client = somebody("operator")
    with CaptureQueriesContext(connection) as queries:
        client.get(f"{PAGE}{query}")
    for asked in queries.captured_queries:
        if '"registry_auditentry"' in asked["sql"] and asked["sql"].startswith("SELECT"):
            # In the order of an index: what is read ends with the page.
            plan = plan_of(asked["sql"])
            assert not plan.sorts, (asked["sql"], plan)
            assert plan.uses("audit_"), (asked["sql"], plan)


def test_a_search_that_finds_nothing_near_offers_to_look_further(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(audit_listing, "COMPARED_MAX", 10)
    client = somebody("operator")
    lines(1, key="needle", act=Act.PAUSE)
    rows = AuditEntry.objects.filter(key="needle")
    assert rows.exists()
    lines(30)
    AuditEntry.objects.bulk_create(
        [AuditEntry(act="login", kind="user", key="x", channel="api") for _ in range(30)]
    )
    address, pages = f"{PAGE}?text=needle", 0
    while True:
        answer = client.get(address)
        pages += 1
        if answer.context["rows"]:
            break
        assert "None among the newest that were compared" in answer.content.decode()
        address = f"{PAGE}{answer.context['older']}"
    assert pages > 2


def test_every_act_has_words_and_every_model_of_ours_a_guard():
    assert all(act.label and "." in act.value or act.value in ("login", "logout") for act in Act)
    assert apps.get_model("registry", "AuditEntry")._meta.default_permissions

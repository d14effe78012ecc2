"""Settings in force: each one of the table, with its value, its default, who gave it, no secret."""

import re
from typing import Any

import pytest
from django.conf import settings as django_settings

from mlops_site import settings_table
from mlops_site.models import Report
from mlops_site.reports import SETTINGS, tell_of_settings
from mlops_site.settings_table import (
    OTHER,
    Setting,
    documented,
    group_of,
    settings_in_force,
    shown,
    told_by_this_process,
)
from sandbox.build_rules import SECRET_SETTINGS
from tests.fixtures.people import GROUPS, somebody

pytestmark = pytest.mark.django_db
PAGE = "/admin/settings/"
SECRET = "geheimnis"  # noqa: S105 - what must not be seen


def found(name: str, told: dict[str, str] | None = None) -> Setting:
    groups = settings_in_force(told)
    return next(one for group in groups.values() for one in group if one.name == name)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Any:
    def give(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)

    return give


# -- the table ------------------------------------------------------------------------------------
def test_every_setting_that_is_read_is_in_the_table_once():
    names = [line.name for line in documented()]
    assert len(names) == len(set(names)) > 100
    assert set(django_settings.SETTINGS_READ) <= set(names)


def test_a_row_of_several_settings_gives_each_its_own_default():
    defaults = {line.name: line.default for line in documented()}
    assert defaults["MLOPS_JOB_MEMORY_MB"] == "`2048`"
    assert defaults["MLOPS_JOB_MEMORY_MB_MAX"] == "`16384`"
    assert defaults["MLOPS_JOBS_NETWORK"] == defaults["MLOPS_BUILDS_NETWORK"] == "*made*"


def test_a_setting_is_found_in_its_group_and_one_that_nobody_sorted_under_other():
    assert group_of("MLOPS_KEEP_JOBS") == "Retention"
    # Not one of a job, though its name begins so.
    assert group_of("MLOPS_JOB_NETWORK_MAX") == "What jobs and servers may reach"
    assert group_of("MLOPS_SOMETHING_NEW") == OTHER


def test_what_the_table_says_is_shown_without_its_marks():
    told = " ".join(line.what for line in documented())
    assert "`" not in told and "**" not in told and "](" not in told
    # A star in code is a star.
    assert "churn=0.1,*=0.01" in told


def test_a_default_that_the_table_names_is_the_one_that_is_read():
    """Where both are a number; the table says sizes in words."""
    read = django_settings.SETTINGS_READ
    for line in documented():
        plain = line.default.strip("`")
        if re.fullmatch(r"[0-9.]+", plain) and line.name in read:
            assert float(read[line.name]) == float(plain), line.name


# -- where a value came from ----------------------------------------------------------------------
def test_a_setting_that_nobody_gave_is_at_its_default():
    setting = found("MLOPS_KEEP_RUNS_DAYS")
    assert (setting.value, setting.default, setting.source) == ("90", "90", "default")
    assert not setting.is_changed


def test_one_that_was_given_says_so_and_one_that_was_given_its_default_does_not(given: Any):
    given("MLOPS_KEEP_RUNS_DAYS", "7")
    given("MLOPS_KEEP_LOGS_DAYS", "90")
    assert (found("MLOPS_KEEP_RUNS_DAYS").value, found("MLOPS_KEEP_RUNS_DAYS").source) == (
        "7",
        "environment",
    )
    assert found("MLOPS_KEEP_LOGS_DAYS").source == "default"


def test_one_of_several_defaults_that_the_table_names_is_one(given: Any):
    given("MLOPS_MLFLOW_CALL_SECONDS", "5")
    assert found("MLOPS_MLFLOW_CALL_SECONDS").source == "default"


def test_what_was_looked_up_at_the_start_is_nobodys_wish(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SANDBOX_RUNTIME", raising=False)
    setting = found("SANDBOX_RUNTIME", {"SANDBOX_RUNTIME": "runc"})
    assert (setting.value, setting.is_changed) == ("runc", False)


def test_what_the_start_makes_is_nobodys_wish(given: Any):
    given("MLOPS_JOBS_NETWORK", "mlops-abc-jobs")
    setting = found("MLOPS_JOBS_NETWORK")
    assert (setting.source, setting.is_changed) == ("made at the start", False)


def test_what_only_the_worker_gets_is_told_by_the_supervisor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert found("REDIS_URL", None).source.startswith("unknown")
    told = found("REDIS_URL", {"REDIS_URL": "redis://…@cache:6379/…"})
    assert told.value == "redis://…@cache:6379/…" and told.is_changed
    assert found("REDIS_URL", {}).source == "default"


# -- secrets --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("MLOPS_SECRET_KEY", SECRET, "hidden"),
        ("MLOPS_MLFLOW_PASSWORD", SECRET, "hidden"),
        ("MLOPS_MLFLOW_PASSWORD", "", ""),
        (
            "DATABASE_URL",
            f"postgresql://user:{SECRET}@db:5432/name?sslpassword={SECRET}",
            "postgresql://…@db:5432/…",
        ),
        ("REDIS_URL", f"redis://:{SECRET}@cache:6379/0", "redis://…@cache:6379/…"),
        (
            "MLOPS_BUILD_EXTRA_INDEXES",
            f"https://a.example/{SECRET}/simple, https://b.example",
            "https://a.example/…, https://b.example",
        ),
        ("MLOPS_BUILD_HTTP_PROXY", f"http://u:{SECRET}@proxy:3128", "http://…@proxy:3128"),
        ("MLOPS_JOB_PROXY", f"u:{SECRET}@proxy:3128", "hidden"),
        ("MLFLOW_TRACKING_URI", f"http://u:{SECRET}@mlflow:5000/x", "http://…@mlflow:5000/x"),
        ("MLOPS_BIND", "0.0.0.0", "0.0.0.0"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@db:port/name", "hidden"),
    ],
)
def test_of_a_secret_nothing_is_shown(name: str, value: str, seen: str):
    assert shown(name, value) == seen


def test_no_secret_is_in_the_page_nor_in_what_a_process_tells(given: Any):
    for name in ("MLOPS_SECRET_KEY", "MLOPS_MLFLOW_PASSWORD"):
        given(name, SECRET)
    for name in (*SECRET_SETTINGS, "REDIS_URL", "MLOPS_JOB_PROXY"):
        given(name, f"https://u:{SECRET}@host.example/{SECRET}?t={SECRET}")
    assert SECRET not in str(told_by_this_process())
    tell_of_settings()
    assert SECRET not in str(Report.objects.get(name=SETTINGS).told)
    page = somebody("operator").get(PAGE).content.decode()
    assert SECRET not in page and "set, not shown" in page and "https://…@host.example/…" in page


# -- the page -------------------------------------------------------------------------------------
@pytest.mark.parametrize("group", GROUPS)
def test_operators_and_administrators_see_it_and_nobody_else(group: str):
    client = somebody(group)
    may = group in ("operator", "administrator")
    assert client.get(PAGE).status_code == (200 if may else 403)
    assert ('href="/admin/settings/"' in client.get("/admin/").content.decode()) == may


def test_every_setting_is_there_and_none_can_be_changed():
    page = somebody("operator").get(PAGE).content.decode()
    assert all(f"<code>{line.name}</code>" in page for line in documented())
    assert 'method="post"' not in page[page.index("<main") :]


def test_a_search_finds_names_values_and_what_is_said(given: Any):
    given("MLOPS_KEEP_RUNS_DAYS", "4711")
    client = somebody("operator")
    for text in ("keep_runs", "4711", "without a registered model", "KEEP 4711"):
        page = client.get(PAGE, {"text": text}).content.decode()
        names = re.findall(r"<code>(MLOPS_\w+)</code><span", page)
        assert names == ["MLOPS_KEEP_RUNS_DAYS"], text
    assert "No setting fits" in client.get(PAGE, {"text": "<b>nothing"}).content.decode()


def test_what_was_changed_is_a_list_of_its_own(given: Any):
    given("MLOPS_KEEP_RUNS_DAYS", "7")
    page = somebody("operator").get(PAGE, {"shown": "changed"}).content.decode()
    assert "MLOPS_KEEP_RUNS_DAYS" in page and "MLOPS_KEEP_LOGS_DAYS" not in page


def test_while_one_types_only_the_list_is_sent():
    page = somebody("operator").get(PAGE, {"text": "keep"}, headers={"HX-Request": "true"})
    assert page.content.decode().strip().startswith('<div class="stack" id="settings"')


def test_a_value_that_a_stranger_could_have_written_is_text(given: Any):
    given("MLOPS_FEAST_REPO", "<img src=x>\u202e")
    page = somebody("operator").get(PAGE).content.decode()
    assert "<img" not in page and "\u202e" not in page


def test_an_installation_without_its_documents_shows_an_empty_page(
    monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Any
):
    settings.BASE_DIR = tmp_path
    documented.cache_clear()
    try:
        assert settings_table.documented() == ()
        assert somebody("operator").get(PAGE).status_code == 200
    finally:
        documented.cache_clear()


def test_the_page_asks_for_one_row(django_assert_max_num_queries: Any):
    client = somebody("operator")
    with django_assert_max_num_queries(6):
        client.get(PAGE)

"""Django's own pages in the console: what a stranger wrote steers nothing, and times are times."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import mark_safe

from inference.models import AliasChange, BatchPrediction, ModelPolicy, ModelServer
from mlops_site.console.site import ConsoleSite
from registry.console import marks_shown
from tests.fixtures.jobs import an_attempt
from tests.fixtures.pages import words
from tests.fixtures.people import somebody

pytestmark = pytest.mark.django_db
TURNED = "a\u202eb"
CONSOLE = Path(settings.BASE_DIR) / "mlops_site/static/mlops_site/console/console.js"
NODE = shutil.which("node")


def test_marks_are_shown_and_markup_stays_what_it_was():
    assert marks_shown(TURNED) == "a\\u202eb"
    assert not hasattr(marks_shown("<b>"), "__html__")
    shown = marks_shown(mark_safe(f"<b>{TURNED}</b>"))  # noqa: S308
    assert shown == "<b>a\\u202eb</b>" and hasattr(shown, "__html__")


def test_a_list_and_a_form_of_django_show_the_marks_that_turn_a_text(viewer: Client):
    change = AliasChange.objects.create(
        model_name=TURNED, alias="<i>", version="1", at=timezone.now()
    )
    for path in ("", f"{change.pk}/change/"):
        page = viewer.get(f"/admin/inference/aliaschange/{path}").content.decode()
        assert "a\\u202eb" in page.partition('id="content"')[2]
        main = page.partition('<div class="stock')[2]
        listed = main.partition('id="result_list"')[2] or main.partition("<fieldset")[2]
        assert "\u202e" not in listed
        assert "<i>" not in listed and "&lt;i&gt;" in listed


@pytest.fixture
def viewer() -> Client:
    return somebody("viewer")


def test_when_somebody_came_is_not_filled_in():
    boss = somebody("administrator")
    user = User.objects.get()
    page = boss.get(f"/admin/auth/user/{user.pk}/change/").content.decode()
    assert 'name="date_joined' not in page and 'name="last_login' not in page
    assert f"{user.date_joined:%Y-%m-%d %H:%M:%S}Z" in page
    unlabelled = [
        found
        for found in re.findall(r'<input type="text"[^>]*id="([^"]+)"', page)
        if f'for="{found}"' not in page
    ]
    assert not unlabelled


def test_an_error_in_the_console_has_the_consoles_look_and_needs_no_database(
    monkeypatch: pytest.MonkeyPatch, viewer: Client
):
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(ConsoleSite, "each_context", fails)
    viewer.raise_request_exception = False
    answer = viewer.get("/admin/", headers={"accept": "text/html"})
    page = answer.content.decode()
    assert answer.status_code == 500
    assert "console.css" in page and "Internal Server Error" in page
    assert "secret" not in page


STAND_IN = """
const place = (text, children) => ({ textContent: text, childElementCount: children, put: null,
  replaceChildren(one) { this.put = one; } });
const places = [place(" 2025-10-23 12:00:05Z ", 0), place("2025-10-23", 0),
  place("2025-10-23 12:00:05Z", 1), place("at 2025-10-23 12:00:05Z", 0)];
const made = [];
const none = { addEventListener() {}, forEach() {}, querySelector: () => null };
globalThis.window = globalThis;
globalThis.localStorage = { getItem: () => null, setItem() {} };
globalThis.setInterval = () => 0;
globalThis.document = {
  ...none, readyState: "complete", documentElement: { dataset: {} }, hidden: false,
  querySelectorAll: (selector) => (selector.startsWith(".stock :is(") ? places
    : selector === "time[data-moment]" ? made : []),
  createElement: () => {
    made.push({ dataset: {}, textContent: "" });
    return made.at(-1);
  },
};
globalThis.matchMedia = () => none;
require(process.argv[1]);
console.log(JSON.stringify(places.map((one) => one.put)));
"""


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
def test_a_moment_that_django_wrote_is_shown_in_the_viewers_zone_with_utc_on_hover():
    assert NODE is not None
    ran = subprocess.run(
        [NODE, "-e", STAND_IN, str(CONSOLE)],
        capture_output=True,
        check=True,
        timeout=30,
        env={"TZ": "America/New_York", "LANG": "en_US.UTF-8"},
    )
    first, *others = json.loads(ran.stdout)
    assert first["dateTime"] == "2025-10-23T12:00:05Z"
    assert first["title"] == "2025-10-23 12:00:05 UTC"
    assert "8:00:05" in first["textContent"]
    assert others == [None, None, None], "what is more than a moment is left alone"


# -- what a page is of -----------------------------------------------------------------------------
def page_of(client: Client, name: str, *args: object, query: str = "") -> str:
    answer = client.get(reverse(f"admin:{name}", args=args) + query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_list_has_the_name_of_what_is_in_it(viewer: Client):
    page = page_of(viewer, "training_jobevent_changelist")
    assert "<h1>Job events</h1>" in page and "Select" not in words(page)


def test_a_page_about_a_thing_has_its_name_and_no_history_that_nobody_makes():
    boss = somebody("administrator")
    change = AliasChange.objects.create(
        model_name=TURNED, alias="production", version="2", at=timezone.now()
    )
    page = page_of(boss, "inference_aliaschange_change", change.pk)
    assert "<h1>a\\u202eb@production: 2</h1>" in page and "\u202e" not in page
    assert "View alias change" not in page and ">History<" not in page
    page = page_of(boss, "auth_user_change", User.objects.get().pk)
    assert "<h1>olga</h1>" in page and ">History<" in page


def test_an_empty_list_says_what_comes_there_and_one_without_hits_leads_back(viewer: Client):
    page = words(page_of(viewer, "inference_batchprediction_changelist"))
    assert "No batch prediction yet" in page and "POST /mlops/inference/batch" in page
    page = page_of(viewer, "training_jobevent_changelist", query="?q=nothing-like-it")
    assert "No job event fits" in page and '<a href="?">All job events</a>' in page


def test_a_search_has_a_label_and_keeps_what_was_asked(viewer: Client):
    page = page_of(viewer, "training_jobevent_changelist", query="?q=%22quoted%22")
    assert 'aria-label="Search job events"' in page and 'value="&quot;quoted&quot;"' in page


def test_changes_that_people_made_are_listed_with_the_viewers_times():
    boss = somebody("administrator")
    person = User.objects.create_user("ada")
    assert "Nobody changed it in this console" in page_of(boss, "auth_user_history", person.pk)
    sent = boss.post(reverse("admin:auth_user_change", args=[person.pk]), {"username": "ada2"})
    assert sent.status_code == 302
    page = page_of(boss, "auth_user_history", person.pk)
    assert "<h1>Changes of ada2</h1>" in page and "data-moment" in page and "olga" in words(page)


def test_a_page_of_one_attempt_has_units_and_no_line_for_what_is_not_known(viewer: Client):
    attempt = an_attempt(ended=True)
    attempt.peak_memory_bytes, attempt.cpu_seconds, attempt.exit_code = 300 * 1024 * 1024, 75, 0
    attempt.readback = {"User": "0", "ReadonlyRootfs": True}
    attempt.save()
    page = words(page_of(viewer, "training_attempt_change", attempt.pk))
    assert "Memory at its peak: 300 MB" in page and "Processor time: 1m 15s" in page
    assert "Exit code: 0" in page, "which is not nothing"
    assert "Root file system is read-only yes" in page
    assert "Does not run as root FAILED, 0" in page
    for unknown in ("Memory ran out", "Container:", "We decided", "Its last words", "holds it"):
        assert unknown not in page


def test_a_page_of_one_attempt_that_is_under_way_says_who_holds_it(viewer: Client):
    attempt = an_attempt()
    attempt.intent, attempt.intent_at = "cancel", timezone.now()
    attempt.oom_killed, attempt.output_is_whole = True, False
    attempt.save()
    page = words(page_of(viewer, "training_attempt_change", attempt.pk))
    assert str(attempt.lease_token) not in page
    assert "The worker holds it until:" in page and "Memory ran out: yes" in page
    assert "Its last words: may be missing" in page
    assert f"We decided: {attempt.get_intent_display()}, " in page
    assert "How it was locked down" not in page, "nothing was read back yet"


def test_a_page_of_one_server_has_units_and_leads_to_its_version(viewer: Client):
    now = timezone.now()
    server = ModelServer.objects.create(
        **{"model_name": TURNED, "version": "3", "status": "failed", "reason": "out_of_memory"},
        **{"error": "It needs more.", "log_tail": "<b>boom\nKilled", "memory_mb": 1024},
        **{"cpus": 0.5, "created_at": now, "changed_at": now, "token": "not-for-people"},
    )
    page = page_of(viewer, "inference_modelserver_change", server.pk)
    assert f'href="{reverse("admin:model_version", args=[TURNED, "3"])}"' in page
    assert "&lt;b&gt;boom\nKilled</pre>" in page and "\u202e" not in page.partition("<fieldset")[2]
    assert "not-for-people" not in page and str(server.claim) not in page
    told = words(page)
    assert "Memory, at most: 1.0 GB" in told and "CPUs, at most: 0.5" in told
    assert "Reason: out of memory" in told
    for unknown in ("Memory used", "Ready:", "Not started before", "Container:"):
        assert unknown not in told


def test_a_page_of_one_batch_says_what_was_refused_in_words(viewer: Client):
    now = timezone.now()
    wrong = [{"field": "inputs.<i>", "detail": "row 2: expected a number"}]
    batch = BatchPrediction.objects.create(
        **{"model_name": "churn", "version": "3", "source": "runs:/r/model", "rows_total": 12000},
        **{"status": "failed", "reason": "file_refused", "error": "No.", "errors": wrong},
        **{"input_format": "csv", "output_format": "parquet", "input_bytes": 5 * 1024 * 1024},
        **{"created_at": now, "ended_at": now, "changed_at": now, "file_name": "a.csv"},
    )
    told = words(page_of(viewer, "inference_batchprediction_change", batch.pk))
    assert "Rows: 0 of 12,000" in told and "Size: 5 MB" in told
    assert "What was refused: inputs.<i> row 2: expected a number" in told
    assert "Format of the file: CSV" in told and "Format of the result: Parquet" in told
    assert "Probabilities: no" in told and "Formulas made harmless: yes" in told
    assert "Size of the result" not in told and "Begun" not in told


def test_a_page_of_one_policy_tells_only_what_was_chosen(viewer: Client):
    policy = ModelPolicy.objects.create(
        model_name="churn", pinned=True, memory_mb=2048, changed_at=timezone.now()
    )
    told = words(page_of(viewer, "inference_modelpolicy_change", policy.pk))
    assert "Pinned: yes" in told and "Memory, at most: 2.0 GB" in told
    assert "Stopped when nobody asked" not in told and "CPUs" not in told

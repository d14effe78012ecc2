"""The feature store as rows: read anew when it changed, filled on order, one thing at a time."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from django.utils.module_loading import import_string

from registry.feature_store import child, services
from registry.feature_store.child import WorkFailed
from registry.feature_store.description import Description, Freshness
from registry.feature_store.marks import mark_of
from registry.models import FeatureCatalog, Materialization
from registry.online.work import words_of
from tests.fixtures.feature_store import a_document, a_repo, a_service, a_view
from training.services import claim

pytestmark = pytest.mark.django_db
PATH = "/mlops/features"
State = Materialization.State


class Child:
    """What the process with Feast says, and what it was asked for."""

    def __init__(self, repo: Path) -> None:
        self.repo = repo
        self.orders: list[list[str]] = []
        self.document = a_document(
            a_view("profile"),
            a_view("activity", filled_until=None),
            a_view("computed", kind="on_demand", is_fillable=False),
            services=[a_service("churn", "profile", "activity")],
        )
        self.failures: dict[str, str] = {}
        self.fails = ""
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(
        self, repo: Path, order: dict[str, Any], *, seconds: float
    ) -> Iterator[dict[str, Any] | None]:
        views = order.get("materialize", [])
        self.orders.append(views)
        yield None
        self.meanwhile()
        if self.fails:
            raise WorkFailed(self.fails)
        for name in views:
            yield {"started": name}
            detail = self.failures.get(name, "")
            until = None if detail else datetime.now(UTC).isoformat()
            yield {"view": {"name": name, "until": until, "detail": detail, "seconds": 0.5}}
        file = str(repo / "registry.db")
        yield {
            "description": self.document,
            "mark": mark_of(repo, file),
            "registry_file": file,
        }


@pytest.fixture
def store(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    settings.FEAST_REPO_DIR = a_repo(tmp_path / "feast")
    told = Child(settings.FEAST_REPO_DIR)
    monkeypatch.setattr(services, "work", told)
    return told


@pytest.fixture
def described(store: Child) -> Child:
    services.look()
    services.describe()
    return store


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr(services, "async_task", lambda *asked, **_: found.append(asked))
    return found


def dispatch(*, may_begin: bool = True) -> None:
    services.dispatch(may_begin=lambda: may_begin)


def touch(repo: Path, name: str) -> None:
    later = time.time() + 60
    os.utime(repo / name, (later, later))


# -- the description -------------------------------------------------------------------------------
def test_where_there_is_no_feature_store_nothing_is_asked_for(settings: Any, tmp_path: Path):
    settings.FEAST_REPO_DIR = tmp_path
    assert services.look() == services.Look(is_configured=False)
    assert not FeatureCatalog.objects.exists()


def test_the_first_look_has_it_described(store: Child):
    first = services.look()
    assert (first.description, first.asked_at is None) == (None, False)
    services.describe()
    look = services.look()
    assert look.description is not None and look.asked_at is None
    assert list(look.description.views) == ["profile", "activity", "computed"]
    services.describe()
    assert store.orders == [[]], "a second delivery finds nobody who waits"


def test_a_look_is_one_query(described: Child, django_assert_num_queries: Any):
    with django_assert_num_queries(1):
        services.look()


@pytest.mark.parametrize("name", ["feature_store.yaml", "registry.db"])
def test_what_changed_is_described_anew(described: Child, name: str):
    assert services.look().asked_at is None
    touch(described.repo, name)
    look = services.look()
    assert look.asked_at is not None and look.description is not None
    services.describe()
    assert services.look().asked_at is None


def test_a_registry_elsewhere_is_asked_again_after_some_minutes(described: Child):
    FeatureCatalog.objects.update(registry_file="", mark=mark_of(described.repo, ""))
    assert services.look().asked_at is None
    FeatureCatalog.objects.update(described_at=timezone.now() - timedelta(minutes=6))
    assert services.look().asked_at is not None


def test_what_cannot_be_described_says_why_and_keeps_what_was_known(described: Child):
    described.fails = "A store that the feature store names does not answer."
    services.ask_description()
    services.describe()
    look = services.look()
    assert look.error == described.fails and look.description is not None
    assert look.asked_at is None, "it is not tried again at once"
    FeatureCatalog.objects.update(tried_at=timezone.now() - timedelta(minutes=2))
    assert services.look().asked_at is not None
    described.fails = ""
    services.describe()
    assert services.look().error == ""


def test_who_asks_while_it_is_described_has_it_described_once_more(store: Child):
    services.look()
    store.meanwhile = lambda: services.ask_description() and None
    services.describe()
    assert services.look().asked_at is not None


def test_what_another_version_wrote_is_no_description(described: Child):
    FeatureCatalog.objects.update(document={"project": "churn"})
    assert services.look().description is None


def test_a_view_is_fresh_stale_or_empty_by_its_newest_event_and_ttl():
    now = datetime(2026, 6, 1, tzinfo=UTC)
    hour, two_days = now - timedelta(hours=1), now - timedelta(days=2)
    for changed, wanted in (
        ({"filled_until": hour.isoformat()}, Freshness.FRESH),
        ({"filled_until": two_days.isoformat()}, Freshness.STALE),
        (
            {"filled_until": hour.isoformat(), "newest_event": two_days.isoformat()},
            Freshness.STALE,
        ),
        ({"filled_until": two_days.isoformat(), "ttl_seconds": 0.0}, Freshness.FRESH),
        ({"filled_until": None}, Freshness.EMPTY),
        ({"online": False}, Freshness.OFF),
        ({"enabled": False}, Freshness.OFF),
        ({"kind": "on_demand", "is_fillable": False}, Freshness.COMPUTED),
        ({"kind": "pushed", "newest_event": hour.isoformat()}, Freshness.FRESH),
    ):
        document = a_document(a_view("one", **changed))
        assert Description.read(document).views["one"].freshness(now) is wanted, changed


# -- orders ----------------------------------------------------------------------------------------
def test_an_order_is_carried_out_and_its_outcome_is_kept(described: Child):
    made = services.ask_materialization(["profile"], actor="olga")
    assert (made.state, made.asked_by) == (State.WAITING, "olga")
    services.materialize(made.pk)
    made.refresh_from_db()
    assert (made.state, made.error, made.claim) == (State.COMPLETED, "", None)
    assert [one["name"] for one in made.outcome] == ["profile"]
    assert made.started_at is not None and made.ended_at is not None
    services.materialize(made.pk)
    assert described.orders == [[], ["profile"]], "a second delivery does nothing"


def test_without_names_everything_that_can_be_is_filled(described: Child):
    made = services.ask_materialization([], actor="")
    assert made.feature_views == ["profile", "activity"]


def test_one_view_that_fails_keeps_none_of_the_others_from_it(described: Child):
    described.failures["activity"] = "A file that the feature store names is not there."
    made = services.ask_materialization([], actor="")
    services.materialize(made.pk)
    made.refresh_from_db()
    assert made.state == State.FAILED
    assert made.error == "1 of 2 feature views could not be materialised."
    assert [bool(one["detail"]) for one in made.outcome] == [False, True]


def test_a_child_that_fails_is_told_in_its_words(described: Child):
    made = services.ask_materialization(["profile"], actor="")
    described.fails = "It took longer than 900 s, and was ended."
    services.materialize(made.pk)
    made.refresh_from_db()
    assert (made.state, made.error) == (State.FAILED, described.fails)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nobody", "There is no feature view nobody."),
        ("computed", "The feature view computed is not filled from a batch source."),
    ],
)
def test_what_cannot_be_filled_is_refused_with_the_reason(described: Child, name: str, told: str):
    with pytest.raises(services.FeatureViewsRejected, match=told):
        services.ask_materialization(["profile", name], actor="")
    assert not Materialization.objects.exists()


def test_before_it_is_known_what_there_is_no_order_is_taken(store: Child):
    with pytest.raises(services.FeatureStoreUnknown):
        services.ask_materialization(["profile"], actor="")


def test_whoever_wants_the_same_gets_the_order_that_waits(described: Child):
    first = services.ask_materialization(["profile"], actor="ada")
    assert services.ask_materialization(["profile"], actor="bob").pk == first.pk
    assert services.ask_materialization(["activity"], actor="bob").pk != first.pk
    services.materialize(first.pk)
    assert services.ask_materialization(["profile"], actor="bob").pk != first.pk


def test_not_any_number_of_orders_waits(described: Child, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "WAITING_MAX", 1)
    services.ask_materialization(["profile"], actor="")
    with pytest.raises(services.TooManyMaterializations):
        services.ask_materialization(["activity"], actor="")


def test_old_orders_are_forgotten_and_open_ones_are_not(
    described: Child, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(services, "KEPT", 2)
    done = []
    for _ in range(4):
        made = services.ask_materialization(["profile"], actor="")
        services.materialize(made.pk)
        done.append(made.pk)
    kept = list(Materialization.objects.values_list("pk", flat=True))
    assert kept == [done[3], done[2]]


def test_one_order_runs_at_a_time(described: Child):
    first = services.ask_materialization(["profile"], actor="")
    second = services.ask_materialization(["activity"], actor="")
    described.meanwhile = lambda: services.materialize(second.pk)
    services.materialize(first.pk)
    second.refresh_from_db()
    assert second.state == State.WAITING
    assert described.orders == [[], ["profile"]]


def test_a_worker_that_lost_its_order_writes_nothing_more(described: Child):
    made = services.ask_materialization(["profile"], actor="")
    rows = Materialization.objects.filter(pk=made.pk)
    described.meanwhile = lambda: rows.update(state=State.WAITING, claim=None) and None
    services.materialize(made.pk)
    made.refresh_from_db()
    assert (made.state, made.outcome) == (State.WAITING, [])


# -- who queues what, when -------------------------------------------------------------------------
def test_tasks_are_queued_one_at_a_time_orders_first(
    described: Child, queued: list[tuple[Any, ...]]
):
    dispatch()
    assert queued == []
    services.ask_description()
    first = services.ask_materialization(["profile"], actor="")
    services.ask_materialization(["activity"], actor="")
    dispatch(may_begin=False)
    assert queued == []
    dispatch()
    dispatch()
    assert queued == [(services.MATERIALIZE_TASK, first.pk)]
    services.materialize(first.pk)
    dispatch()
    assert len(queued) == 2
    Materialization.objects.update(state=State.FAILED, ended_at=timezone.now())
    services.ask_description()
    dispatch()
    dispatch()
    assert queued[2:] == [(services.DESCRIBE_TASK,)]


def test_the_queue_finds_what_is_queued(store: Child):
    services.look()
    import_string(services.DESCRIBE_TASK)()
    made = services.ask_materialization(["profile"], actor="")
    import_string(services.MATERIALIZE_TASK)(made.pk)
    assert store.orders == [[], ["profile"]]


def test_looking_for_what_is_wanted_takes_two_queries(
    described: Child, queued: list[tuple[Any, ...]], django_assert_num_queries: Any
):
    with django_assert_num_queries(2):
        dispatch()


def test_a_task_that_was_lost_is_queued_again(described: Child, queued: list[tuple[Any, ...]]):
    services.ask_materialization(["profile"], actor="")
    dispatch()
    Materialization.objects.update(queued_at=timezone.now() - timedelta(minutes=2))
    dispatch()
    services.ask_again()
    dispatch()
    assert len(queued) == 3


def test_an_order_whose_worker_died_is_done_again_and_then_given_up(
    described: Child, queued: list[tuple[Any, ...]]
):
    made = services.ask_materialization(["profile"], actor="")
    long_ago = timezone.now() - timedelta(minutes=2)
    running = {"state": State.RUNNING, "seen_at": long_ago, "started_at": long_ago}
    Materialization.objects.update(**running, attempts=1)
    dispatch()
    made.refresh_from_db()
    assert (made.state, made.claim) == (State.WAITING, None)
    dispatch()
    assert len(queued) == 1
    Materialization.objects.update(**running, attempts=2)
    dispatch()
    made.refresh_from_db()
    assert (made.state, len(queued)) == (State.FAILED, 1)
    assert "The worker ended" in made.error


def test_an_order_that_is_being_done_is_left_alone(described: Child, queued: list[tuple[Any, ...]]):
    services.ask_materialization(["profile"], actor="")
    now = timezone.now()
    Materialization.objects.update(state=State.RUNNING, seen_at=now, attempts=1)
    services.ask_description()
    dispatch()
    assert queued == [] and Materialization.objects.get().state == State.RUNNING


def test_while_a_worker_is_at_it_one_build_less_is_begun(described: Child, settings: Any):
    settings.LONG_TASKS = 2
    assert not claim.builders_busy()
    services.ask_materialization(["profile"], actor="")
    Materialization.objects.update(state=State.RUNNING, seen_at=timezone.now())
    FeatureCatalog.objects.update(asked_at=timezone.now(), queued_at=timezone.now())
    assert claim.builders_busy()
    settings.LONG_TASKS = 1
    assert not claim.builders_busy(), "the only one is left to builds"


# -- the child -------------------------------------------------------------------------------------
TELLS = "import sys, time, json; sys.stdin.readline(); "


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Any]]:
    def ran(code: str, *, seconds: float = 20) -> list[Any]:
        monkeypatch.setattr(child, "COMMAND", (child.sys.executable, "-c", TELLS + code))
        return list(child.work(tmp_path, {"x": 1}, seconds=seconds))

    return ran


def test_what_a_child_says_is_read_line_by_line(says: Callable[..., list[Any]]):
    assert says("print(json.dumps({'a': 1})); print(json.dumps({'b': 'é'}))") == [
        {"a": 1},
        {"b": "é"},
    ]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("print(json.dumps({'failed': 'No file.'}))", "No file."),
        ("sys.exit(3)", "ended in the middle of it"),
        ("time.sleep(60)", "It took longer than 0.3 s"),
        ("print('x' * 3000, flush=True); time.sleep(60)", "too large"),
    ],
)
def test_what_goes_wrong_with_a_child_is_a_sentence(
    says: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch, code: str, told: str
):
    monkeypatch.setattr(child, "MESSAGE_BYTES", 2000)
    with pytest.raises(WorkFailed, match=told):
        says(code, seconds=0.3 if "longer" in told else 20)


def test_who_waits_for_a_child_hears_of_it_now_and_then(
    says: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(child, "TICK_SECONDS", 0.02)
    assert None in says("time.sleep(0.2)")


def test_a_child_gets_no_secret_of_the_worker(
    says: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
):
    for name in child.NOT_FOR_IT:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("MLOPS_WAREHOUSE", "wanted")
    (told,) = says("import os; print(json.dumps(dict(os.environ)))")
    assert "secret" not in told.values() and told["MLOPS_WAREHOUSE"] == "wanted"


def test_a_child_that_nobody_reads_any_more_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    started: list[Any] = []
    popen = child.subprocess.Popen

    def noted(*arguments: Any, **named: Any) -> Any:
        started.append(popen(*arguments, **named))
        return started[0]

    monkeypatch.setattr(child.subprocess, "Popen", noted)
    code = TELLS + "print('{}', flush=True); time.sleep(60)"
    monkeypatch.setattr(child, "COMMAND", (child.sys.executable, "-c", code))
    messages = child.work(tmp_path, {}, seconds=30)
    assert next(messages) == {}
    messages.close()
    assert started[0].returncode is not None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError("/srv/secret"), "is not there"),
        (ConnectionRefusedError("10.0.0.1"), "does not answer"),
        (ModuleNotFoundError("x", name="psycopg"), "psycopg is not installed"),
        (ValueError("password=x"), "ValueError"),
    ],
)
def test_an_error_of_a_store_is_told_without_its_own_text(error: Exception, told: str):
    words = words_of(error)
    assert told in words and str(error) not in words


# -- the API ---------------------------------------------------------------------------------------
def test_the_api_tells_what_there_is(api: Client, described: Child):
    document = api.get(PATH).json()
    assert (document["configured"], document["is_being_described"]) == (True, False)
    assert [view["name"] for view in document["feature_views"]] == [
        "profile",
        "activity",
        "computed",
    ]
    profile, activity, computed = document["feature_views"]
    assert (profile["freshness"], profile["ttl_seconds"]) == ("fresh", 86_400)
    assert (activity["freshness"], computed["freshness"]) == ("empty", "computed")
    assert document["feature_services"][0]["join_keys"][0]["name"] == "customer_id"


def test_the_api_says_that_there_is_none(api: Client, settings: Any, tmp_path: Path):
    settings.FEAST_REPO_DIR = tmp_path
    document = api.get(PATH).json()
    assert (document["configured"], document["feature_views"]) == (False, [])
    answer = api.post(f"{PATH}/materialize", {}, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_feature_store")


def test_the_api_takes_orders_and_tells_what_became_of_them(api: Client, described: Child):
    body = {"feature_views": ["profile"]}
    answer = api.post(f"{PATH}/materialize", body, content_type="application/json")
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    number = answer.json()["id"]
    services.materialize(number)
    document = api.get(f"{PATH}/materializations/{number}").json()
    assert (document["state"], document["asked_by"]) == ("completed", "")
    assert document["outcomes"][0]["feature_view"] == "profile"
    assert api.get(f"{PATH}/materializations").json()["materializations"] == [document]
    assert api.get(f"{PATH}/materializations/{number + 1}").status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"feature_views": ["nobody"]}, "feature_views_rejected"),
        ({"feature_views": "profile"}, "invalid"),
        ({"feature_views": [1, {}]}, "invalid"),
    ],
)
def test_the_api_names_what_is_wrong_with_an_order(
    api: Client, described: Child, body: dict[str, Any], code: str
):
    answer = api.post(f"{PATH}/materialize", body, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert answer.json()["errors"]


def test_before_it_was_described_the_api_says_when_to_ask_again(api: Client, store: Child):
    answer = api.post(f"{PATH}/materialize", {}, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (503, "features_not_described")
    assert answer.headers["Retry-After"] == "10"

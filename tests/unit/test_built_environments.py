"""The list of environments, and what may be done to them; the store only says what it has."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from inference.models import ModelServer
from mlops_site.daily import EnvironmentWork
from mlops_site.models import PRELOAD_PUT_OFF, Heartbeat
from registry.mlflow_client import RegistryUnavailable
from sandbox.environments import Environment, EnvironmentFailed, EnvironmentInUse, Stored
from sandbox.store_folders import StoreFolders
from training.models import Attempt, BuiltEnvironment, Job
from training.services import build_output, environment_house, environments
from training.services.build_output import STORE_SECONDS, BuildOutput

PATH = "/mlops/environments"
LOCK = "six==1.17.0 \\\n    --hash=sha256:aa\n"
MB = 1_000_000


@dataclass
class FakeStore:
    """What is in a store, by key: size and last use."""

    there: dict[str, Stored] = field(default_factory=dict)
    mounted: set[str] = field(default_factory=set)
    cache: int = 0
    pruned: int = 0
    built: list[Any] = field(default_factory=list)
    failure: Exception | None = None
    models: "Models" = field(default_factory=lambda: Models())

    def add(self, key: str, *, megabytes: int = 1, used_at: float | None = None) -> None:
        at = time.time() if used_at is None else used_at
        self.there[key] = Stored(key=key, size_bytes=megabytes * MB, used_at=at, built_at=at)

    def stored(self) -> list[Stored]:
        return sorted(self.there.values(), key=lambda one: one.used_at)

    def lock_files(self, key: str) -> tuple[str, str]:
        return LOCK, 'lock-version = "1.0"\n'

    def fits(self, key: str, lock: str) -> bool:
        return True

    def restore(self, key: str, *, output: Any, lock: str = "") -> Environment | None:
        return None

    def remove(self, key: str) -> bool:
        return key not in self.mounted and self.there.pop(key, None) is not None

    def cache_bytes(self) -> int:
        return self.cache

    def prune_cache(self) -> None:
        self.pruned += 1
        self.cache = 0

    def find(self, requirements: Any) -> None:
        return None

    def build(self, requirements: Any, *, output: Any, stop: Any = None) -> Environment:
        return self.rebuild(tuple(requirements), output=output)

    def rebuild(self, key: Any, *, output: Any) -> Environment:
        if self.failure:
            raise self.failure
        output(b"Compiling\n")
        self.built.append(key)
        return an_environment(str(key))


def an_environment(key: str) -> Environment:
    return Environment(key=key, path=Path("/nowhere"), lock=LOCK, pylock="p", size_bytes=7 * MB)


class Models:
    """Which jobs a registered model came from."""

    def __init__(self, *jobs: str, versions: Sequence[tuple[str, str]] = ()) -> None:
        self.jobs = jobs
        self.versions = versions
        self.away = False

    def registered_versions(self) -> frozenset[tuple[str, str]]:
        if self.away:
            raise RegistryUnavailable
        return frozenset(self.versions)

    def jobs_with_models(self) -> frozenset[str]:
        if self.away:
            raise RegistryUnavailable
        return frozenset(self.jobs)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, db: Any) -> Iterator[FakeStore]:
    fake = FakeStore()
    monkeypatch.setattr(environments.engine_room, "environments", lambda *_: fake)
    monkeypatch.setattr(environments, "model_registry", lambda: fake.models)
    yield fake


def a_row(key: str, **values: Any) -> BuiltEnvironment:
    made = {"lock": LOCK, "pylock": "p", "packages": 1, "created_at": timezone.now()}
    return BuiltEnvironment.objects.create(pk=key, **{**made, **values})


def a_job(key: str, *, version: str = "", status: str = "completed") -> Job:
    now = timezone.now()
    return Job.objects.create(
        script_name="t.py",
        script="",
        experiment_name="e",
        model_name="churn",
        model_version=version,
        timeout_seconds=60,
        memory_mb=1,
        cpus=1,
        status=status,
        environment_key=key,
        created_at=now,
        completed_at=now if status == "completed" else None,
    )


def running_in(key: str) -> Job:
    job, now = a_job(key, status="running"), timezone.now()
    Attempt.objects.create(job=job, lease_owner="w", lease_expires_at=now, created_at=now)
    return job


def state_of(key: str) -> str:
    return BuiltEnvironment.objects.get(pk=key).state


# -- rows ------------------------------------------------------------------------------------------
def test_what_the_store_has_gets_a_row_and_what_it_lost_says_so(store: FakeStore):
    store.add("known", megabytes=3)
    a_row("lost")
    a_job("lost")
    environment_house.keep_house(Models())
    row = BuiltEnvironment.objects.get(pk="known")
    assert (row.size_bytes, row.packages, row.state) == (3 * MB, 1, "ready")
    assert state_of("lost") == "gone"


def test_a_row_tells_its_jobs_and_the_models_that_were_made_in_it(store: FakeStore):
    store.add("a")
    job = a_job("a", version="3")
    a_job("a")
    environment_house.keep_house(Models(str(job.pk), "not-a-job", str(uuid.uuid4())))
    row = BuiltEnvironment.objects.get(pk="a")
    assert (row.jobs, row.needed_by) == (2, ["model churn version 3"])


def test_a_row_goes_when_its_folder_is_gone_and_nobody_names_it(store: FakeStore):
    a_row("lost")
    environment_house.keep_house(Models())
    assert not BuiltEnvironment.objects.exists()


def test_what_was_built_a_moment_ago_tells_its_size_and_who_needs_it(api: Client, store: FakeStore):
    environments.note_built(an_environment("a"), build_log="", seconds=1.0)
    a_job("a", version="3")
    job = running_in("a")
    row = api.get(PATH).json()["environments"][0]
    assert (row["size_mb"], row["needed_by"]) == (7.0, ["model churn version 3"])
    assert row["in_use_by"] == [f"job {job.pk}"]
    assert api.get(f"{PATH}/a").json()["in_use_by"] == row["in_use_by"]


def test_what_is_back_on_the_disk_has_its_size_again(api: Client, store: FakeStore):
    a_row("a", state="gone")
    assert api.get(f"{PATH}/a").json()["size_mb"] == 0
    environments.note_used(an_environment("a"), new_jobs=1)
    row = api.get(f"{PATH}/a").json()
    assert (row["state"], row["size_mb"], row["jobs"]) == ("ready", 7.0, 1)


def test_a_size_that_nobody_counted_is_null(api: Client, db: Any):
    a_row("a")
    assert api.get(PATH).json()["environments"][0]["size_mb"] is None


# -- the budget ------------------------------------------------------------------------------------
def test_the_least_recently_used_go_until_the_low_mark_and_never_one_that_is_needed(
    store: FakeStore, settings: Any
):
    settings.ENVIRONMENTS_MAX_MB = 50
    for age, key in enumerate(["newest", "new", "running", "served", "model", "mounted", "old"]):
        store.add(key, megabytes=10, used_at=1_000_000 - age)
    store.mounted.add("mounted")
    running_in("running")
    now = timezone.now()
    ModelServer.objects.create(
        model_name="m",
        version="1",
        status="starting",
        environment_key="served",
        created_at=now,
        changed_at=now,
    )
    job = a_job("model", version="1")
    environment_house.keep_house(Models(str(job.pk)))
    assert set(store.there) == {"running", "served", "model", "mounted"}
    assert store.pruned == 1


def test_a_model_that_no_job_made_keeps_the_environment_that_serves_it_while_it_is_registered(
    store: FakeStore, settings: Any
):
    settings.ENVIRONMENTS_MAX_MB = 1
    now = timezone.now()
    for name in ("by-hand", "deleted"):
        store.add(name, megabytes=10, used_at=1_000_000)
        a_stopped = {"status": "stopped", "environment_key": name}
        times = {"created_at": now, "changed_at": now}
        ModelServer.objects.create(model_name=name, version="1", **a_stopped, **times)
    environment_house.keep_house(Models(versions=[("by-hand", "1"), ("deleted", "2")]))
    assert set(store.there) == {"by-hand"}
    assert BuiltEnvironment.objects.get(pk="by-hand").needed_by == ["model by-hand version 1"]


def test_an_environment_that_somebody_asks_for_while_it_is_removed_stays(tmp_path: Path):
    folders = StoreFolders(tmp_path)
    folders.prepare()
    folders.environment("a").mkdir()
    folders.touch("a")
    assert not folders.remove("a", unless_used_since=0.0)
    assert folders.environment("a").is_dir()
    assert folders.remove("a", unless_used_since=folders.used_at("a"))
    assert not folders.environment("a").exists()
    assert list(folders.building.iterdir()) == []


def test_the_cache_goes_before_any_environment(store: FakeStore, settings: Any):
    settings.ENVIRONMENTS_MAX_MB = 50
    store.add("a", megabytes=40)
    store.cache = 20 * MB
    environment_house.keep_house(Models())
    assert (set(store.there), store.pruned) == ({"a"}, 1)


def test_nothing_goes_while_nobody_can_say_what_models_need(store: FakeStore, settings: Any):
    settings.ENVIRONMENTS_MAX_MB = 5
    store.add("a", megabytes=40)
    models = Models()
    models.away = True
    environment_house.keep_house(models)
    assert set(store.there) == {"a"}


# -- wishes ----------------------------------------------------------------------------------------
def test_an_environment_is_deleted_when_somebody_asks_and_its_lock_stays(
    api: Client, store: FakeStore
):
    store.add("a")
    a_row("a")
    answer = api.delete(f"{PATH}/a")
    assert (answer.status_code, answer.json()["asked"]) == (202, "delete")
    environments.change("a")
    assert "a" not in store.there
    row = BuiltEnvironment.objects.get(pk="a")
    assert (row.state, row.asked, row.lock) == ("gone", "", LOCK)


def test_what_is_needed_is_not_deleted_and_the_answer_says_by_whom(api: Client, store: FakeStore):
    a_row("model", needed_by=["model churn version 3"])
    answer = api.delete(f"{PATH}/model")
    assert (answer.status_code, answer.json()["code"]) == (409, "environment_needed")
    assert "model churn version 3" in answer.json()["detail"]
    a_row("running")
    job = running_in("running")
    for answer in (api.delete(f"{PATH}/running"), api.post(f"{PATH}/running/rebuild")):
        assert answer.status_code == 409
        assert str(job.pk) in answer.json()["detail"]


def test_what_was_taken_since_it_was_asked_for_is_not_built_again_meanwhile(
    api: Client, store: FakeStore
):
    a_row("a")
    assert api.post(f"{PATH}/a/rebuild").status_code == 202
    running_in("a")
    environments.change("a")
    row = BuiltEnvironment.objects.get(pk="a")
    assert (row.state, row.asked, store.built) == ("ready", "rebuild", [])


def test_a_job_that_came_meanwhile_keeps_its_environment(api: Client, store: FakeStore):
    store.add("a")
    a_row("a")
    api.delete(f"{PATH}/a")
    job = running_in("a")
    environments.change("a")
    row = BuiltEnvironment.objects.get(pk="a")
    assert (row.state, row.asked) == ("ready", "")
    assert str(job.pk) in row.error
    assert "a" in store.there


def test_a_model_that_was_registered_a_moment_ago_keeps_its_environment(
    api: Client, store: FakeStore
):
    store.add("a")
    a_row("a")
    job = a_job("a", version="7")
    assert "model churn version 7" in api.delete(f"{PATH}/a").json()["detail"]
    BuiltEnvironment.objects.update(asked="delete")
    store.models = Models(str(job.pk))
    environments.change("a")
    row = BuiltEnvironment.objects.get(pk="a")
    assert (row.asked, row.needed_by, "a" in store.there) == ("", ["model churn version 7"], True)


def test_a_wish_to_delete_waits_while_nobody_can_say_what_models_need(
    api: Client, store: FakeStore
):
    store.add("a")
    a_row("a")
    api.delete(f"{PATH}/a")
    store.models.away = True
    environments.change("a")
    assert BuiltEnvironment.objects.get(pk="a").asked == "delete"
    assert "a" in store.there


def test_a_wish_waits_while_a_container_has_the_environment(api: Client, store: FakeStore):
    store.add("a")
    store.mounted.add("a")
    a_row("a")
    api.delete(f"{PATH}/a")
    environments.change("a")
    assert BuiltEnvironment.objects.get(pk="a").asked == "delete"
    store.mounted.clear()
    environments.change("a")
    assert state_of("a") == "gone"


def test_an_environment_is_built_again_and_its_log_is_kept(api: Client, store: FakeStore):
    a_row("a", state="gone")
    assert api.post(f"{PATH}/a/rebuild").json()["asked"] == "rebuild"
    environments.change("a")
    environments.change("a")
    assert store.built == ["a"]
    document = api.get(f"{PATH}/a").json()
    assert (document["state"], document["build_log"]) == ("ready", "Compiling\n")


class Seconds:
    """A clock of its own, that a test winds on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_a_build_prints_is_there_while_it_goes_on(db: None):
    a_row("a", state="building")
    clock = Seconds()
    output = BuildOutput("a", clock=clock)

    def kept() -> str:
        return BuiltEnvironment.objects.get(pk="a").build_log

    output.write(b"Resolving\n")
    assert kept() == "", "not each line is a write"
    clock.now += STORE_SECONDS
    output.write("Lö".encode()[:2])
    assert kept() == "Resolving\nL", "half a character waits"
    clock.now += STORE_SECONDS
    output.write("Lö".encode()[2:] + b"\x00")
    assert kept() == "Resolving\nL\u00f6\ufffd"
    assert output.text == "Resolving\nLö\x00"


def test_of_a_build_that_prints_very_much_the_beginning_is_followed(
    db: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(build_output, "BUILD_LOG_CHARACTERS", 5)
    monkeypatch.setattr(build_output, "STORE_SECONDS", 0.0)
    a_row("a", state="building")
    output = BuildOutput("a")
    output.write(b"1234")
    output.write(b"5678")
    with CaptureQueriesContext(connection) as queries:
        output.write(b"9")
    assert not queries.captured_queries, "nothing that would be shown is new"
    assert BuiltEnvironment.objects.get(pk="a").build_log == "12345"
    assert build_output.kept(output.text) == "56789"


def test_a_row_that_cannot_be_written_costs_no_build(db: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build_output, "STORE_SECONDS", 0.0)
    a_row("a", state="building")
    output = BuildOutput("a")

    def locked(**values: str) -> int:
        raise OperationalError("database is locked")

    with monkeypatch.context() as away:
        away.setattr(output._rows, "update", locked)
        output.write(b"one\n")
    output.write(b"two\n")
    assert BuiltEnvironment.objects.get(pk="a").build_log == "one\ntwo\n"


def test_a_build_that_had_to_wait_leaves_the_log_of_the_one_before(api: Client, store: FakeStore):
    a_row("a", build_log="before\n")
    store.failure = EnvironmentInUse("a")
    api.post(f"{PATH}/a/rebuild")
    environments.change("a")
    assert BuiltEnvironment.objects.get(pk="a").build_log == "before\n"


@pytest.mark.parametrize(
    ("failure", "state", "asked"),
    [
        (EnvironmentFailed(reason="x", detail="No.", hint="Try."), "failed", ""),
        (EnvironmentInUse("a"), "ready", "rebuild"),
    ],
)
def test_a_build_that_does_not_come_about_is_told(
    api: Client, store: FakeStore, failure: Exception, state: str, asked: str
):
    a_row("a")
    store.failure = failure
    api.post(f"{PATH}/a/rebuild")
    environments.change("a")
    row = BuiltEnvironment.objects.get(pk="a")
    assert (row.state, row.asked) == (state, asked)
    assert ("No." in row.error) is (state == "failed")


def test_a_wish_is_asked_for_again_but_not_while_its_build_goes_on(
    api: Client, store: FakeStore, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    monkeypatch.setattr(environments, "async_task", lambda task, key, **_: asked.append(key))
    a_row("a")
    api.post(f"{PATH}/a/rebuild")
    environments.dispatch()
    environments.dispatch()
    assert asked == ["a"]
    row = BuiltEnvironment.objects.filter(pk="a")
    minutes_ago = timezone.now() - timedelta(minutes=2)
    row.update(queued_at=minutes_ago, state="building")
    environments.dispatch()
    assert asked == ["a"]
    row.update(queued_at=minutes_ago, state="ready")
    environments.dispatch()
    assert asked == ["a", "a"]
    row.update(queued_at=timezone.now() - timedelta(hours=1), state="building")
    environments.dispatch()
    assert asked == ["a", "a", "a"]


def test_what_has_no_lock_cannot_be_built_again(api: Client):
    a_row("a", lock="")
    answer = api.post(f"{PATH}/a/rebuild")
    assert (answer.status_code, answer.json()["code"]) == (409, "environment_without_lock")


# -- the API ---------------------------------------------------------------------------------------
def test_pages_go_through_all_of_them_newest_first(api: Client):
    for key in ("a", "b", "c"):
        a_row(key)
    seen, path = [], f"{PATH}?limit=2"
    while path:
        answer = api.get(path)
        page = answer.json()
        seen += [row["key"] for row in page["environments"]]
        path = page["next"]
        assert (f"<{path}>" in answer.headers.get("Link", "")) is bool(path)
    assert seen == ["c", "b", "a"]


def test_a_list_is_filtered_by_state_and_says_what_it_does_not_know(api: Client):
    a_row("a")
    a_row("b", state="gone")
    assert [row["key"] for row in api.get(f"{PATH}?state=gone").json()["environments"]] == ["b"]
    refused = api.get(f"{PATH}?stat=gone&cursor=x&limit=0")
    assert refused.status_code == 400
    assert {error["field"] for error in refused.json()["errors"]} == {"stat", "cursor", "limit"}


def test_a_list_is_searched_by_packages_versions_and_the_beginning_of_a_key(api: Client):
    for key, pins in {
        "ab1": "xgboost==2.1.2 six==1",
        "ab2": "xgboost==1.7 six==1",
        "c3": "",
    }.items():
        lock = "\n".join(pins.split())
        made = {"pylock": "", "python_version": "3.11", "at": timezone.now()}
        environments.make_row(key, lock=lock, **made)

    def found(query: str) -> list[str]:
        return [row["key"] for row in api.get(f"{PATH}?{query}").json()["environments"]]

    assert found("text=xgboost") == ["ab2", "ab1"]
    assert found("text=XGBoost==2.1%20six") == ["ab1"]
    assert found("text=xgb,%20c3") == []
    assert found("text=c3") == ["c3"]
    assert found("text=ab&python_version=3.11") == ["ab2", "ab1"]
    assert found("python_version=3.12") == []


def test_one_environment_tells_its_packages_and_both_forms_of_its_lock(api: Client):
    a_row("a", build_log="Compiling")
    document = api.get(f"{PATH}/a/").json()
    assert document["pins"] == ["six==1.17.0"]
    assert (document["requirements_txt"], document["pylock_toml"]) == (LOCK, "p")


@pytest.mark.parametrize(("method", "path"), [("get", "x"), ("delete", "x"), ("post", "x/rebuild")])
def test_an_unknown_environment_is_not_found(api: Client, method: str, path: str):
    answer = getattr(api, method)(f"{PATH}/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "environment_not_found")


def test_a_jobs_lock_can_be_had_as_a_pylock_file(api: Client):
    job = a_job("a")
    path = f"/mlops/training/jobs/{job.pk}/environment/pylock.toml"
    assert api.get(path).json()["code"] == "environment_not_resolved"
    a_row("a")
    answer = api.get(path)
    assert (answer.status_code, answer.content) == (200, b"p")
    assert "pylock.toml" in answer.headers["Content-Disposition"]


# -- preloaded sets --------------------------------------------------------------------------------
def test_sets_are_built_ahead_only_while_no_job_waits_for_a_build(store: FakeStore, settings: Any):
    settings.PRELOADED_ENVIRONMENTS = [["scikit-learn"]]
    job = a_job("", status="queued")
    assert environment_house.preload() is False
    assert store.built == []
    Job.objects.filter(pk=job.pk).update(status="completed", completed_at=timezone.now())
    assert environment_house.preload() is True
    assert store.built == [("scikit-learn",)]
    settings.PRELOADED_ENVIRONMENTS = []
    environment_house.preload()
    assert len(store.built) == 1


def test_sets_are_built_ahead_for_every_python_that_is_offered(
    store: FakeStore, settings: Any, monkeypatch: pytest.MonkeyPatch
):
    settings.PYTHON_IMAGES = {"3.11": "usual", "3.13": "other"}
    settings.PRELOADED_ENVIRONMENTS = [["scikit-learn"]]
    asked: list[str] = []
    found = environment_house.engine_room
    monkeypatch.setattr(found, "environments", lambda image: asked.append(image) or store)
    assert environment_house.preload() is True
    assert (asked, len(store.built)) == (["usual", "other"], 2)


@pytest.mark.django_db
def test_what_was_put_off_is_begun_again_as_soon_as_no_job_waits(settings: Any, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("mlops_site.daily.async_task", lambda name, **_: asked.append(name))
    work, job = EnvironmentWork(), a_job("", status="queued")
    work.ask()
    work.ask()
    assert len(asked) == 1
    Heartbeat.beat(PRELOAD_PUT_OFF)
    work.ask()
    assert len(asked) == 1
    Job.objects.filter(pk=job.pk).update(status="completed", completed_at=timezone.now())
    work.ask()
    work.ask()
    assert len(asked) == 2


def test_a_set_that_cannot_be_built_ahead_is_nobodys_failure(store: FakeStore, settings: Any):
    settings.PRELOADED_ENVIRONMENTS = [["no-such"]]
    store.failure = EnvironmentFailed(reason="x", detail="d", hint="h")
    environment_house.preload()
    assert not BuiltEnvironment.objects.exists()

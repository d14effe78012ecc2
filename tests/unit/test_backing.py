"""The addresses of database and queue: wrong ones are named, and a password is never shown."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connection
from django_q.brokers.orm import ORM

from deploy import backing as deploy_backing
from deploy.accounts import CHECKOUT
from deploy.backing import Backing, read_backing, wait_for_backing
from deploy.home import Home
from deploy.report import Stop
from deploy.servers import free_port
from deploy.testing import ONCE, UNIT_TESTS, on_postgresql
from mlops_site import queues
from mlops_site.backing import (
    POSTGRESQL,
    SQLITE,
    WrongAddress,
    database_settings,
    redis_address,
    without_password,
)
from mlops_site.models import Installation

PASSWORD = "s3cret-word"
FILE = Path("/somewhere/platform.sqlite3")


def settings_of(url: str) -> dict[str, Any]:
    return database_settings(url, default_file=FILE, name="mlops-abc")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "db").mkdir()
    return Home(root=tmp_path, installation_id="abc", secrets={})


def test_nothing_said_is_sqlite_in_the_home():
    found = settings_of("")
    assert (found["ENGINE"], found["NAME"]) == (SQLITE, FILE)
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_a_sqlite_file_of_ones_own_is_used_as_carefully():
    found = settings_of("sqlite:////elsewhere/rows.sqlite3")
    assert found["NAME"] == "/elsewhere/rows.sqlite3"
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_process_that_lives_for_weeks_asks_whether_its_connection_still_works(scheme: str):
    found = settings_of(f"{scheme}://ada:p%40ss@db:5433/rows?sslmode=require")
    assert (found["ENGINE"], found["HOST"], found["PORT"]) == (POSTGRESQL, "db", 5433)
    assert (found["USER"], found["PASSWORD"], found["NAME"]) == ("ada", "p@ss", "rows")
    assert found["CONN_HEALTH_CHECKS"] and found["CONN_MAX_AGE"] > 0
    assert found["OPTIONS"]["sslmode"] == "require"
    assert found["OPTIONS"]["application_name"] == "mlops-abc"
    assert found["OPTIONS"]["connect_timeout"] > 0


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://ada:{PASSWORD}@db/rows",
        f"postgresql://ada:{PASSWORD}@db/",
        f"postgresql://ada:{PASSWORD}@db:port/rows",
        f"{PASSWORD}",
        "sqlite:///beside.sqlite3",
        "sqlite://",
    ],
)
def test_a_wrong_database_address_is_refused_by_name_and_without_its_password(url: str):
    with pytest.raises(WrongAddress) as refused:
        settings_of(url)
    said = str(refused.value)
    assert said.startswith("DATABASE_URL ")
    assert "postgresql://user:password@host" in said
    assert PASSWORD not in said


@pytest.mark.parametrize("url", [f"http://:{PASSWORD}@cache/0", f"redis://:{PASSWORD}@cache?x=1"])
def test_a_wrong_redis_address_is_refused_by_name_and_without_its_password(url: str):
    with pytest.raises(WrongAddress, match="^REDIS_URL ") as refused:
        redis_address(url)
    assert PASSWORD not in str(refused.value)


def test_people_are_shown_an_address_without_user_password_and_options():
    shown = without_password(f"postgresql://ada:{PASSWORD}@db:5433/rows?password={PASSWORD}")
    assert shown == "postgresql://db:5433/rows"
    assert without_password("unix:///run/redis.sock") == "unix:///run/redis.sock"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DATABASE_URL", f"mysql://ada:{PASSWORD}@db/rows"), ("REDIS_URL", f"http://{PASSWORD}")],
)
def test_every_command_stops_at_a_wrong_address_without_showing_it(
    variable: str, value: str, tmp_path: Path
):
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=CHECKOUT,
        env={**os.environ, "MLOPS_HOME": str(tmp_path), variable: value},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"ImproperlyConfigured: {variable} is not the address of" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_the_start_stops_at_a_server_that_does_not_answer_and_says_what_to_do(
    home: Home, monkeypatch, capfd
):
    monkeypatch.setattr(deploy_backing, "WAIT_SECONDS", 0)
    url = f"postgresql://ada:{PASSWORD}@127.0.0.1:{free_port()}/rows"
    with pytest.raises(Stop, match="does not answer: .*refused.*correct DATABASE_URL") as stop:
        wait_for_backing(home, read_backing(home, {"DATABASE_URL": url}))
    queue = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
    with pytest.raises(Stop, match="does not answer: .*refused.*correct REDIS_URL") as other:
        wait_for_backing(home, read_backing(home, {"REDIS_URL": queue}))
    said = "".join(capfd.readouterr()) + str(stop.value) + str(other.value)
    assert "Rows: PostgreSQL at postgresql://127.0.0.1" in said
    assert PASSWORD not in said


def test_the_start_stops_at_an_option_that_postgresql_does_not_know(home: Home):
    backing = read_backing(home, {"DATABASE_URL": "postgresql://ada@127.0.0.1:1/rows?colour=red"})
    with pytest.raises(Stop, match="DATABASE_URL cannot be used: .*colour"):
        wait_for_backing(home, backing)


@pytest.mark.skipif(os.geteuid() != 0, reason="without root all processes are one account")
def test_a_sqlite_file_that_the_web_process_could_not_write_is_refused(home: Home):
    with pytest.raises(Stop, match="the web process could not write"):
        read_backing(home, {"DATABASE_URL": "sqlite:////elsewhere/rows.sqlite3"})
    inside = f"sqlite:///{home.folder('db')}/rows.sqlite3"
    assert read_backing(home, {"DATABASE_URL": inside}).database_url == inside


def test_an_address_of_redis_is_for_workers_only():
    backing = Backing(database_url="postgresql://db/rows", redis_url="redis://cache/0")
    assert set(backing.for_everybody) == {"DATABASE_URL"}
    assert set(backing.for_workers) == {"REDIS_URL"}
    assert Backing().for_everybody == Backing().for_workers == {}


# -- one database, one installation ----------------------------------------------------------------
@pytest.mark.django_db
def test_a_database_of_another_installation_is_refused_before_anything_is_changed(
    settings, monkeypatch
):
    settings.INSTALLATION_ID = "first"
    call_command("prepare_platform")
    call_command("prepare_platform")
    assert Installation.owner() == "first"
    settings.INSTALLATION_ID = "second"
    migrated: list[str] = []
    prepare = "mlops_site.management.commands.prepare_platform.call_command"
    monkeypatch.setattr(prepare, lambda name, **_: migrated.append(name))
    with pytest.raises(CommandError, match="belongs to the installation first.*DATABASE_URL"):
        call_command("prepare_platform")
    assert migrated == []


# -- queues whose server is away -------------------------------------------------------------------
@pytest.fixture
def away(monkeypatch, settings) -> queues.RedisQueue:
    """A queue in a Redis that nobody started."""
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    monkeypatch.setattr(queues.RedisQueue, "_away_until", 0.0)
    monkeypatch.setattr(queues, "AWAY_SECONDS", 0.01)
    return queues.RedisQueue("anything")


def test_a_redis_that_is_away_stops_neither_who_queues_nor_who_reads(away: queues.RedisQueue):
    assert away.enqueue(b"task") is None
    assert away.dequeue() is None
    assert away.ping() is False


def test_a_redis_that_was_away_just_now_is_not_waited_for_again(
    away: queues.RedisQueue, monkeypatch
):
    monkeypatch.setattr(queues, "AWAY_SECONDS", 60.0)
    asked: list[bytes] = []

    def push(key: str, task: bytes) -> int:
        asked.append(task)
        raise redis.ConnectionError

    monkeypatch.setattr(away.connection, "rpush", push)
    for task in (b"one", b"two", b"three"):
        assert away.enqueue(task) is None
    assert asked == [b"one"]


def test_a_reader_of_the_queue_outlives_its_database(monkeypatch):
    def cut_off(*_: Any) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(ORM, "get_connection", lambda *_: None)
    queue = queues.OrmQueue("anything")
    monkeypatch.setattr(ORM, "get_connection", cut_off)
    monkeypatch.setattr(queues, "AWAY_SECONDS", 0.0)
    closed: list[bool] = []
    monkeypatch.setattr(connection, "close", lambda: closed.append(True))
    assert queue.dequeue() is None
    assert closed == [True]


# -- what is said of a database that is away -------------------------------------------------------
def test_a_request_is_told_that_the_database_is_away_and_when_to_come_back(client, monkeypatch):
    def cut_off(*_: Any, **__: Any) -> None:
        raise OperationalError("connection to server at 10.0.0.7 failed")

    monkeypatch.setattr("training.api.list_view.page_of_jobs", cut_off)
    answer = client.get("/mlops/training/jobs")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert "10.0.0.7" not in answer.content.decode()


def test_an_error_in_a_query_of_ours_is_not_called_an_outage(client, monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise DatabaseError("no such column")

    monkeypatch.setattr("training.api.list_view.page_of_jobs", broken)
    client.raise_request_exception = False
    assert client.get("/mlops/training/jobs").status_code == 500


# -- which tests run once more ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "again"),
    [
        ([], [UNIT_TESTS, *ONCE]),
        (["-q", "-k", "name"], ["-q", "-k", "name", UNIT_TESTS, *ONCE]),
        ([UNIT_TESTS, "-q"], [UNIT_TESTS, "-q", *ONCE]),
        (["tests/unit/test_turn.py", "-q"], ["tests/unit/test_turn.py", "-q"]),
        (["tests/unit/test_turn.py", "tests/road"], ["tests/unit/test_turn.py"]),
        (["tests/road"], None),
    ],
)
def test_the_unit_tests_among_those_asked_for_run_on_postgresql_too(given, again):
    assert on_postgresql(given) == again

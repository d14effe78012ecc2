"""A database that does not answer for a while: nothing printed is lost, no lease ends."""

import threading
from collections.abc import Iterator

import pytest
from django.db import OperationalError

from sandbox import holders
from tests.unit.job_world import World
from training import followers, logs
from training.models import Attempt, LogChunk
from training.services import rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def attempt() -> Iterator[Attempt]:
    with World() as world:
        job = world.submit()
        world.launch()
        yield world.attempt_of(job)


class Prints:
    """An engine whose container prints a piece each time the test asks for one."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.go_on = threading.Semaphore(0)
        self.printed = threading.Semaphore(0)

    def follow_logs(self, container_id: str) -> Iterator[bytes]:
        for piece in self._pieces:
            self.go_on.acquire()
            yield piece
            self.printed.release()

    def prints(self) -> None:
        self.go_on.release()
        assert self.printed.acquire(timeout=5)


def test_output_that_could_not_be_stored_is_stored_later(attempt: Attempt, monkeypatch):
    engine = Prints([b"one\n", b"two\n", b"three\n", b""])
    follower = followers.LogFollower(engine=engine, attempt=attempt, wake=threading.Event())  # type: ignore[arg-type]
    engine.prints()
    with monkeypatch.context() as locked:
        locked.setattr(logs, "append_runs", _locked)
        for _ in range(2):
            with pytest.raises(OperationalError):
                follower.store(attempt)
        engine.prints()
        with pytest.raises(OperationalError):
            follower.store(attempt)
    engine.prints()
    follower.store(attempt)
    engine.prints()
    stored = attempt.log_chunks.filter(part=LogChunk.Part.RUN).order_by("offset")
    assert b"".join(bytes(chunk.data) for chunk in stored) == b"one\ntwo\nthree\n"


def test_a_lease_is_kept_when_the_database_comes_back(attempt: Attempt, monkeypatch):
    looks, looked = [OperationalError("database is locked")] * 2, threading.Event()

    def renew(held: Attempt) -> None:
        if looks:
            raise looks.pop()
        looked.set()

    monkeypatch.setattr(rows, "_renew", renew)
    monkeypatch.setattr(rows, "_is_wanted", lambda held: True)
    monkeypatch.setattr(rows, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(rows, "LEASE_RENEW_SECONDS", 0)
    with rows.lease_kept(attempt):
        assert looked.wait(timeout=5)


def test_a_worker_that_fails_gives_its_lease_up(attempt: Attempt):
    Attempt.objects.update(lease_owner=holders.me())
    attempt.refresh_from_db()
    with pytest.raises(ZeroDivisionError), rows.lease_kept(attempt):
        raise ZeroDivisionError
    before = attempt.lease_expires_at
    attempt.refresh_from_db()
    assert attempt.lease_expires_at < before


def _locked(*_: object, **__: object) -> None:
    raise OperationalError("database is locked")

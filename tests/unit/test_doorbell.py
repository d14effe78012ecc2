"""A bell wakes who waits for work; it decides nothing, and nobody waits for it."""

import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from django.db import transaction
from django_q.models import OrmQ

from deploy.trial import wait_for
from mlops_site.queues import OrmQueue
from registry import doorbell
from registry.doorbell import Doorbell, Listener, wake_on_ring

LONG = 20.0


@pytest.fixture
def bell() -> Doorbell:
    return Doorbell(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def queue_bell(bell: Doorbell, monkeypatch: pytest.MonkeyPatch) -> Doorbell:
    monkeypatch.setattr("mlops_site.queues.QUEUE_BELL", bell)
    return bell


@pytest.fixture
def broker(queue_bell: Doorbell, monkeypatch: pytest.MonkeyPatch) -> Iterator[OrmQueue]:
    monkeypatch.setattr("mlops_site.queues.Conf.POLL", LONG)
    made = OrmQueue(list_key="test")
    yield made
    if made._listener is not None:
        made._listener.close()


def in_thread(call) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_a_ring_is_heard_at_once_and_rings_that_came_together_are_one(bell: Doorbell):
    with Listener(bell) as listener:
        for _ in range(1000):
            bell.ring()
        started = time.monotonic()
        assert listener.wait(LONG)
        assert time.monotonic() - started < LONG / 2
        assert not listener.wait(0)


def test_a_bell_that_nobody_hears_keeps_nobody_waiting(bell: Doorbell):
    bell.ring()


def test_one_listens_at_a_time_and_the_next_one_when_it_is_gone(bell: Doorbell):
    with Listener(bell), pytest.raises(OSError):
        Listener(bell)
    Listener(bell).close()


def test_what_waits_is_woken_also_when_somebody_else_listened_first(
    bell: Doorbell, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doorbell, "RETRY_SECONDS", 0.05)
    first = Listener(bell)
    wake, stopping = threading.Event(), threading.Event()
    wake_on_ring(bell, wake, stopping=stopping)
    first.close()
    try:
        deadline = time.monotonic() + LONG
        while not wake.wait(0.05) and time.monotonic() < deadline:
            bell.ring()
        assert wake.is_set()
    finally:
        stopping.set()


@pytest.mark.django_db(transaction=True)
def test_a_ring_waits_for_what_was_written(bell: Doorbell):
    with Listener(bell) as listener:
        with transaction.atomic():
            bell.ring_on_commit()
            assert not listener.wait(0)
        assert listener.wait(LONG)


@pytest.mark.django_db(transaction=True)
def test_a_queued_task_is_taken_without_waiting_for_the_next_look(broker: OrmQueue):
    taken: list = []

    def take() -> None:
        while not taken:
            taken.extend(broker.dequeue() or [])

    taking = in_thread(take)
    wait_for(lambda: broker._listener is not None, seconds=LONG, what="somebody who listens")
    started = time.monotonic()
    broker.enqueue("a task")
    taking.join(timeout=LONG / 2)
    assert [payload for _, payload in taken] == ["a task"]
    assert time.monotonic() - started < LONG / 2
    assert OrmQ.objects.get().key == "test"


@pytest.mark.django_db(transaction=True)
def test_a_queue_whose_bell_is_taken_is_still_looked_at(
    broker: OrmQueue, queue_bell: Doorbell, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mlops_site.queues.Conf.POLL", 0.01)
    with Listener(queue_bell):
        assert broker.dequeue() is None
        broker.enqueue("a task")
        taken = broker.dequeue()
    assert taken is not None and taken[0][1] == "a task"

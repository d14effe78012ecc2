"""Whose turn it is: one supervisor for an engine, and one that slept notices before it acts."""

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.utils import timezone

from mlops_site.turn import RENEW_SECONDS, Turn, TurnLost
from training.models import SupervisorLease
from training.services import observe

pytestmark = pytest.mark.django_db


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def let_the_lease_run_out() -> None:
    SupervisorLease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def test_one_has_it_at_a_time_and_another_engine_is_another_turn(clock: Clock):
    first, second = Turn("here", clock=clock), Turn("here", clock=clock)
    assert first.take()
    assert first.take()
    assert not second.take()
    assert Turn("there", clock=clock).take()


def test_a_released_turn_is_free_at_once(clock: Clock):
    first, second = Turn("here", clock=clock), Turn("here", clock=clock)
    first.take()
    first.release()
    assert second.take()
    with pytest.raises(TurnLost):
        first.check()


def test_a_check_renews_in_time_and_costs_nothing_before(clock: Clock, django_assert_num_queries):
    turn = Turn("here", clock=clock)
    turn.take()
    before = SupervisorLease.objects.get().expires_at
    with django_assert_num_queries(0):
        turn.check()
    clock.now += RENEW_SECONDS
    turn.check()
    assert SupervisorLease.objects.get().expires_at > before


def test_one_that_slept_notices_before_it_acts(clock: Clock):
    sleeper, other = Turn("here", clock=clock), Turn("here", clock=clock)
    sleeper.take()
    let_the_lease_run_out()
    assert other.take()
    clock.now += observe.SUPERVISOR_LEASE_SECONDS + 1
    with pytest.raises(TurnLost):
        sleeper.check()
    with pytest.raises(TurnLost):
        sleeper.check()
    sleeper.release()
    assert not Turn("here", clock=clock).take()


def test_one_that_slept_goes_on_when_nobody_took_over(clock: Clock):
    turn = Turn("here", clock=clock)
    turn.take()
    let_the_lease_run_out()
    clock.now += observe.SUPERVISOR_LEASE_SECONDS + 1
    turn.check()


def test_while_the_database_is_away_it_acts_no_longer_than_its_lease(clock: Clock, monkeypatch):
    turn = Turn("here", clock=clock)
    turn.take()

    def away(*_: object) -> bool:
        raise OperationalError("database is locked")

    monkeypatch.setattr(observe, "hold_engine", away)
    clock.now += RENEW_SECONDS + 1
    turn.check()
    clock.now += observe.SUPERVISOR_LEASE_SECONDS
    with pytest.raises(TurnLost):
        turn.check()

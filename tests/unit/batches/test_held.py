"""Batches while admission is paused or the worker is drained: they are accepted, and wait."""

from typing import Any

import pytest
from django.test import Client

from inference.models import BatchPrediction
from inference.services import batch_rows
from inference.services.batch_watching import BatchWatch
from registry.models import AuditEntry
from tests.unit.batches.world import PATH, Docker, a_batch, launched, seen
from training.services import admission


@pytest.mark.parametrize("hold", [admission.pause, admission.drain], ids=["paused", "drained"])
def test_none_is_started_and_each_says_why(
    api: Client, docker: Docker, tasks: list[Any], hold: Any
) -> None:
    hold(actor="olga")
    batch = a_batch(api)
    BatchWatch().tick()
    assert tasks == []
    assert api.get(f"{PATH}/{batch.pk}").json()["phase"].startswith("waiting: ")
    admission.resume(actor="olga")
    admission.undrain(actor="olga")
    BatchWatch().tick()
    assert len(tasks) == 1
    assert BatchPrediction.objects.get().phase == ""


def test_one_that_still_waits_afterwards_does_not_go_on_to_say_so(
    api: Client, docker: Docker, tasks: list[Any], settings: Any
) -> None:
    settings.MAX_BATCHES = 0
    admission.pause(actor="olga")
    a_batch(api)
    BatchWatch().tick()
    admission.resume(actor="olga")
    BatchWatch().tick()
    assert BatchPrediction.objects.get().phase == ""


def test_a_worker_that_was_asked_before_the_pause_does_not_take_it(api: Client) -> None:
    batch = a_batch(api)
    admission.pause(actor="olga")
    assert batch_rows.claim_to_start(batch.pk) is None
    assert seen(batch)[0] == "queued"
    admission.resume(actor="olga")
    assert batch_rows.claim_to_start(batch.pk) is not None


def test_sending_and_cancelling_is_written_down_once(api: Client) -> None:
    batch = launched(api)
    for _ in range(2):
        api.post(f"{PATH}/{batch.pk}/cancel")
    acts = [(entry.act, entry.key, entry.channel) for entry in AuditEntry.objects.order_by("id")]
    assert acts == [
        ("batch.submit", str(batch.pk), "api"),
        ("batch.cancel", str(batch.pk), "api"),
    ]
    assert AuditEntry.objects.first().address == "127.0.0.1"

"""A world of batches without Docker: an engine that says what a test wants, and batches in it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from inference.models import BatchPrediction
from inference.services import batch_work
from sandbox.engine import ContainerState
from tests.fixtures.containers import container_state
from tests.unit.test_batch_record import end, head, rows

PATH = "/mlops/inference/batch"
CSV = b"age,plan\n1,a\n2,b\n"
QUERY = "?model_name=churn&model_version=1"


class Docker:
    """Stands where the engine does: one container, and what it printed."""

    def __init__(self) -> None:
        self.now: ContainerState | None = None
        self.output: list[bytes] = []
        self.errors = b"last words\n"
        self.removed: list[str] = []

    def state(self, container: str) -> ContainerState | None:
        return self.now

    def printed(self, container: str) -> Iterator[bytes]:
        return iter(self.output)

    def last_printed(self, container: str, *, lines: int) -> bytes:
        return b"".join(self.output[-lines:])

    def last_errors(self, container: str, *, lines: int) -> bytes:
        return self.errors

    def remove(self, container: str) -> None:
        self.removed.append(container)
        self.now = None

    def find(self, labels: Any) -> list[ContainerState]:
        return [self.now] if self.now else []

    def ends(self, code: int, *, oom: bool = False) -> None:
        self.now = state(running=False, exit_code=code, oom_killed=oom)


def state(**fields: Any) -> ContainerState:
    return container_state(**{"id": "c1", **fields})


def send(api: Client, body: bytes = CSV, query: str = QUERY) -> Any:
    return api.generic("POST", f"{PATH}{query}", body, content_type="text/csv")


def a_batch(api: Client, **fields: Any) -> BatchPrediction:
    answer = send(api)
    assert answer.status_code == 202, answer.content
    found = BatchPrediction.objects.filter(pk=answer.json()["batch_id"])
    found.update(**fields)
    return found.get()


def launched(api: Client, **fields: Any) -> BatchPrediction:
    """One whose container runs, and that nobody holds."""
    moment = timezone.now()
    made = {
        "status": "running",
        "attempts": 1,
        "container_id": "c1",
        "launched_at": moment,
        "deadline_at": moment + timedelta(hours=1),
        "started_at": moment,
    }
    return a_batch(api, **{**made, **fields})


def seen(batch: BatchPrediction) -> tuple[str, str]:
    batch.refresh_from_db()
    return batch.status, batch.reason


def completed(api: Client, docker: Docker) -> BatchPrediction:
    batch = launched(api)
    docker.ends(0)
    docker.output = [head(), rows(0, ["=a", 1]), end(2)]
    batch_work.finish_batch(batch.pk)
    assert seen(batch) == ("completed", "succeeded")
    return batch

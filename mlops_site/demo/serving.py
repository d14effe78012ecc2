"""The demo's model servers, their policies and batches: what serves which version, and how well."""

import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from inference.batch.states import Format
from inference.batch.states import Status as BatchStatus
from inference.models import BatchPrediction, ModelPolicy, ModelServer
from inference.states import MEANINGS
from inference.states import Reason as ServerReason
from mlops_site.demo.environments import key_of
from mlops_site.demo.projects import Project
from mlops_site.demo.versions import ModelStory

MIB = 1024 * 1024
TEXTS = frozenset({"subject", "body", "category", "industry", "store"})
EXAMPLES: Mapping[str, Any] = {
    "age": 41,
    "income": 52_000.0,
    "tenure_months": 18,
    "support_calls": 2,
    "amount": 129.9,
    "hour": 22,
    "subject": "Cannot log in",
    "body": "The link in the mail leads to an empty page.",
    "category": "shoes",
    "industry": "retail",
    "store": "north-3",
}
WHOLE = ("age", "hour", "tenure_months", "support_calls", "weekday", "parcels", "visits")


def servers(
    rng: random.Random, stories: Sequence[ModelStory], *, now: datetime
) -> list[ModelServer]:
    """The champion of each model; the first has two, one starts, one fails, one was not needed."""
    found = [_server(rng, story, now=now) for story in stories]
    for server, change in zip(reversed(found), (_starting, _failed, _stopped), strict=False):
        if len(found) > 3:
            change(server, now)
    if stories:
        found.append(_server(rng, stories[0], now=now, replica=2))
    return found


def policies(stories: Sequence[ModelStory], *, now: datetime) -> list[ModelPolicy]:
    choices: Sequence[dict[str, Any]] = (
        {"min_servers": 2, "max_servers": 4, "pinned": True},
        {"min_servers": 1, "max_servers": 2, "memory_mb": 2048},
        {"max_servers": 2, "idle_seconds": 900},
    )
    changed = {"changed_at": now - timedelta(days=2), "changed_by": "otto"}
    return [
        ModelPolicy(model_name=story.project.model, **choice, **changed)
        for story, choice in zip(stories, choices, strict=False)
    ]


def ended_batches(
    rng: random.Random, stories: Sequence[ModelStory], *, now: datetime
) -> list[BatchPrediction]:
    ways = (BatchStatus.COMPLETED, BatchStatus.COMPLETED, BatchStatus.FAILED)
    return [_ended(rng, _batch(rng, story, now=now), way) for story in stories[:4] for way in ways]


def open_batches(
    rng: random.Random, stories: Sequence[ModelStory], *, now: datetime
) -> list[BatchPrediction]:
    """One that is being predicted, and one that waits."""
    found = [_batch(rng, story, now=now) for story in stories[:2]]
    for batch, seconds in zip(found, (95, 20), strict=False):
        batch.created_at = batch.changed_at = now - timedelta(seconds=seconds)
    for batch in found[:1]:
        batch.status, batch.phase, batch.attempts = BatchStatus.RUNNING, "predicting", 1
        batch.started_at = now - timedelta(seconds=90)
        batch.share_done, batch.rows_done = 0.4, (batch.rows_total or 0) * 2 // 5
    return found


def _server(
    rng: random.Random, story: ModelStory, *, now: datetime, replica: int = 1
) -> ModelServer:
    project = story.project
    ready_at = now - timedelta(seconds=rng.randrange(4000, 90_000))
    return ModelServer(
        model_name=project.model,
        version=str(story.champion),
        replica=replica,
        source=story.source,
        status=ModelServer.Status.READY,
        description=_description(project),
        memory_mb=1024,
        cpus=1,
        memory_bytes=rng.randrange(140, 520) * MIB,
        container_id=f"{rng.getrandbits(256):064x}",
        address=f"10.88.2.{rng.randrange(2, 250)}:8080",
        environment_key=key_of(project.requirements),
        claim=uuid.UUID(int=rng.getrandbits(128), version=4),
        created_at=ready_at - timedelta(seconds=3),
        changed_at=ready_at,
        ready_at=ready_at,
        last_used_at=now - timedelta(seconds=rng.randrange(1, 900)),
    )


def _description(project: Project) -> dict[str, Any]:
    """As a server tells of its model."""
    columns = [{"name": name, "type": _type(name), "required": True} for name in project.columns]
    classes = ["billing", "login", "shipping"] if project.model == "ticket_router" else [0, 1]
    return {
        "model_type": project.estimator,
        "columns": columns,
        "n_features": len(columns),
        "probabilities": project.is_classifier,
        "classes": classes if project.is_classifier else [],
        "example": {"inputs": [{name: _example(name) for name in project.columns}]},
    }


def _type(name: str) -> str:
    if name in TEXTS:
        return "string"
    return "long" if name in WHOLE else "double"


def _example(name: str) -> Any:
    return EXAMPLES.get(name, 3 if name in WHOLE else 0.5)


def _starting(server: ModelServer, now: datetime) -> None:
    server.status, server.phase = ModelServer.Status.STARTING, "loading"
    server.description = server.ready_at = server.last_used_at = server.memory_bytes = None
    server.created_at = server.changed_at = now - timedelta(seconds=2)


def _failed(server: ModelServer, now: datetime) -> None:
    server.status, server.reason = ModelServer.Status.FAILED, ServerReason.OUT_OF_MEMORY
    server.error, server.crashes = MEANINGS[ServerReason.OUT_OF_MEMORY].sentence, 2
    server.log_tail = "loading vectorizer: 812,040 terms\nKilled\n"
    server.not_before = now + timedelta(seconds=40)
    server.ready_at = server.memory_bytes = None


def _stopped(server: ModelServer, now: datetime) -> None:
    server.status, server.reason = ModelServer.Status.STOPPED, ServerReason.IDLE
    server.container_id = server.address = ""
    server.memory_bytes, server.last_used_at = None, now - timedelta(hours=4)


def _batch(rng: random.Random, story: ModelStory, *, now: datetime) -> BatchPrediction:
    rows = rng.randrange(4, 900) * 1000
    sent = now - timedelta(hours=rng.uniform(2, 90))
    return BatchPrediction(
        model_name=story.project.model,
        version=str(story.champion),
        source=story.source,
        file_name=f"{story.project.experiment}_{sent:%Y_%m_%d}.csv",
        input_format=Format.CSV,
        input_bytes=rows * 61,
        output_format=Format.CSV,
        rows_total=rows,
        owner=story.project.owners[0],
        environment_key=key_of(story.project.requirements),
        created_at=sent,
        changed_at=sent,
    )


def _ended(rng: random.Random, batch: BatchPrediction, status: BatchStatus) -> BatchPrediction:
    batch.status, batch.attempts = status, 1
    batch.started_at = batch.created_at + timedelta(seconds=1)
    batch.ended_at = batch.started_at + timedelta(seconds=rng.uniform(4, 240))
    batch.changed_at, rows = batch.ended_at, batch.rows_total or 0
    if status == BatchStatus.COMPLETED:
        batch.reason, batch.rows_done, batch.share_done = "succeeded", rows, 1.0
        batch.output_bytes = rows * 9
    else:
        wrong = "row 17 (line 18): expected a number, got 'n/a'"
        batch.reason, batch.error = "file_refused", f"inputs.amount: {wrong}"
        batch.errors = [{"field": "inputs.amount", "detail": wrong}]
    return batch

"""Keeps what a running model server made of its model, so that its next start needs nothing else.

A compact form is a stranger's data: it is bounded in size and time, written beside the model's
files, and read by nobody but that model's own container. Nothing of it is opened here.
"""

import contextlib
import json
import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
from django.conf import settings
from django.db.models import F, Q
from django.utils import timezone
from django_q.tasks import async_task

from inference import model_files
from inference.lanes import read_lane
from inference.models import ModelServer

log = logging.getLogger(__name__)

KEEP_TASK = "inference.tasks.keep_compact_form"
# A trial takes seconds, under load minutes; a server that says nothing new after that never will.
ASK_EVERY_SECONDS = 10
ASK_FOR_SECONDS = 900
CALL_SECONDS = 5.0
WHOLE_SECONDS = 30.0
MAX_BYTES = 256 * 1024 * 1024
DOCUMENT_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
SETTLED = frozenset({"kept", "refused"})


class ServerSilent(Exception):
    """The server did not answer within its bounds."""


def dispatch() -> None:
    """Queues a task for each ready server whose trial is not known to have ended."""
    if settings.FAST_LANE == "off":
        return
    now = timezone.now()
    asked = Q(form_asked_at__gte=now - timedelta(seconds=ASK_EVERY_SECONDS)) & Q(
        form_asked_at__gte=F("ready_at")
    )
    ready = ModelServer.objects.filter(
        status=ModelServer.Status.READY, ready_at__gte=now - timedelta(seconds=ASK_FOR_SECONDS)
    )
    for server in ready.exclude(asked):
        if model_files.outcome_file(server.model_name, server.source, server.version) is None:
            continue
        ModelServer.objects.filter(pk=server.pk, status=server.status).update(form_asked_at=now)
        async_task(KEEP_TASK, server.pk, save=False)


def keep(server_id: int) -> None:
    """Asks once; the form and its outcome are written when there is one."""
    server = ModelServer.objects.filter(pk=server_id, status=ModelServer.Status.READY).first()
    if server is None:
        return
    outcome = model_files.outcome_file(server.model_name, server.source, server.version)
    if outcome is None:
        return
    with contextlib.suppress(ServerSilent):
        _keep(server, outcome)


def _keep(server: ModelServer, outcome: Path) -> None:
    lane = _lane(_fetched(server, "/ready", most=DOCUMENT_BYTES))
    if lane.get("state") not in SETTLED:
        return
    if lane["state"] == "kept":
        _write(outcome.with_name(model_files.COMPACT), _fetched(server, "/compact", most=MAX_BYTES))
    _write(outcome, json.dumps(lane).encode())
    _remember(server, lane)
    log.info("server.lane_settled", extra={"server": server.pk, "state": lane["state"]})


def _remember(server: ModelServer, lane: dict[str, Any]) -> None:
    """In the rows of all servers of these files: their descriptions are from before the trial."""
    told = read_lane(lane)
    same = ModelServer.objects.filter(
        model_name=server.model_name, version=server.version, source=server.source
    )
    for row in same.exclude(description=None):
        described = {**(row.description or {}), "lane": told.document() if told else None}
        # One that started anew meanwhile has a newer description.
        same.filter(pk=row.pk, ready_at=row.ready_at).update(description=described)


def _lane(content: bytes) -> dict[str, Any]:
    try:
        lane = json.loads(content)["lane"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ServerSilent from error
    return lane if isinstance(lane, dict) else {}


def _fetched(server: ModelServer, path: str, *, most: int) -> bytes:
    """Raises ServerSilent for what is too large, too slow, or no answer."""
    deadline = time.monotonic() + WHOLE_SECONDS
    content = bytearray()
    with requests.Session() as session:
        # A proxy of the host has no way to a container.
        session.trust_env = False
        try:
            answer = session.get(
                f"http://{server.address}{path}",
                headers={"Authorization": f"Bearer {server.token}", "Accept-Encoding": "identity"},
                timeout=CALL_SECONDS,
                stream=True,
                allow_redirects=False,
            )
            if answer.status_code != 200:
                raise ServerSilent
            while chunk := answer.raw.read(CHUNK_BYTES):
                content += chunk
                if len(content) > most or time.monotonic() > deadline:
                    raise ServerSilent
        except (requests.RequestException, OSError) as error:
            raise ServerSilent from error
    return bytes(content)


def _write(path: Path, content: bytes) -> None:
    """In one step, readable in the container. The folder may be gone with its model by now."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.parent.mkdir(exist_ok=True)
        path.parent.chmod(0o755)
        aside.write_bytes(content)
        aside.chmod(0o644)
        aside.replace(path)

"""The raw ASGI paths of batches: an upload goes to the disk as it comes, a download comes from it.

No thread is held while a client is slow, and no file is in memory.
"""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
from django.conf import settings

from inference.batch import files, uploads
from inference.batch.document import document_of, path_of
from inference.batch.states import Format
from inference.door import failure_answer, new_id, send_noted
from inference.models import BatchPrediction
from inference.refusals import Refused, refusal
from inference.services import batches
from inference.threads import Threads
from registry.rawhttp.asgi import (
    Disconnected,
    Receive,
    Scope,
    Send,
    start,
    while_connected,
)
from registry.rawhttp.problems import Answer
from registry.sources import Channel, Source, coming_from

PATH = "/mlops/inference/batch"
DOWNLOAD = re.compile(rf"{PATH}/(?P<batch_id>[^/]+)/predictions/?")
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# Beside the file itself: the form's fields and the marks between them.
FORM_BYTES = 1024 * 1024
PIECE_BYTES = 1024 * 1024
SILENT_SECONDS = 30.0
UPLOADS_MOST = 8
MEDIA_TYPES = {
    Format.CSV.value: "text/csv; charset=utf-8",
    Format.PARQUET.value: "application/vnd.apache.parquet",
}
_uploads: set["asyncio.Task[Any]"] = set()


def app_of(scope: Scope) -> App | None:
    """None for a path that is somebody else's."""
    if scope["method"] == "POST" and scope["path"].rstrip("/") == PATH:
        return upload_app
    if scope["method"] in ("GET", "HEAD") and DOWNLOAD.fullmatch(scope["path"]):
        return download_app
    return None


async def upload_app(scope: Scope, receive: Receive, send: Send) -> None:
    """202 with the batch, or one problem."""
    headers = dict(scope["headers"])
    request_id = new_id(headers)
    path = scope["path"]
    answer = await _answer_of(_taken(scope, receive, headers), path, request_id)
    if answer is not None:
        await send_noted(send, answer, path=path, request_id=request_id)


async def download_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The file, or one problem."""
    found = DOWNLOAD.fullmatch(scope["path"])
    assert found is not None  # noqa: S101 - `app_of` said so
    request_id = new_id(dict(scope["headers"]))
    opened: list[tuple[BatchPrediction, Path]] = []

    async def look() -> None:
        opened.append(await _in_thread(batches.predictions_of, found["batch_id"]))
        if not opened[0][1].is_file():
            raise batches.BatchNotFound(found["batch_id"])

    path, head_only = scope["path"], scope["method"] == "HEAD"
    answer = await _answer_of(look(), path, request_id)
    if answer is not None:
        await send_noted(send, answer, path=path, request_id=request_id, head_only=head_only)
        return
    batch, file = opened[0]
    await while_connected(receive, _send_file(send, batch, file, request_id, head_only=head_only))


def accept(
    body: Path, content_type: str, query: Mapping[str, list[str]], *, folder: Path, owner: str
) -> Answer:
    """What was sent becomes a batch; blocks. Raises Refused, APIException."""
    file, sent, name = body, query, ""
    if uploads.media_type_of(content_type) == uploads.FORM:
        file = folder / "file"
        sent, name = uploads.read_form(body, content_type, file)
        body.unlink()
        if query:
            told = "A form has its fields in the body; the query must be empty."
            raise refusal(400, "invalid", told)
    if file.stat().st_size > settings.BATCH_INPUT_MAX_BYTES:
        raise _too_large()
    with coming_from(Source(Channel.API, owner)):
        batch = batches.submit(uploads.order_of(sent, file, name), file, owner=owner)
    headers = {"content-type": "application/json", "location": path_of(batch)}
    return 202, headers, orjson.dumps(document_of(batch))


# -- upload ---------------------------------------------------------------------------------------
async def _taken(scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> Answer:
    """Raises Refused, APIException, Disconnected."""
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    kind = uploads.media_type_of(content_type)
    most = settings.BATCH_INPUT_MAX_BYTES + (FORM_BYTES if kind == uploads.FORM else 0)
    declared = headers.get(b"content-length", b"0")
    size = int(declared) if declared.isdigit() else 0
    if size > most:
        raise _too_large()
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    owner = str((scope.get("client") or [""])[0])
    with _Place():
        # A form is there twice while its file is taken out of it.
        await _in_thread(batches.check_room, 2 * size)
        with files.upload_folder() as folder:
            body = folder / "body"
            await _written(receive, body, most=most)
            answer: Answer = await _in_thread(
                lambda: accept(body, content_type, query, folder=folder, owner=owner)
            )
    return answer


class _Place:
    """One of few uploads at a time: each has a file on the disk that no row counts yet."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()

    def __enter__(self) -> None:
        if len(_uploads) >= UPLOADS_MOST:
            raise refusal(
                503,
                "overloaded",
                f"{UPLOADS_MOST} files are being sent already.",
                hint="Send it again when one of them has arrived.",
                retry_after_seconds=batches.RETRY_AFTER_SECONDS,
            )
        if self._task is not None:
            _uploads.add(self._task)

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            _uploads.discard(self._task)


async def _written(receive: Receive, path: Path, *, most: int) -> None:
    """Raises Refused for a body that is too large or too slow, and Disconnected."""
    held, size, more = bytearray(), 0, True
    with path.open("wb") as file:
        while more:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    message = await receive()
            except TimeoutError:
                told = f"Nothing of the body came for {SILENT_SECONDS:.0f} s."
                raise refusal(408, "body_too_slow", told) from None
            if message["type"] == "http.disconnect":
                raise Disconnected
            held += message.get("body", b"")
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size > most:
                raise _too_large()
            if len(held) >= PIECE_BYTES or not more:
                await asyncio.to_thread(file.write, bytes(held))
                held.clear()


def _too_large() -> Refused:
    megabytes = settings.BATCH_INPUT_MAX_BYTES // 1024**2
    return refusal(
        413,
        "body_too_large",
        f"The file is larger than {megabytes} MiB.",
        hint="Send it in parts; the operator sets MLOPS_BATCH_INPUT_MAX_BYTES.",
    )


# -- download -------------------------------------------------------------------------------------
async def _send_file(
    send: Send, batch: BatchPrediction, path: Path, request_id: str, *, head_only: bool
) -> None:
    """What is in the folder under that name when it is opened; it is replaced as a whole only."""
    with path.open("rb") as file:
        size = left = os.fstat(file.fileno()).st_size
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{batch.model_name}-{batch.version}")[:100]
        headers = {
            "content-type": MEDIA_TYPES[batch.output_format],
            "content-length": str(size),
            "content-disposition": (
                f'attachment; filename="{name}-{str(batch.pk)[:8]}.{batch.output_format}"'
            ),
            "x-content-type-options": "nosniff",
            "x-request-id": request_id,
        }
        await start(send, 200, headers)
        while left and not head_only:
            piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, left))
            if not piece:
                return
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
        if head_only or not size:
            await send({"type": "http.response.body", "body": b""})


# -- answers --------------------------------------------------------------------------------------
async def _answer_of(
    work: Coroutine[Any, Any, Answer | None], path: str, request_id: str
) -> Answer | None:
    """What it gives, or the problem that it raised; None also when the client has gone."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
        # Its file is gone before this returns, also for a client that is gone.
        await asyncio.wait([task])
    if task.cancelled():
        return None
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, Disconnected):
        return None
    return failure_answer(error, path=path, request_id=request_id)


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a thread of its own: a form of a gigabyte must hold up no prediction."""
    threads = Threads()
    try:
        return await threads.call(function, *arguments)
    finally:
        await threads.close()

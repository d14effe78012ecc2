"""Waiting and following through the raw handler: real rows, raw ASGI calls, no server."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.unit.test_logs import a_job, an_attempt
from training import asgi, following, logs
from training.api.serializers import job_document
from training.models import Attempt, EngineCapacity, Job, LogChunk
from training.services import rows
from training.watch import Watch, look

pytestmark = pytest.mark.django_db(transaction=True)

HOSTILE = (
    b"\0 \r lone \x1b[31mred\x1b[0m \xe2\x80\xa8 \xc2\x85 \xff\xfe\n\n:x\ndata: fake\r\n\r\nid: 9\n"
)
PATIENCE = 10.0


@dataclass
class Exchange:
    """One request and what came back so far; `leave` is the client going away."""

    scope: dict[str, Any]
    sent: list[dict[str, Any]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_read: Callable[[], Awaitable[None]] | None = None

    async def receive(self) -> dict[str, Any]:
        if not self.scope.setdefault("asked", False):
            self.scope["asked"] = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.is_read is not None:
            await self.is_read()
        self.sent.append(message)
        self.news.set()

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def complete(self) -> bool:
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)

    def events(self) -> list[tuple[str, str, Any]]:
        """(id, kind, document) of each event, read as a browser does."""
        found = []
        for block in self.body.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            if "data" in fields:
                found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
        return found

    async def until(self, look: Callable[["Exchange"], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not look(self):
                self.news.clear()
                await self.news.wait()


def exchange(path: str, *, method: str = "GET", **headers: str) -> Exchange:
    path, _, query = path.partition("?")
    named = {"host": "testserver", **{k.replace("_", "-"): v for k, v in headers.items()}}
    listed = [(name.encode(), value.encode()) for name, value in named.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode()}
    return Exchange({**scope, "headers": listed})


async def finished(asked: Exchange) -> Exchange:
    async with asyncio.timeout(PATIENCE):
        await asgi.following_app(asked.scope, asked.receive, asked.send)
    return asked


@asynccontextmanager
async def running(asked: Exchange) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(asgi.following_app(asked.scope, asked.receive, asked.send))
    try:
        yield task
    finally:
        asked.left.set()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done()


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def told() -> None:
        try:
            await story()
        finally:
            await asgi.close()

    asyncio.run(told())


def ask(path: str, *, method: str = "GET", **headers: str) -> Exchange:
    asked = exchange(path, method=method, **headers)

    async def story() -> None:
        await finished(asked)

    run(story)
    return asked


@pytest.fixture
def job() -> Job:
    return a_job()


@pytest.fixture
def attempt(job: Job) -> Attempt:
    Job.objects.filter(pk=job.pk).update(status="running", phase="training", revision=3)
    attempt = an_attempt(job)
    logs.append(attempt, LogChunk.Part.RUN, offset=0, data=b"line 1\nline 2\nline 3\n")
    return attempt


def end(job: Job, **values: Any) -> None:
    told = {"status": "failed", "phase": "ended", "reason": "script_error", "error": "no data"}
    job.refresh_from_db()
    Job.objects.filter(pk=job.pk).update(
        **{**told, **values}, completed_at=timezone.now(), revision=job.revision + 1
    )


def path_of(job: Job, rest: str = "") -> str:
    return f"/mlops/training/jobs/{job.pk}{rest}"


# -- the job --------------------------------------------------------------------------------------
def test_the_plain_answer_is_the_jobs_document(job: Job, attempt: Attempt):
    answered = ask(path_of(job))
    job.refresh_from_db()
    assert answered.status == 200
    assert answered.document == job_document(job)
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["etag"] == 'W/"3-21"'
    assert answered.headers["retry-after"] == "1"
    assert int(answered.headers["content-length"]) == len(answered.body)
    assert ask(path_of(job, "/")).body == answered.body


@pytest.mark.parametrize("rest", ["", "/logs", "/events"])
def test_head_has_the_same_headers_and_no_body(job: Job, attempt: Attempt, rest: str):
    told, head = ask(path_of(job, rest)), ask(path_of(job, rest), method="HEAD")
    assert (head.status, head.headers, head.body) == (200, told.headers, b"")


@pytest.mark.parametrize("rest", ["?wait=60", "/logs?follow=1", "/events?follow=1"])
def test_head_is_never_held(job: Job, attempt: Attempt, rest: str):
    assert ask(path_of(job, rest), method="HEAD").status == 200


def test_what_is_known_is_not_sent_again(job: Job, attempt: Attempt):
    first = ask(path_of(job))
    again = ask(path_of(job), if_none_match=f'"other", {first.headers["etag"]}')
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    logs.append(attempt, LogChunk.Part.RUN, offset=21, data=b"line 4\n")
    assert ask(path_of(job), if_none_match=first.headers["etag"]).status == 200


def test_who_waits_far_back_is_told_to_come_back_later(job: Job):
    assert ask(path_of(job)).headers["retry-after"] == "1"
    for _ in range(12):
        last = a_job()
    assert ask(path_of(last)).headers["retry-after"] == "3"
    end(last)
    assert "retry-after" not in ask(path_of(last)).headers


def test_an_ended_job_answers_a_wait_at_once(job: Job):
    end(job)
    assert ask(path_of(job, "?wait=60")).document["status"] == "failed"


def test_a_wait_has_an_end(job: Job, attempt: Attempt, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(following, "WAIT_MAX_SECONDS", 1)
    answered = ask(path_of(job, "?wait=1000"))
    assert (answered.status, answered.document["status"]) == (200, "running")
    known = ask(path_of(job), if_none_match=answered.headers["etag"], prefer="wait=7")
    assert (known.status, known.headers["preference-applied"]) == (304, "wait=1")


@pytest.mark.parametrize("prefer", ["wait=20", "respond-async, wait=20", 'foo; bar, Wait = "20"'])
def test_a_change_ends_the_wait(job: Job, attempt: Attempt, prefer: str):
    async def story() -> None:
        asked = exchange(path_of(job), prefer=prefer)
        async with running(asked) as task:
            await _watched(job)
            assert not task.done()
            await sync_to_async(end)(job)
            await asked.until(lambda asked: asked.complete)
        assert asked.document["reason"] == "script_error"
        assert asked.headers["preference-applied"] == "wait=20"

    run(story)


def test_output_alone_ends_the_wait_of_who_names_what_he_has(job: Job, attempt: Attempt):
    async def story() -> None:
        by_state, by_tag = (
            exchange(path_of(job, "?wait=20")),
            exchange(path_of(job, "?wait=20"), if_none_match='W/"3-21"'),
        )
        async with running(by_state) as waiting, running(by_tag):
            await _watched(job, by=2)
            more = {"offset": 21, "data": b"line 4\n"}
            await sync_to_async(logs.append)(attempt, LogChunk.Part.RUN, **more)
            await by_tag.until(lambda asked: asked.complete)
            assert by_tag.document["logs"].endswith("line 4\n")
            assert not waiting.done()

    run(story)


def test_a_tag_that_is_old_already_waits_for_nothing(job: Job, attempt: Attempt):
    assert ask(path_of(job, "?wait=60"), if_none_match='W/"2-21"').status == 200


# -- the queue ------------------------------------------------------------------------------------
def test_a_place_in_the_queue_that_changed_is_never_hidden_by_a_tag(job: Job, room: EngineCapacity):
    last = a_job()
    second = ask(path_of(last))
    assert (second.document["position"], second.document["waiting_for"]) == (2, "turn")
    known = second.headers["etag"]
    assert ask(path_of(last), if_none_match=known).status == 304
    end(job)
    first = ask(path_of(last), if_none_match=known)
    assert (first.status, first.document["position"]) == (200, 1)
    EngineCapacity.objects.update(short_of="disk")
    short = ask(path_of(last), if_none_match=first.headers["etag"])
    assert (short.status, short.document["waiting_for"]) == (200, "disk")


@pytest.mark.parametrize("tagged", [True, False])
def test_a_new_place_in_the_queue_ends_the_wait(job: Job, room: EngineCapacity, tagged: bool):
    last = a_job()
    known = {"if_none_match": ask(path_of(last)).headers["etag"]} if tagged else {}

    async def story() -> None:
        asked = exchange(path_of(last, "?wait=20"), **known)
        async with running(asked) as task:
            await _watched(last)
            assert not task.done()
            await sync_to_async(end)(job)
            await asked.until(lambda asked: asked.complete)
        assert (asked.status, asked.document["position"]) == (200, 1)

    run(story)


def test_a_place_that_comes_back_between_two_looks_is_told_to_who_read_the_other_one(
    job: Job, room: EngineCapacity
):
    """Somebody else's watch has seen the same place before, so that nothing seems to change."""

    async def story() -> None:
        watch = Watch()
        watch.join()
        first = (await sync_to_async(look)([job.pk]))[job.pk]
        watch.see(first)
        await sync_to_async(EngineCapacity.objects.update)(short_of="disk")
        known = (await sync_to_async(look)([job.pk]))[job.pk]
        await sync_to_async(EngineCapacity.objects.update)(short_of="")
        watch.join()
        waiting = asyncio.ensure_future(
            watch.until(lambda seen: seen.tells_another_state(known), seconds=PATIENCE)
        )
        await asyncio.sleep(0)
        assert not waiting.done()
        watch.see((await sync_to_async(look)([job.pk]))[job.pk])
        assert await waiting

    run(story)


def test_many_who_wait_in_the_queue_are_looked_at_with_as_many_queries_as_two(
    room: EngineCapacity, django_assert_num_queries: Any
):
    jobs = [a_job() for _ in range(20)]
    with CaptureQueriesContext(connection) as two:
        look([job.pk for job in jobs[:2]])
    with django_assert_num_queries(len(two)):
        assert len(look([job.pk for job in jobs])) == 20


def test_a_hundred_who_wait_cost_no_thread_and_leave_nothing(job: Job, attempt: Attempt):
    async def story() -> None:
        await finished(exchange(path_of(job)))
        asked = [exchange(path_of(job, "?wait=60")) for _ in range(100)]
        tasks = [asyncio.ensure_future(finished(one)) for one in asked]
        await _watched(job, by=100)
        assert threading.active_count() <= before + asgi.THREADS
        await sync_to_async(end)(job)
        await asyncio.gather(*tasks)
        assert {one.document["status"] for one in asked} == {"failed"}
        assert _room()._taken == 0
        assert not _room().watcher._watched

    before = threading.active_count() + 2  # this test's own calls into the database
    run(story)


def test_who_goes_away_frees_his_place_at_once(job: Job, attempt: Attempt, settings: Any):
    settings.MAX_FOLLOWERS = 2

    async def story() -> None:
        first, second = exchange(path_of(job, "?wait=60")), exchange(path_of(job, "/logs?follow=1"))
        async with running(first), running(second):
            await _watched(job, by=2)
            refused = await finished(exchange(path_of(job, "?wait=60")))
            assert (refused.status, refused.document["code"]) == (503, "too_many_followers")
            assert refused.headers["retry-after"]
            plain = await finished(exchange(path_of(job)))
            assert plain.status == 200
        assert _room()._taken == 0
        async with running(exchange(path_of(job, "?wait=60"))):
            await _watched(job)

    run(story)


@pytest.mark.parametrize("rest", ["", "/logs", "/events", "/logs/", "?wait=5"])
@pytest.mark.parametrize("job_id", ["unknown", "a4b5cc1c-0000-4000-8000-000000000000"])
def test_an_unknown_job_is_named_as_the_contract_says(job_id: str, rest: str):
    answered = ask(f"/mlops/training/jobs/{job_id}{rest}")
    assert answered.status == 404
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.document["detail"] == f"Job {job_id} not found"


@pytest.mark.parametrize(
    ("rest", "name"),
    [
        ("?wait=soon", "wait"),
        ("?wait=-1", "wait"),
        ("?wait=", "wait"),
        ("/logs?offset=-1", "offset"),
        ("/logs?offset=99999999999999999999", "offset"),
        ("/logs?length=1.5", "length"),
        ("/logs?tail=all", "tail"),
        ("/logs?tail=5&offset=1", "tail"),
        ("/logs?attempt=x", "attempt"),
        ("/logs?part=middle", "part"),
        ("/logs?follow=perhaps", "follow"),
        ("/logs?follow=1&part=middle", "part"),
        ("/logs?download=2", "download"),
        ("/events?after=%C2%B2", "after"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(job: Job, rest: str, name: str):
    answered = ask(path_of(job, rest))
    assert answered.status == 400
    assert [error["field"] for error in answered.document["errors"]] == [name]


def test_an_error_that_nobody_foresaw_stays_anonymous(job: Job, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(following, "job_document", broken)
    answered = ask(path_of(job))
    assert (answered.status, answered.document["code"]) == (500, "internal_error")
    assert b"hunter2" not in answered.body


def test_a_database_that_does_not_answer_says_when_to_come_back(
    job: Job, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any, **__: Any) -> None:
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(following, "job_document", full)
    answered = ask(path_of(job))
    assert (answered.status, answered.document["code"]) == (503, "database_unavailable")
    assert answered.headers["retry-after"] == "5"


# -- the log as text ------------------------------------------------------------------------------
def test_the_log_is_text_with_what_is_needed_to_go_on(job: Job, attempt: Attempt):
    answered = ask(path_of(job, "/logs"))
    assert answered.body == b"line 1\nline 2\nline 3\n"
    assert answered.headers["content-type"] == "text/plain; charset=utf-8"
    assert answered.headers["x-content-type-options"] == "nosniff"
    told = {name: answered.headers[f"x-log-{name}"] for name in ("next-offset", "size", "dropped")}
    assert told == {"next-offset": "21", "size": "21", "dropped": "0"}
    assert ask(path_of(job, "/logs?offset=21")).body == b""
    part = ask(path_of(job, "/logs?offset=2&length=7"))
    assert (part.body, part.headers["x-log-next-offset"]) == (b"ne 1\nli", "9")
    assert ask(path_of(job, "/logs?tail=2")).body == b"line 2\nline 3\n"
    assert ask(path_of(job, "/logs?part=build")).body == b""
    download = ask(path_of(job, "/logs?download=1")).headers["content-disposition"]
    assert download == f'attachment; filename="job-{job.pk}.log"'


@pytest.mark.parametrize(
    ("told", "status", "body", "content_range"),
    [
        ("bytes=0-5", 206, b"line 1", "bytes 0-5/21"),
        ("bytes=14-", 206, b"line 3\n", "bytes 14-20/21"),
        ("bytes=-7", 206, b"line 3\n", "bytes 14-20/21"),
        ("bytes=-99", 206, b"line 1\nline 2\nline 3\n", "bytes 0-20/21"),
        ("bytes=14-99", 206, b"line 3\n", "bytes 14-20/21"),
        ("bytes=5-4", 200, b"line 1\nline 2\nline 3\n", None),
        ("bytes=0-1,3-4", 200, b"line 1\nline 2\nline 3\n", None),
        ("lines=0-1", 200, b"line 1\nline 2\nline 3\n", None),
        ("bytes=-", 200, b"line 1\nline 2\nline 3\n", None),
    ],
)
def test_a_range(
    job: Job, attempt: Attempt, told: str, status: int, body: bytes, content_range: str | None
):
    answered = ask(path_of(job, "/logs"), range=told)
    assert (answered.status, answered.body) == (status, body)
    assert answered.headers.get("content-range") == content_range
    if status == 206:
        assert answered.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("told", ["bytes=21-", "bytes=99-100", "bytes=-0"])
def test_a_range_behind_the_end_is_a_416(job: Job, attempt: Attempt, told: str):
    answered = ask(path_of(job, "/logs"), range=told)
    assert (answered.status, answered.headers["content-range"]) == (416, "bytes */21")
    assert answered.headers["content-type"] == "application/problem+json"


def test_of_a_log_that_was_cut_the_whole_is_sent(job: Job, attempt: Attempt):
    logs.append(attempt, LogChunk.Part.RUN, offset=121, data=b"the end\n")
    answered = ask(path_of(job, "/logs"), range="bytes=0-5")
    assert answered.status == 200
    assert answered.body.endswith(b"line 3\n\n[... 100 bytes cut ...]\nthe end\n")
    assert (answered.headers["x-log-dropped"], answered.headers["x-log-size"]) == ("100", "129")


def test_a_large_log_is_sent_in_pieces_only_as_it_is_taken(job: Job, attempt: Attempt):
    data = bytes(range(256)) * 256 * 40
    logs.append(attempt, LogChunk.Part.RUN, offset=21, data=data)

    async def story() -> None:
        asked = exchange(path_of(job, "/logs"))
        gate = asyncio.Semaphore(3)
        asked.is_read = lambda: _taken(gate)
        async with running(asked) as task:
            await asked.until(lambda asked: len(asked.sent) == 3)
            assert not task.done()
            largest = max(len(message.get("body", b"")) for message in asked.sent)
            assert largest <= asgi.TEXT_PIECE_CHUNKS * logs.CHUNK_BYTES
            for _ in range(100):
                gate.release()
            await asked.until(lambda asked: asked.complete)
        assert asked.body == b"line 1\nline 2\nline 3\n" + data

    run(story)


def test_who_takes_nothing_is_left(job: Job, attempt: Attempt, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asgi, "TAKE_SECONDS", 0.2)

    async def story() -> None:
        asked = exchange(path_of(job, "/logs?follow=1"))
        asked.is_read = lambda: asyncio.Event().wait()
        await finished(asked)
        assert _room()._taken == 0

    run(story)


# -- the log live ---------------------------------------------------------------------------------
def test_a_stream_tells_what_is_there_what_comes_and_the_end(job: Job, attempt: Attempt):
    async def story() -> None:
        asked = exchange(path_of(job, "/logs"), accept="text/event-stream")
        async with running(asked) as task:
            await asked.until(lambda asked: b"line 3" in asked.body)
            more = {"offset": 21, "data": b"line 4\n"}
            await sync_to_async(logs.append)(attempt, LogChunk.Part.RUN, **more)
            await asked.until(lambda asked: b"line 4" in asked.body)
            await sync_to_async(end)(job)
            await asked.until(lambda asked: asked.complete)
            await task
        assert asked.headers["content-type"] == "text/event-stream; charset=utf-8"
        kinds = [kind for _, kind, _ in asked.events()]
        assert kinds == ["state", "log", "log", "state", "end"]
        state, first, second, _, last = asked.events()
        assert state[2] == {"status": "running", "phase": "training", "reason": None}
        told = {"text": "line 4\n", "offset": 21, "part": "run", "attempt": 1, "dropped": 0}
        assert (first[0], second[0], second[2]) == ("21", "28", told)
        assert last[0] == "28-end"
        assert (last[2]["reason"], last[2]["error"]) == ("script_error", "no data")

    run(story)


def test_a_stream_goes_on_where_it_broke_off_and_stops_at_the_end(job: Job, attempt: Attempt):
    end(job)
    whole = ask(path_of(job, "/logs?follow=1&offset=3")).events()
    assert whole[0][2]["text"] == "e 1\nline 2\nline 3\n"
    resumed = ask(path_of(job, "/logs?follow=1&offset=3"), last_event_id="7").events()
    assert resumed[0][2]["text"] == "line 2\nline 3\n"
    assert [kind for _, kind, _ in resumed] == ["log", "state", "end"]
    again = ask(path_of(job, "/logs?follow=1"), last_event_id=whole[-1][0])
    assert (again.status, again.body) == (204, b"")
    assert ask(path_of(job, "/logs?follow=1"), last_event_id="nonsense").status == 200


def test_hostile_output_cannot_break_the_stream(job: Job, attempt: Attempt):
    logs.append(attempt, LogChunk.Part.RUN, offset=21, data=HOSTILE)
    end(job)
    asked = ask(path_of(job, "/logs?follow=1"))
    texts = [document["text"] for _, kind, document in asked.events() if kind == "log"]
    assert "".join(texts) == (b"line 1\nline 2\nline 3\n" + HOSTILE).decode(errors="replace")
    assert b"\r" not in asked.body
    assert b"\0" not in asked.body
    assert b"\x1b" not in asked.body
    assert asked.body.decode().splitlines() == asked.body.decode().split("\n")[:-1]


def test_a_character_that_comes_in_two_halves_is_told_once(job: Job, attempt: Attempt):
    async def story() -> None:
        asked = exchange(path_of(job, "/logs?follow=1"))
        snowman = "☃".encode()
        async with running(asked):
            await asked.until(lambda asked: b"line 3" in asked.body)
            for place in range(3):
                more = {"offset": 21 + place, "data": snowman[place : place + 1]}
                await sync_to_async(logs.append)(attempt, LogChunk.Part.RUN, **more)
                await _watched(job, seen=22 + place)
            await asked.until(lambda asked: snowman in asked.body)
        (event,) = [one for one in asked.events() if one[2].get("offset") == 21]
        assert (event[0], event[2]["text"]) == ("24", "☃")

    run(story)


def test_a_quiet_stream_says_that_it_lives_and_ends_when_it_is_old(
    job: Job, attempt: Attempt, monkeypatch: pytest.MonkeyPatch, settings: Any
):
    monkeypatch.setattr(asgi, "KEEP_ALIVE_SECONDS", 0.2)
    settings.FOLLOW_MAX_SECONDS = 1
    asked = ask(path_of(job, "/logs?follow=1"))
    assert asked.complete
    assert following.KEEP_ALIVE in asked.body
    assert "end" not in {kind for _, kind, _ in asked.events()}


def test_a_deleted_job_ends_its_streams(job: Job, attempt: Attempt):
    async def story() -> None:
        asked, waiting = (
            exchange(path_of(job, "/logs?follow=1")),
            exchange(path_of(job, "?wait=60")),
        )
        async with running(asked), running(waiting):
            await _watched(job, by=2)
            await sync_to_async(Job.objects.filter(pk=job.pk).delete)()
            await asked.until(lambda asked: asked.complete)
            await waiting.until(lambda asked: asked.complete)
            assert waiting.status == 404

    run(story)


def test_followers_at_the_same_place_share_one_reading(
    job: Job, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
):
    reads = []
    real = following.frames_after
    monkeypatch.setattr(following, "frames_after", lambda at: reads.append(at) or real(at))

    async def story() -> None:
        asked = [exchange(path_of(job, "/logs?follow=1")) for _ in range(30)]
        tasks = [asyncio.ensure_future(finished(one)) for one in asked]
        for one in asked:
            await one.until(lambda one: b"line 3" in one.body)
        before = len(reads)
        await sync_to_async(end)(job)
        await asyncio.gather(*tasks)
        assert len(reads) - before <= 5
        assert {one.body for one in asked} == {asked[0].body}

    run(story)


# -- the timeline ---------------------------------------------------------------------------------
def test_the_timeline_is_told_from_a_point_on(job: Job):
    for name in ("accepted", "claimed"):
        rows.record(job, name, "in words", actor="worker")
    document = ask(path_of(job, "/events")).document
    first, second = document["events"]
    assert (first["name"], second["name"], document["status"]) == ("accepted", "claimed", "queued")
    assert list(first) == [
        "id",
        "at",
        "name",
        "status",
        "phase",
        "attempt",
        "actor",
        "reason",
        "detail",
    ]
    rest = ask(path_of(job, f"/events?after={first['id']}")).document
    assert (rest["events"], rest["next_after"]) == ([second], second["id"])


def test_the_timeline_is_followed_to_the_end(job: Job, attempt: Attempt):
    rows.record(job, "accepted", actor="me")

    async def story() -> None:
        asked = exchange(path_of(job, "/events"), accept="text/event-stream")
        async with running(asked) as task:
            await asked.until(lambda asked: b"accepted" in asked.body)
            await sync_to_async(rows.record)(job, "claimed", actor="worker")
            await asked.until(lambda asked: b"claimed" in asked.body)
            await sync_to_async(end)(job)
            await asked.until(lambda asked: asked.complete)
            await task
        assert [kind for _, kind, _ in asked.events()] == ["event", "event", "end"]
        first, second, last = asked.events()
        assert last[0] == f"{second[0]}-end"
        resumed = await finished(exchange(path_of(job, "/events?follow=1"), last_event_id=first[0]))
        assert [event[0] for event in resumed.events()] == [second[0], last[0]]

    run(story)


# -- the other door -------------------------------------------------------------------------------
def test_djangos_own_views_give_the_same_bytes(job: Job, attempt: Attempt):
    rows.record(job, "accepted", actor="me")
    client = Client()
    for rest in ("", "/logs", "/events", "/logs?tail=1", "/logs?part=x", "/logs?offset=5&length=3"):
        raw, plain = ask(path_of(job, rest)), client.get(path_of(job, rest))
        body = b"".join(plain) if plain.streaming else plain.content
        assert (plain.status_code, body) == (raw.status, raw.body)
        assert plain["content-type"] == raw.headers["content-type"]
    known = client.get(path_of(job), headers={"if-none-match": 'W/"3-21"'})
    assert known.status_code == 304
    end(job)
    raw = ask(path_of(job, "/logs?follow=1"))
    plain = client.get(path_of(job, "/logs"), headers={"accept": "text/event-stream"})
    assert b"".join(plain) == raw.body


@pytest.mark.parametrize("rest", ["/logs", "/events"])
def test_other_methods_are_refused_in_the_usual_form(job: Job, rest: str):
    answer = Client().post(path_of(job, rest))
    assert answer.status_code == 405
    assert answer["content-type"] == "application/problem+json"
    assert not asgi.is_followed({"method": "POST", "path": path_of(job, rest)})


def _room() -> Any:
    return asgi._rooms[asyncio.get_running_loop()]


async def _taken(gate: asyncio.Semaphore) -> None:
    await gate.acquire()


async def _watched(job: Job, *, by: int = 1, seen: int = 0) -> None:
    """Until so many wait for the job, and it was looked at with so many bytes of output."""
    async with asyncio.timeout(PATIENCE):
        while True:
            room = asgi._rooms.get(asyncio.get_running_loop())
            watch = room and room.watcher._watched.get(job.pk)
            if watch and watch.watchers >= by and watch.latest and watch.latest.log_bytes >= seen:
                return
            await asyncio.sleep(0.01)

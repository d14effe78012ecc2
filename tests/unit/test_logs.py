"""The log's store: quota, overlap, gaps, offsets over attempts and parts, whatever is printed."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from training import logs
from training.logs import Choice, Intake, Piece, ResumeMark
from training.models import Attempt, Job, LogChunk

pytestmark = pytest.mark.django_db

RUN, BUILD = LogChunk.Part.RUN, LogChunk.Part.BUILD


def a_job() -> Job:
    return Job.objects.create(
        script_name="train.py",
        script="print(1)",
        experiment_name="e",
        model_name="m",
        timeout_seconds=60,
        memory_mb=512,
        cpus=1,
        created_at=timezone.now(),
    )


def an_attempt(job: Job, number: int = 1) -> Attempt:
    now = timezone.now()
    job.attempts.update(finished_at=now)
    return Attempt.objects.create(
        job=job, number=number, lease_owner="t", lease_expires_at=now, created_at=now
    )


@pytest.fixture
def job() -> Job:
    return a_job()


@pytest.fixture
def attempt(job: Job) -> Attempt:
    return an_attempt(job)


def raw(job: Job, **options: Any) -> bytes:
    return b"".join(piece.data for piece in logs.pieces_of(job, **options))


def test_what_two_writers_hand_in_is_stored_once(job: Job, attempt: Attempt):
    logs.append(attempt, RUN, offset=0, data=b"0123456789")
    logs.append(attempt, RUN, offset=5, data=b"56789abc")
    logs.append(attempt, RUN, offset=0, data=b"0123")
    attempt.refresh_from_db()
    assert raw(job) == b"0123456789abc"
    assert attempt.log_bytes == logs.size_of(job) == 13


def test_what_was_never_read_shows_as_a_cut(job: Job, attempt: Attempt):
    logs.append(attempt, RUN, offset=0, data=b"head\n")
    logs.append(attempt, RUN, offset=105, data=b"tail\n")
    assert [(piece.offset, piece.dropped) for piece in logs.pieces_of(job)] == [(0, 0), (105, 100)]
    assert logs.text_of(job) == "head\n\n[... 100 bytes cut ...]\ntail\n"
    assert logs.size_of(job) == 110
    assert logs.kept_between(job, start=0, end=110) == 10
    assert logs.length_between(job, start=0, end=110) == 110


def test_late_news_of_an_attempt_that_is_over_is_dropped(job: Job, attempt: Attempt):
    logs.append(attempt, RUN, offset=0, data=b"first\n")
    second = an_attempt(job, number=2)
    logs.append(second, RUN, offset=0, data=b"second\n")
    logs.append(attempt, RUN, offset=6, data=b"too late\n")
    assert raw(job) == b"first\nsecond\n"


def test_head_and_tail_stay_and_the_cut_is_counted(job: Job, attempt: Attempt, settings: Any):
    settings.JOB_LOG_MAX_BYTES = 4 * logs.CHUNK_BYTES
    printed = bytes(range(256)) * 256 * 40
    for start in range(0, len(printed), 100_000):
        logs.append(attempt, RUN, offset=start, data=printed[start : start + 100_000])
    pieces = list(logs.pieces_of(job))
    kept = sum(len(piece.data) for piece in pieces)
    assert kept <= settings.JOB_LOG_MAX_BYTES + 2 * logs.CHUNK_BYTES
    assert kept + sum(piece.dropped for piece in pieces) == len(printed) == logs.size_of(job)
    for piece in pieces:
        assert piece.data == printed[piece.offset : piece.end]
    assert pieces[0].offset == 0
    assert pieces[-1].end == len(printed)
    assert sum(piece.dropped > 0 for piece in pieces) == 1


def test_the_parts_of_all_attempts_are_one_stream(job: Job):
    for number in (1, 2):
        attempt = an_attempt(job, number)
        logs.append(attempt, BUILD, offset=0, data=f"build {number}\n".encode())
        logs.append(attempt, RUN, offset=0, data=f"run {number}\n".encode())
    whole = b"build 1\nrun 1\nbuild 2\nrun 2\n"
    assert raw(job) == whole
    for offset in range(len(whole) + 2):
        assert raw(job, offset=offset) == whole[offset:]
    assert raw(job, choice=Choice(attempt=2)) == b"build 2\nrun 2\n"
    assert raw(job, choice=Choice(part=BUILD)) == b"build 1\nbuild 2\n"
    (piece,) = logs.pieces_of(job, choice=Choice(attempt=2, part=RUN))
    assert (piece.offset, piece.attempt, piece.part) == (22, 2, "run")


@pytest.mark.parametrize(
    ("text", "lines", "tail"),
    [
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\n", 9, b"a\nb\n"),
        (b"a\n\n\n", 2, b"\n\n"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
        (b"no line end", 1, b"no line end"),
    ],
)
def test_a_tail_is_so_many_lines(job: Job, attempt: Attempt, text: bytes, lines: int, tail: bytes):
    for start in range(len(text)):
        logs.append(attempt, RUN, offset=start, data=text[start : start + 1])
    assert raw(job, offset=logs.offset_of_tail(job, lines=lines)) == tail


# -- characters -----------------------------------------------------------------------------------
hostile = st.one_of(
    st.text().map(str.encode),
    st.binary(),
    st.sampled_from([b"\xf0\x9f\x98\x80", b"\xe2\x80\xa8", b"\xff", b"\xc3", b"\r", b"\0"]),
)


@given(st.lists(hostile).map(b"".join), st.lists(st.integers(1, 7)))
def test_no_piece_ends_inside_a_character_and_no_byte_is_lost(data: bytes, cuts: list[int]):
    pieces = list(logs.whole_characters(_cut(data, cuts), final=True))
    assert b"".join(piece.data for piece in pieces) == data
    together = "".join(piece.data.decode(errors="replace") for piece in pieces)
    assert together == data.decode(errors="replace")
    for before, after in zip(pieces, pieces[1:], strict=False):
        assert before.end == after.offset


@given(st.text(), st.lists(st.integers(1, 7)))
def test_what_is_held_back_is_less_than_a_character(text: str, cuts: list[int]):
    data = text.encode()
    for end in range(len(data) + 1):
        pieces = list(logs.whole_characters(_cut(data[:end], cuts), final=False))
        told = b"".join(piece.data for piece in pieces)
        assert told.decode() == data[: len(told)].decode()
        assert end - len(told) < 4


def test_a_character_is_not_joined_across_a_cut_or_a_part():
    split = [Piece(0, b"a\xc3"), Piece(9, b"\xa9b", dropped=7), Piece(11, b"\xc3", part=BUILD)]
    told = list(logs.whole_characters(split, final=True))
    assert [piece.data for piece in told] == [b"a", b"\xc3", b"\xa9b", b"\xc3"]
    assert [piece.dropped for piece in told] == [0, 0, 7, 0]


def _cut(data: bytes, cuts: list[int]) -> Iterator[Piece]:
    start = 0
    for length in [*cuts, len(data) or 1]:
        if data[start : start + length]:
            yield Piece(start, data[start : start + length])
        start += length


# -- what was read and is not stored --------------------------------------------------------------
def test_an_intake_gives_back_what_it_got():
    intake = Intake(offset=7)
    intake.put(b"abc")
    intake.put(b"def")
    assert (intake.end, intake.waiting) == (13, 6)
    assert intake.take() == [(7, b"abcdef")]
    assert intake.take() == []
    intake.put(b"g")
    assert intake.take() == [(13, b"g")]


def test_a_flood_costs_no_more_than_the_bound_and_leaves_head_and_newest(settings: Any):
    settings.JOB_LOG_MAX_BYTES = 2 * 1024 * 1024
    intake = Intake(offset=0)
    block = bytes(range(256)) * 4096
    for _ in range(64):
        intake.put(block)
        assert intake.waiting <= settings.JOB_LOG_MAX_BYTES // 2 + logs.BUFFER_BYTES
    (start, head), (newest_at, newest) = intake.take()
    assert (start, len(head)) == (0, settings.JOB_LOG_MAX_BYTES // 2)
    assert (len(newest), newest_at + len(newest)) == (logs.BUFFER_BYTES, 64 * len(block))
    assert intake.end == 64 * len(block)


# -- going on where another one stopped ------------------------------------------------------------
def record(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


PRINTED = b"".join(f"line {number}\n".encode() for number in range(20_000))


def marked(end: int) -> ResumeMark:
    stored = PRINTED[:end]
    return ResumeMark(end, stored[: logs.MARK_BYTES], stored[-logs.MARK_BYTES :])


@pytest.mark.parametrize("end", [0, 1, 4096, 5000, 100_000, len(PRINTED)])
def test_a_whole_record_is_skipped_up_to_what_is_stored(end: int):
    assert marked(end).bytes_to_skip(lambda: record(PRINTED)) == end


@pytest.mark.parametrize("lost", [1, 50_000, 95_000])
def test_a_record_that_lost_its_beginning_is_taken_up_behind_the_stored_part(lost: int):
    kept = PRINTED[lost:]
    skip = marked(100_000).bytes_to_skip(lambda: record(kept))
    assert kept[skip:] == PRINTED[100_000:]


def test_a_record_that_no_longer_reaches_back_is_new_as_a_whole():
    assert marked(100_000).bytes_to_skip(lambda: record(PRINTED[120_000:])) == 0


def test_the_mark_comes_from_what_is_stored(attempt: Attempt):
    assert logs.resume_mark(attempt, RUN).end == 0
    logs.append(attempt, RUN, offset=0, data=PRINTED[:100_000])
    assert logs.resume_mark(attempt, RUN) == marked(100_000)


def test_a_buffered_log_stores_everything_once(job: Job, attempt: Attempt):
    output = logs.BufferedLog(attempt, BUILD, clock=iter(range(1000)).__next__)
    for number in range(50):
        output.write(f"step {number}\n".encode())
    output.flush()
    assert raw(job) == b"".join(f"step {number}\n".encode() for number in range(50))

"""The log's store: quota, overlap, gaps, offsets over attempts and parts, whatever is printed."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from sandbox.image.launcher import Excerpt
from training import logs
from training.logs import Choice, Intake, Piece
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


def test_the_moment_of_the_first_output_of_the_script_is_kept(job: Job, attempt: Attempt):
    logs.append(attempt, BUILD, offset=0, data=b"resolving\n")
    attempt.refresh_from_db()
    assert attempt.first_output_at is None, "what the build prints is not the script's"
    logs.append(attempt, RUN, offset=0, data=b"one\n")
    attempt.refresh_from_db()
    first = attempt.first_output_at
    assert first is not None
    logs.append(attempt, RUN, offset=4, data=b"two\n")
    attempt.refresh_from_db()
    assert attempt.first_output_at == first


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
    intake = Intake()
    intake.put(7, b"abc")
    intake.put(10, b"def")
    intake.put(100, b"ghi")
    intake.put(50, b"j")
    assert intake.end == 103
    assert intake.take() == [(7, b"abcdef"), (100, b"ghi"), (50, b"j")]
    assert intake.take() == []
    intake.put(103, b"k")
    assert intake.take() == [(103, b"k")]


def test_an_intake_is_bounded_and_still_counts(settings: Any):
    settings.JOB_LOG_MAX_BYTES = 1000
    intake = Intake()
    for number in range(100):
        intake.put(100 * number, bytes(100))
    assert intake.is_full
    assert intake.end == 10_000
    assert intake.take() == [(0, bytes(2000))]
    assert not intake.is_full


# -- samples, the tail that fills the gaps between them, and what was stored before ----------------
PRINTED = b"".join(f"line {number}\n".encode() for number in range(20_000))


def run_of(start: int, end: int) -> tuple[int, bytes]:
    return start, PRINTED[start:end]


def kept_of(job: Job) -> list[tuple[int, int]]:
    """The stretches that are kept; each byte stands where it was printed, and only once."""
    stretches: list[tuple[int, int]] = []
    for piece in logs.pieces_of(job):
        assert piece.data == PRINTED[piece.offset : piece.end]
        if stretches and stretches[-1][1] == piece.offset:
            stretches[-1] = (stretches[-1][0], piece.end)
        else:
            stretches.append((piece.offset, piece.end))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(stretches))
    return stretches


def test_a_tail_fills_the_gaps_between_the_samples_that_came_before_it(job: Job, attempt: Attempt):
    logs.append_runs(attempt, RUN, [run_of(0, 1000), run_of(3000, 3100), run_of(5000, 5100)])
    assert kept_of(job) == [(0, 1000), (3000, 3100), (5000, 5100)]
    logs.append_runs(attempt, RUN, [run_of(2000, 5200)])
    assert kept_of(job) == [(0, 1000), (2000, 5200)]
    assert attempt.log_chunks.count() == 2
    assert logs.size_of(job) == 5200
    # Whoever followed the samples goes on behind the last one.
    assert list(logs.pieces_of(job, offset=5100)) == [Piece(5100, PRINTED[5100:5200])]


def test_what_is_read_again_from_the_beginning_changes_nothing(
    job: Job, attempt: Attempt, settings: Any
):
    settings.JOB_LOG_MAX_BYTES = 20_000
    samples = [run_of(start, start + 500) for start in range(20_000, 120_000, 10_000)]
    record = [run_of(0, 10_000), *samples, run_of(140_000, 150_000)]
    logs.append_runs(attempt, RUN, record)
    rows = list(attempt.log_chunks.values_list("pk", "offset", "size"))
    logs.append_runs(attempt, RUN, record)
    assert list(attempt.log_chunks.values_list("pk", "offset", "size")) == rows
    assert kept_of(job) == [(0, 10_000), (140_000, 150_000)]
    attempt.refresh_from_db()
    assert attempt.log_bytes == logs.size_of(job) == 150_000


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 900)), max_size=12))
def test_whatever_runs_are_stored_each_byte_is_there_once_at_its_place(runs: list[tuple[int, int]]):
    job = a_job()
    attempt = an_attempt(job)
    wanted: set[int] = set()
    for start, size in runs:
        logs.append_runs(attempt, RUN, [run_of(start, start + size)])
        wanted |= set(range(start, start + size))
    kept = {place for start, end in kept_of(job) for place in range(start, end)}
    assert kept == wanted
    assert logs.size_of(job) == max(wanted, default=-1) + 1
    attempt.refresh_from_db()
    assert attempt.log_bytes == logs.size_of(job)


# Some chunks full, and one that still grows.
WRITES = 600


def test_many_small_writes_make_few_rows_and_a_reader_gets_each_byte_once(
    job: Job, attempt: Attempt
):
    read = b""
    for number in range(WRITES):
        line = f"epoch {number}: loss 0.5\n".encode()
        logs.append(attempt, RUN, offset=logs.stored_end(attempt, RUN), data=line)
        if number % 7 == 0:
            read += raw(job, offset=len(read))
    read += raw(job, offset=len(read))
    assert read == b"".join(f"epoch {number}: loss 0.5\n".encode() for number in range(WRITES))
    assert attempt.log_chunks.count() <= len(read) // logs.SMALL_CHUNK_BYTES + 1


def test_a_chunk_that_is_large_enough_is_never_written_again(attempt: Attempt):
    logs.append(attempt, RUN, offset=0, data=PRINTED[: logs.SMALL_CHUNK_BYTES])
    (first,) = attempt.log_chunks.all()
    logs.append(attempt, RUN, offset=first.size, data=b"more\n")
    assert attempt.log_chunks.filter(pk=first.pk, size=first.size).exists()
    assert attempt.log_chunks.count() == 2


class Records:
    """An engine that has the record of one container."""

    def __init__(self, record: bytes) -> None:
        self.record = record

    def recorded_logs(self, container_id: str) -> Iterator[bytes]:
        for start in range(0, len(self.record), 1000):
            yield self.record[start : start + 1000]


def test_the_rest_is_what_the_follower_did_not_store(job: Job, attempt: Attempt, settings: Any):
    settings.JOB_LOG_MAX_BYTES = 40_000
    excerpt = Excerpt(log_bytes=40_000, seconds=60)
    record = excerpt.take(PRINTED, now=0) + excerpt.tail()
    logs.append_runs(attempt, RUN, [run_of(0, 12_345)])
    for _ in range(2):
        assert logs.take_the_rest(attempt, Records(record))  # type: ignore[arg-type]
        assert kept_of(job) == [(0, 20_000), (len(PRINTED) - 20_000, len(PRINTED))]


@pytest.mark.parametrize("lost", [1, 5, 5000])
def test_what_the_engine_lost_at_the_end_is_known(job: Job, attempt: Attempt, lost: int):
    excerpt = Excerpt(log_bytes=1_000_000, seconds=60)
    record = excerpt.take(PRINTED, now=0) + excerpt.tail()
    assert not logs.take_the_rest(attempt, Records(record[:-lost]))  # type: ignore[arg-type]
    assert logs.take_the_rest(attempt, Records(record))  # type: ignore[arg-type]
    assert raw(job) == PRINTED


def test_a_record_that_no_launcher_bounds_is_taken_within_the_quota(
    job: Job, attempt: Attempt, settings: Any
):
    settings.JOB_LOG_MAX_BYTES = 2 * logs.CHUNK_BYTES
    logs.take_the_rest(attempt, Records(10 * PRINTED))  # type: ignore[arg-type]
    assert logs.size_of(job) == 10 * len(PRINTED)
    kept = sum(len(piece.data) for piece in logs.pieces_of(job))
    assert kept <= settings.JOB_LOG_MAX_BYTES + 2 * logs.CHUNK_BYTES


def test_a_buffered_log_stores_everything_once(job: Job, attempt: Attempt):
    output = logs.BufferedLog(attempt, BUILD, clock=iter(range(1000)).__next__)
    for number in range(50):
        output.write(f"step {number}\n".encode())
    output.flush()
    assert raw(job) == b"".join(f"step {number}\n".encode() for number in range(50))

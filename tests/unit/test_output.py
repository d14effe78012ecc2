"""What the launcher sends is read back with exact offsets, however the engine cuts its record."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.image.launcher import FRAME_BYTES, Excerpt
from sandbox.output import LINE_MAX_BYTES, printed, printed_bytes

LOG_BYTES = 64
# Pieces of an output, each with the seconds that pass before it.
pieces = st.lists(st.tuples(st.binary(max_size=80), st.sampled_from([0.0, 0.7, 5.0])), max_size=30)
cuts = st.lists(st.integers(1, 40), max_size=20)


def record_of(output: list[tuple[bytes, float]], *, log_bytes: int) -> bytes:
    """Everything that the launcher sends of an output."""
    excerpt = Excerpt(log_bytes=log_bytes, seconds=60)
    sent = bytearray()
    now = 0.0
    for data, seconds in output:
        now += seconds
        sent += excerpt.take(data, now=now)
    return bytes(sent + excerpt.tail())


def cut(record: bytes, lengths: list[int]) -> Iterator[bytes]:
    start = 0
    for length in [*lengths, len(record)]:
        yield record[start : start + length]
        start += length


@given(pieces, cuts)
def test_head_and_tail_come_back_at_their_offsets_and_nothing_else_is_claimed(output, lengths):
    whole = b"".join(data for data, _ in output)
    seen: set[int] = set()
    for offset, data in printed(cut(record_of(output, log_bytes=LOG_BYTES), lengths)):
        assert data == whole[offset : offset + len(data)]
        seen |= set(range(offset, offset + len(data)))
    half = LOG_BYTES // 2
    assert seen >= set(range(min(half, len(whole))))
    assert seen >= set(range(max(0, len(whole) - half), len(whole)))
    assert len(seen) <= LOG_BYTES + len(output)  # a sample has one byte at this quota


@given(pieces, st.integers(0, 5))
def test_a_quota_of_next_to_nothing_keeps_next_to_nothing(output, log_bytes):
    whole = b"".join(data for data, _ in output)
    for offset, data in printed([record_of(output, log_bytes=log_bytes)]):
        assert data == whole[offset : offset + len(data)]


@given(pieces, cuts)
def test_an_output_within_its_quota_comes_back_as_it_was(output, lengths):
    whole = b"".join(data for data, _ in output)
    record = record_of(output, log_bytes=2 * len(whole) + 2)
    assert b"".join(data for _, data in printed(cut(record, lengths))) == whole
    assert printed_bytes(cut(record, lengths)) == whole


@given(pieces)
def test_every_line_of_a_record_is_shorter_than_the_engine_splits_it(output):
    long = [(data * 1000, seconds) for data, seconds in output]
    record = record_of(long, log_bytes=400_000)
    assert all(len(line) < LINE_MAX_BYTES for line in record.split(b"\n"))


@given(pieces, cuts, st.integers(0, 200))
def test_a_record_that_breaks_off_is_right_as_far_as_it_goes(output, lengths, missing):
    whole = b"".join(data for data, _ in output)
    record = record_of(output, log_bytes=2 * len(whole) + 2)
    kept = record[: max(0, len(record) - missing)]
    assert whole.startswith(b"".join(data for _, data in printed(cut(kept, lengths))))


def test_an_hour_of_samples_has_a_quarter_of_the_quota():
    excerpt = Excerpt(log_bytes=1024 * 1024, seconds=3600)
    excerpt.take(bytes(512 * 1024), now=0)
    sampled = 0
    for second in range(3600):
        frames = excerpt.take(bytes(1000), now=second)
        sampled += sum(len(data) for _, data in printed([frames]))
    assert 200 * 1024 < sampled <= 256 * 1024


def test_a_sample_is_the_newest_and_is_due_after_a_while_without_output():
    excerpt = Excerpt(log_bytes=2 * FRAME_BYTES, seconds=4)
    excerpt.take(bytes(FRAME_BYTES), now=0)
    assert excerpt.sample_due(now=0) is None
    excerpt.take(b"x" * 9000, now=0)
    assert excerpt.sample_due(now=0) is None
    assert excerpt.take(b"x" * 9000 + b"words", now=0.5) == b""
    assert excerpt.sample_due(now=0.5) == 1.5
    ((offset, data),) = printed([excerpt.take(b"", now=2)])
    assert data == b"x" * (len(data) - 5) + b"words"
    assert 5 < len(data) < 3000
    assert offset + len(data) == FRAME_BYTES + 18005


def test_of_a_script_that_prints_slowly_all_has_left_half_a_second_later():
    excerpt = Excerpt(log_bytes=1024 * 1024, seconds=300)
    record = bytearray(excerpt.take(b"h" * 512 * 1024, now=0))
    wanted = b"h" * 512 * 1024
    for number in range(600):
        line = b"epoch %d: loss 0.123, accuracy 0.987\n" % number
        record += excerpt.take(line, now=number / 4)
        wanted += line
    record += excerpt.take(b"", now=151)
    assert printed_bytes([bytes(record)]) == wanted


def test_a_tail_that_was_sent_early_is_not_missing_later():
    excerpt = Excerpt(log_bytes=2 * FRAME_BYTES, seconds=60)
    record = bytearray(excerpt.take(bytes(10 * FRAME_BYTES) + b"early", now=0))
    record += excerpt.newest()
    assert printed_bytes([bytes(record)]).endswith(b"early")
    record += excerpt.take(b"late", now=0.1)
    assert printed_bytes([bytes(record + excerpt.tail())]).endswith(b"earlylate")


@pytest.mark.parametrize(
    "foreign",
    [
        b"Fatal Python error: no encodings",
        b"@12",
        b"@1234567890123456 aGk=",
        b"@5 a*k=",
        b"@5 aGk=aGk=",
        b"x" * 100_000,
        b"\n\n",
        b"\xff\0",
    ],
)
def test_what_is_no_frame_stands_where_it_came_and_moves_the_rest(foreign):
    runs = list(printed([b"@0 aGk=\n", foreign, b"\n@2 aGk=\n"]))
    assert b"".join(data for _, data in runs) == b"hi" + foreign + b"\n" + b"hi"
    ends = [offset + len(data) for offset, data in runs]
    assert [offset for offset, _ in runs] == [0, *ends[:-1]]

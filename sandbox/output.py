"""Reads what a job's launcher made of the script's output: bytes, each with its exact offset.

The other half is `sandbox/image/launcher.py`, which says why.
"""

import binascii
import re
from collections.abc import Iterable, Iterator

FRAME = re.compile(rb"@(\d{1,15}) ([A-Za-z0-9+/]*={0,2})")
# What a launcher that was killed may leave of one.
BEGUN = re.compile(rb"@\d{0,15} ?")
# A frame is less than 16 KiB long.
# What the launcher of a waiting container says of itself.
MARK = re.compile(rb"!(?:ready|began (\d+\.\d+))")
LINE_MAX_BYTES = 16 * 1024

Run = tuple[int, bytes]


def printed(record: Iterable[bytes]) -> Iterator[Run]:
    """What a job's script printed, from the engine's record of its container.

    `record` is read from its first byte on, in pieces of any size. Gives runs of bytes, each with
    the offset of its first: where something was cut the next run begins further on, and a run may
    repeat bytes that came before. A last run without bytes is the launcher's word that nothing is
    missing at the end. What is no frame, such as the last words of a Python that could
    not start, stands where it came, and moves what follows.
    """
    reader = _Reader()
    held = b""
    for data in record:
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            if not MARK.fullmatch(line):
                yield reader.run_of(line, end=b"\n")
        if len(held) > LINE_MAX_BYTES:
            yield reader.foreign(held)
            held = b""
    if held and not BEGUN.fullmatch(held):
        yield reader.run_of(held)


def began_at(record: Iterable[bytes]) -> float | None:
    """When the launcher of a waiting container took its order, in seconds since 1970, by its mark.

    None when it has none yet: no script of it has begun. Read as far as the mark, or the first
    frame, which comes after it.
    """
    held = b""
    for data in record:
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            found = MARK.fullmatch(line)
            if found is not None and found[1] is not None:
                return float(found[1])
            if FRAME.fullmatch(line):
                return None
    return None


def printed_bytes(record: Iterable[bytes]) -> bytes:
    """The same joined, without a mark where something was cut."""
    kept = bytearray()
    until = 0
    for offset, data in printed(record):
        kept += data[max(0, until - offset) :]
        until = max(until, offset + len(data))
    return bytes(kept)


class _Reader:
    """`_moved` counts the bytes that no launcher knows of."""

    def __init__(self) -> None:
        self._end = 0
        self._moved = 0

    def run_of(self, line: bytes, *, end: bytes = b"") -> Run:
        found = FRAME.fullmatch(line)
        data = _decoded(found[2]) if found else None
        if found is None or data is None:
            return self.foreign(line + end)
        offset = int(found[1]) + self._moved
        self._end = max(self._end, offset + len(data))
        return offset, data

    def foreign(self, data: bytes) -> Run:
        offset = self._end
        self._end += len(data)
        self._moved += len(data)
        return offset, data


def _decoded(text: bytes) -> bytes | None:
    """A frame that was cut off, since its launcher was killed, has less; None when it is none."""
    try:
        return binascii.a2b_base64(text[: len(text) // 4 * 4], strict_mode=True)
    except binascii.Error:
        return None

"""The first process of a job container: runs the script once, relays what it prints, reaps.

It runs on the script's own Python and uses the standard library only. The script is a child in its
own process group, never process 1 itself: signals that process 1 sends itself are ignored.

Exit codes: the script's own; 124 when its time was over; 160 + n when signal n ended it; 225 when
this process itself was asked to end; 226 when the script printed more than it may; 227 when no
order came, so that no script ran. Not 128 + n: 137 has to mean that the container was killed.

Output and errors of the script come through one pipe, and leave as frames, which
`sandbox/output.py` reads: a line `@<offset> <base64>` each. In them any byte survives the engine's
record, which holds text and splits long lines; a flood of short lines costs no more than one of
long ones; and a script can write no frame itself. The head of the output leaves at once, what
comes behind it in samples, whole as long as it is little, and the tail when the script is asked to
end and when it has ended; a frame without bytes says that nothing more comes, and is missing when
the engine lost something.

The script is started before this is imported (`script_start.py`): every module that is imported
there is a part of a millisecond of each job's start.
"""

import binascii
import contextlib
import fcntl
import math
import os
import select
import signal
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Iterator

from script_start import (
    ASKED_TO_END_EXIT_CODE,
    DEADLINE_EXIT_CODE,
    LOG_QUOTA_EXIT_CODE,
    PRINTED_TOO_MUCH,
    SIGNAL_EXIT_BASE,
    WATCHED,
    Started,
    is_from_outside,
)

# As base64 it stays below the 16 KiB at which the engine splits a line.
FRAME_BYTES = 12_000
# More than the usual 64 KiB, so that a script seldom waits for the pause below; a user's pipes may
# have 64 MiB together (`pipe-user-pages-soft`).
PIPE_BYTES = 256 * 1024
# Behind a smaller read comes a pause: at most 50 frames a second, and no first line is late.
FLOOD_BYTES = 8 * 1024
PAUSE_SECONDS = 0.02
# Python without a buffer writes the end of a line by itself, just behind the line.
LINE_SECONDS = 0.001
# Between samples that leave something out, and between those that do not.
SAMPLE_SECONDS = 2.0
WHOLE_SAMPLE_SECONDS = 0.5
# All samples together, as a part of the quota.
SAMPLES_SHARE = 4
# What of them need not wait for its time, and what a sample may take of what is left.
BURST_SHARE = 4
SAMPLE_SHARE = 4


class Excerpt:
    """What of an output leaves, as frames: its head, samples of its middle, its tail."""

    def __init__(self, *, log_bytes: int, seconds: float) -> None:
        self._head_bytes = self._tail_bytes = log_bytes // 2
        self._samples = _Allowance(log_bytes // SAMPLES_SHARE, seconds=seconds)
        self._sampled_until = self._head_bytes
        self._sample_at = -math.inf
        # The newest bytes behind the head.
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self.printed = 0

    def take(self, data: bytes, *, now: float) -> bytes:
        """The frames that are due; without data too a sample may be."""
        start = self.printed
        room = max(0, self._head_bytes - start)
        self.printed += len(data)
        self._keep(data[room:])
        return _frames(start, data[:room]) + self._sample(now)

    def sample_due(self, *, now: float) -> float | None:
        """In how many seconds; None when all was seen."""
        if self.printed <= self._sampled_until:
            return None
        return max(0.0, self._sample_at - now)

    def newest(self) -> bytes:
        """The newest bytes behind the head, sampled or not."""
        self._sampled_until = max(self._sampled_until, self.printed)
        size = min(self._tail_bytes, self._kept_bytes)
        return _frames(self.printed - size, self._newest(size))

    def tail(self) -> bytes:
        """The same, and the frame that ends all."""
        return self.newest() + b"@%d \n" % self.printed

    def _sample(self, now: float) -> bytes:
        """What nobody has seen yet, or the newest of it, when it is time."""
        if self.sample_due(now=now) != 0:
            return b""
        unseen = self.printed - self._sampled_until
        size = min(unseen, self._kept_bytes, self._samples.take(unseen, now=now))
        self._sampled_until = self.printed
        self._sample_at = now + (WHOLE_SAMPLE_SECONDS if size == unseen else SAMPLE_SECONDS)
        return _frames(self.printed - size, self._newest(size))

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        while self._kept and self._kept_bytes - len(self._kept[0]) >= self._tail_bytes:
            self._kept_bytes -= len(self._kept.popleft())

    def _newest(self, size: int) -> bytes:
        found: list[bytes] = []
        for data in reversed(self._kept):
            if size <= 0:
                break
            found.append(data[-size:])
            size -= len(data)
        return b"".join(reversed(found))


class _Allowance:
    """How many bytes may leave by now, of so many in so many seconds."""

    def __init__(self, total: int, *, seconds: float) -> None:
        self._total = total
        self._burst = total / BURST_SHARE
        self._per_second = (total - self._burst) / max(seconds, 1.0)
        self._began_at: float | None = None
        self._taken = 0

    def take(self, wanted: int, *, now: float) -> int:
        """At least one byte: each sample also tells how much was printed."""
        if self._began_at is None:
            self._began_at = now
        earned = self._burst + self._per_second * (now - self._began_at) - self._taken
        size = max(1, min(wanted, self._total - self._taken, int(earned / SAMPLE_SHARE)))
        self._taken += size
        return size


class Relay:
    """Passes on what the script prints, in a thread of its own.

    It may wait for the engine as long as it has to: then nothing is read, and the script waits too.
    """

    def __init__(self, excerpt: Excerpt, *, source: int, sink: int, hard_bytes: int) -> None:
        self._excerpt = excerpt
        self._sink = sink
        os.set_blocking(sink, True)
        self._hard_bytes = hard_bytes
        self._over, self._over_of_script = os.pipe()
        self._tail_wanted = False
        self._source = source
        os.set_blocking(self._source, False)
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(self._source, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._waits_for_signals = threading.get_ident()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def printed_too_much(self) -> bool:
        return self._excerpt.printed > self._hard_bytes

    def start(self) -> None:
        self._thread.start()

    def finish(self, *, timeout_seconds: float) -> None:
        """The script has ended: what is in the pipe, the tail, and no more."""
        os.close(self._over_of_script)
        self._thread.join(timeout_seconds)

    def send_tail(self) -> None:
        """At once: whoever asks the script to end may kill the container before it has ended."""
        os.write(self._over_of_script, b"!")

    def _run(self) -> None:
        try:
            for data in self._read():
                self._pass_on(data)
            self._send(self._excerpt.tail())
        except BrokenPipeError:
            return  # nobody reads what we write
        finally:
            os.close(self._source)  # from here on the script has a broken pipe of its own

    def _read(self) -> Iterator[bytes]:
        """What is printed, as it comes; at the script's end what is in the pipe at that moment.

        Children that hold the pipe may print for ever, and the script itself may read it empty.
        Empty bytes when a sample is due and nothing is printed.
        """
        is_flood = False
        while not self._is_over(0):
            due = 0.0 if self._tail_wanted else self._excerpt.sample_due(now=time.monotonic())
            ready, _, _ = select.select([self._source, self._over], [], [], due)
            if self._source not in ready:
                yield b""
                continue
            if not is_flood:
                self._is_over(LINE_SECONDS)
            data = self._read_now(PIPE_BYTES)
            if data == b"":
                return
            yield data or b""
            is_flood = data is not None and len(data) >= FLOOD_BYTES
            if not is_flood:
                self._is_over(PAUSE_SECONDS)
        yield self._read_now(self._waiting_bytes()) or b""

    def _is_over(self, timeout_seconds: float) -> bool:
        if not select.select([self._over], [], [], timeout_seconds)[0]:
            return False
        word = os.read(self._over, 1)
        self._tail_wanted = self._tail_wanted or bool(word)
        return not word

    def _waiting_bytes(self) -> int:
        told = fcntl.ioctl(self._source, termios.FIONREAD, bytes(4))
        return int.from_bytes(told, sys.byteorder)

    def _read_now(self, size: int) -> bytes | None:
        """Empty at the end; None when there is nothing."""
        try:
            return os.read(self._source, size)
        except BlockingIOError:
            return None

    def _pass_on(self, data: bytes) -> None:
        was_too_much = self.printed_too_much
        self._send(self._excerpt.take(data, now=time.monotonic()))
        if self._tail_wanted:
            self._tail_wanted = False
            self._send(self._excerpt.newest())
        if self.printed_too_much and not was_too_much:
            signal.pthread_kill(self._waits_for_signals, PRINTED_TOO_MUCH)

    def _send(self, frames: bytes) -> None:
        rest = memoryview(frames)
        while rest:
            rest = rest[os.write(self._sink, rest) :]


class Script:
    """The running script, its process group and the moment when its time is over."""

    def __init__(
        self,
        pid: int,
        *,
        relay: Relay,
        seconds: float,
        grace_seconds: float,
    ) -> None:
        self._pid = pid
        self._end_at = time.monotonic() + seconds
        self._grace_seconds = grace_seconds
        self._ended_by_us: int | None = None
        self._relay = relay
        relay.start()

    def wait(self) -> int:
        """Waits for the script, its deadline, or somebody who asks for the end. The exit code."""
        code = self._wait()
        time_left = self._end_at - time.monotonic()
        self._relay.finish(timeout_seconds=max(time_left, self._grace_seconds))
        return code if self._ended_by_us is None else self._ended_by_us

    def _wait(self) -> int:
        while True:
            news = signal.sigtimedwait(WATCHED, max(0.0, self._end_at - time.monotonic()))
            if news is None:
                self._time_is_over()
            elif news.si_signo == signal.SIGCHLD:
                code = self._reap()
                if code is not None:
                    return code
            elif news.si_signo == PRINTED_TOO_MUCH:
                # The script can send this signal as well.
                if self._relay.printed_too_much:
                    self._end(LOG_QUOTA_EXIT_CODE)
            elif is_from_outside(news):
                self._end(ASKED_TO_END_EXIT_CODE)

    def _time_is_over(self) -> None:
        if self._ended_by_us is None:
            self._end(DEADLINE_EXIT_CODE)
            return
        self._signal(signal.SIGKILL)
        self._end_at = time.monotonic() + self._grace_seconds

    def _end(self, exit_code: int) -> None:
        """Asks the script to end and leaves it the grace, once."""
        if self._ended_by_us is not None:
            return
        self._ended_by_us = exit_code
        self._relay.send_tail()
        self._signal(signal.SIGTERM)
        # A script that stopped itself acts on nothing but SIGKILL and this.
        self._signal(signal.SIGCONT)
        self._end_at = time.monotonic() + self._grace_seconds

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            return

    def _reap(self) -> int | None:
        """Takes in every child that has ended; the exit code when the script is among them."""
        code = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if pid == 0:
                return code
            if pid == self._pid:
                ended = os.waitstatus_to_exitcode(status)
                code = SIGNAL_EXIT_BASE - ended if ended < 0 else ended


def _frames(offset: int, data: bytes) -> bytes:
    starts = range(0, len(data), FRAME_BYTES)
    return b"".join(
        b"@%d %b" % (offset + start, binascii.b2a_base64(data[start : start + FRAME_BYTES]))
        for start in starts
    )


def watch(started: Started) -> int:
    """Looks after a script that runs until it has ended; the exit code."""
    given = started.given
    seconds = float(given["--deadline-seconds"])
    relay = Relay(
        Excerpt(log_bytes=int(given["--log-bytes"]), seconds=seconds),
        source=started.output,
        sink=sys.stdout.fileno(),
        hard_bytes=int(given["--log-hard-bytes"]),
    )
    grace = float(given["--grace-seconds"])
    return Script(started.pid, relay=relay, seconds=seconds, grace_seconds=grace).wait()

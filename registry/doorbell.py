"""Wakes a process of this host that waits for work, instead of at its next look.

A bell carries nothing: who hears it looks at the rows. So a lost ring costs the wait until the next
look, and one too many costs a look; nothing is decided by it, and anybody on the host may ring.
"""

import contextlib
import select
import socket
import threading
from types import TracebackType

from django.conf import settings
from django.db import transaction

# So many looks a second a bell that never stops can cause.
PAUSE_SECONDS = 0.02
RETRY_SECONDS = 1.0


class Doorbell:
    """Known by its name within the installation; one process at a time listens."""

    def __init__(self, name: str) -> None:
        # Linux' abstract names: no file to own or to leave behind, and gone with the listener.
        self.address = f"\0mlops/{settings.INSTALLATION_ID}/{name}"

    def ring(self) -> None:
        """Never waits and never fails: where nobody listens, nobody is woken."""
        with contextlib.suppress(OSError), _socket() as sender:
            sender.sendto(b"!", self.address)

    def ring_on_commit(self) -> None:
        """After what was written can be seen; at once outside a transaction."""
        transaction.on_commit(self.ring)


class Listener:
    """Hears one bell. Raises OSError when somebody else listens already."""

    def __init__(self, bell: Doorbell) -> None:
        self._socket = _socket()
        try:
            self._socket.bind(bell.address)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> "Listener":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self, seconds: float) -> bool:
        """Whether it rang before the time was over; rings that came together are one."""
        ready, _, _ = select.select([self._socket], [], [], seconds)
        if not ready:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        return True

    def fileno(self) -> int:
        """For an event loop, which watches it itself."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


def wake_on_ring(bell: Doorbell, wake: threading.Event, *, stopping: threading.Event) -> None:
    """Sets `wake` at every ring, until `stopping` is set; from a thread, returned at once.

    While somebody else listens it tries again: who listened last may not be quite gone.
    """

    def listen() -> None:
        while not stopping.is_set():
            try:
                with Listener(bell) as listener:
                    _pass_on(listener, wake, stopping)
            except OSError:
                stopping.wait(RETRY_SECONDS)

    threading.Thread(target=listen, name="doorbell", daemon=True).start()


def _pass_on(listener: Listener, wake: threading.Event, stopping: threading.Event) -> None:
    while not stopping.is_set():
        if listener.wait(RETRY_SECONDS):
            wake.set()
            stopping.wait(PAUSE_SECONDS)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


SUPERVISOR_BELL = Doorbell("supervisor")
QUEUE_BELL = Doorbell("queue")
GATEWAY_BELL = Doorbell("gateway")

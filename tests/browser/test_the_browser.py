"""The browser that the console is looked at in is not disturbed by what else the machine does."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from playwright.sync_api import Browser

from deploy.browser import window

BRIDGE = f"mlops{os.getpid()}"
ADDRESS = "192.0.2.1/32"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
# Of connections that nobody has accepted the kernel keeps one more than it is told.
KEPT = 0


def test_a_connection_that_is_being_made_outlives_a_change_of_the_machines_networks(
    chromium: Browser,
):
    with socket.create_server(("127.0.0.1", 0), backlog=KEPT) as server, ExitStack() as held:
        page = held.enter_context(window(chromium)).new_page()
        with answering(server):
            page.goto(f"http://127.0.0.1:{server.getsockname()[1]}/")
        held.enter_context(socket.create_connection(server.getsockname()))
        page.evaluate("void (window.answer = fetch('/again').then((got) => got.text()))")
        change_networks()
        with answering(server):
            assert page.evaluate("window.answer") == "hi"


@contextmanager
def answering(server: socket.socket) -> Iterator[None]:
    """Everybody who connects meanwhile, and who waits already."""
    ended = threading.Event()
    server.settimeout(0.05)

    def answer() -> None:
        while not ended.is_set():
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            with client:
                client.settimeout(0.5)
                try:
                    client.recv(4096)
                except TimeoutError:
                    continue
                client.sendall(PAGE)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def change_networks() -> None:
    """As when a container comes and goes."""
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", ADDRESS, "dev", BRIDGE], check=True)
        subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
    finally:
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True)

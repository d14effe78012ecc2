"""A model that does not come back: who waits is told, also where the loop itself made the call."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sandbox.image.served_ends import Exit

IMAGE = Path(__file__).parents[2] / "sandbox" / "image"
# So many short calls, and the queue believes that the next is short as well.
SHORT_CALLS = 12
SERVER = f"""
import asyncio, sys, threading
sys.path.append({str(IMAGE)!r})
from concurrent.futures import ThreadPoolExecutor
import uvloop
from served_http import Connection, Reply
from served_queue import Queue

class Desk:
    def answer(self, bodies, queued):
        if b"hang" in bodies:
            threading.Event().wait()
        return [Reply(200, b"{{}}") for _ in bodies]

async def main():
    queue = Queue(Desk(), ThreadPoolExecutor(1), otherwise=print, call_seconds=0.5)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(queue.put), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("short_calls", [0, SHORT_CALLS])
def test_a_call_that_hangs_is_answered_before_the_server_ends(
    server: subprocess.Popen[str], short_calls: int
) -> None:
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}/predict"
    with requests.Session() as session:
        for _ in range(short_calls):
            assert session.post(url, data=b"quick", timeout=30).status_code == 200
        answer = session.post(url, data=b"hang", timeout=30)
    assert answer.status_code == 504
    assert json.loads(answer.content)["code"] == "model_timeout"
    assert server.wait(timeout=30) == Exit.HUNG

"""The helper against servers of every age: streams that break off, and none at all."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

HELPER = str(Path(__file__).parents[2] / "examples" / "upload_training_script.py")
JOB = {
    "job_id": "j1",
    "status": "failed",
    "phase": "ended",
    "logs": "line 1\nline 2\n",
    "error": "ValueError: no data",
    "hint": "Look at the data.",
    "model_name": "m",
    "duration_seconds": 1.5,
}
STATE = b'event: state\ndata: {"status":"running","phase":"training","reason":null}\n\n'
FIRST = b'id: 7\nevent: log\ndata: {"text":"line 1\\n","offset":0,"dropped":0}\n\n: still here\n\n'
BROKEN = b'id: 14\nevent: log\ndata: {"text":"li'
SECOND = b'id: 14\nevent: log\ndata: {"text":"line 2\\n","offset":7,"dropped":0}\n\n'
END = b'id: 14-end\nevent: end\ndata: {"status":"failed"}\n\n'


class Server:
    """What a platform answers to the helper, and what it was asked."""

    def __init__(self, *, streams: bool) -> None:
        self.streams = streams
        self.asked: list[tuple[str, str]] = []
        self.resumed_from: list[str | None] = []
        self.jobs = [{**JOB, "status": "running", "phase": "training", "logs": "line 1\n"}, JOB]
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                server.asked.append(("POST", self.path))
                self._answer(202, JOB)

            def do_GET(self) -> None:
                server.asked.append(("GET", self.path))
                if not self.path.endswith("/logs"):
                    jobs = server.jobs
                    last = server.streams or len(jobs) == 1
                    self._answer(200, JOB if last else jobs.pop(0))
                elif server.streams:
                    self._stream()
                else:
                    self._answer(404, {"detail": "There is nothing here."})

            def _answer(self, status: int, document: Any) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self) -> None:
                server.resumed_from.append(self.headers.get("last-event-id"))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream; charset=utf-8")
                self.end_headers()
                first = len(server.resumed_from) == 1
                self.wfile.write(STATE + FIRST + BROKEN if first else STATE + SECOND + END)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(params=[True, False], ids=["streams", "older"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server(streams=request.param)
    yield made
    made.close()


def test_it_prints_every_line_once_and_how_the_job_ended(server: Server, tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text("print(1)\n")
    command = [sys.executable, HELPER, "--url", server.url, "--script", str(script)]
    command += ["--experiment", "e", "--model", "m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("[training]\n") == 1
    assert done.stdout.endswith("[training]\nline 1\nline 2\n")
    assert "Failed in 1.5 s: ValueError: no data" in done.stderr
    assert "Look at the data." in done.stderr
    if server.streams:
        assert server.resumed_from == [None, "7"]
        assert server.asked.count(("GET", "/mlops/training/jobs/j1")) == 1

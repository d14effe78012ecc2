"""Following jobs on the whole platform: live, by byte, by hundreds, and through kills."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from deploy.accounts import CHECKOUT
from deploy.trial import Platform, wait_for

WAITERS = 100
HELPER = str(CHECKOUT / "examples" / "upload_training_script.py")
WAITS = "import threading\nprint('up', flush=True)\nthreading.Event().wait()\n"
TALKS = (
    "import time\n"
    "for number in range({lines}):\n"
    "    print('line', number, '☃' * (number % 7), flush=True)\n"
    "    time.sleep({pause})\n"
    "raise RuntimeError('the end')\n"
)


FLOODS = (
    "import sys, time\n"
    "print('the first words')\n"
    "block = b'%s\\n' % (b'0123456789' * 10) * 10000\n"
    "until, blocks = time.monotonic() + 10, 0\n"
    # Below the hard bound: some 500 MB in all.
    "while time.monotonic() < until and blocks < 500:\n"
    "    sys.stdout.buffer.write(block)\n"
    "    blocks += 1\n"
    "    time.sleep(0.02)\n"
    "print('the last words behind', blocks * len(block))\n"
    "raise SystemExit(3)\n"
)


def said_by(lines: int) -> str:
    return "".join(f"line {number} {'☃' * (number % 7)}\n" for number in range(lines))


class Stream:
    """A live log, read by a thread as a browser would."""

    def __init__(self, platform: Platform, job_id: str, *, last_id: str = "") -> None:
        self.events: list[tuple[str, str, Any]] = []
        self.broke_off = False
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last_id}
        self._answer = requests.get(
            f"{platform.url}/mlops/training/jobs/{job_id}/logs",
            headers={name: value for name, value in headers.items() if value},
            stream=True,
            timeout=60,
        )
        assert self._answer.status_code == 200, self._answer.text
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        return "".join(document["text"] for _, kind, document in self.events if kind == "log")

    @property
    def last_id(self) -> str:
        ids = [event_id for event_id, _, _ in self.events if event_id]
        return ids[-1] if ids else ""

    @property
    def end(self) -> dict[str, Any] | None:
        return next((document for _, kind, document in self.events if kind == "end"), None)

    def drop(self) -> None:
        """The client goes away in the middle."""
        self._answer.close()

    def _read(self) -> None:
        waiting = b""
        try:
            for data in self._answer.iter_content(chunk_size=None):
                *blocks, waiting = (waiting + data).split(b"\n\n")
                self.events += [event for block in blocks for event in _events(block)]
        except (requests.RequestException, AttributeError, ValueError):
            self.broke_off = True


def _events(block: bytes) -> list[tuple[str, str, Any]]:
    """At most one; a comment and a `retry` are none."""
    fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
    if "data" not in fields:
        return []
    return [(fields.get("id", ""), fields["event"], json.loads(fields["data"]))]


@pytest.fixture
def waiting_job(platform: Platform) -> Iterator[str]:
    job_id = platform.upload(WAITS)
    platform.in_phase(job_id, "training")
    yield job_id
    platform.post(f"/mlops/training/jobs/{job_id}/cancel", None)
    platform.ended(job_id)


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def open_connections(platform: Platform) -> int:
    """How many clients the web process holds, as the kernel sees it."""
    port = f":{int(platform.url.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(port) and line[3] == "01" for line in lines)


def test_a_hundred_who_wait_cost_no_thread_and_all_are_told(platform: Platform, waiting_job: str):
    url = f"{platform.url.replace('localhost', '127.0.0.1')}/mlops/training/jobs/{waiting_job}"
    web = platform.processes()["web"]
    # Every thread that plain requests and one wait make is there before we count.
    for _ in range(20):
        platform.get("/mlops/models")
    requests.get(f"{url}?wait=1", timeout=30)
    before = threads_of(web)
    answers: list[dict[str, Any]] = []

    def wait() -> None:
        answers.append(requests.get(url, headers={"Prefer": "wait=60"}, timeout=90).json())

    waiters = [threading.Thread(target=wait, daemon=True) for _ in range(WAITERS)]
    for waiter in waiters:
        waiter.start()
    wait_for(lambda: open_connections(platform) >= WAITERS, seconds=30, what="the waiters")
    assert platform.get("/mlops/ready").status_code == 200
    # The database threads of the handler, which are four whatever waits, may be made only now.
    assert threads_of(web) <= before + 4
    assert not answers
    platform.post(f"/mlops/training/jobs/{waiting_job}/cancel", None)
    wait_for(lambda: len(answers) == WAITERS, seconds=60, what="an answer to each")
    assert threads_of(web) <= before + 4


def test_output_arrives_while_the_job_runs_and_the_stream_ends_with_it(platform: Platform):
    job_id = platform.upload(TALKS.format(lines=8, pause=1))
    stream = Stream(platform, job_id)
    # The script is far from its end when its first words are here.
    wait_for(lambda: "line 0" in stream.text, seconds=60, what="the first line")
    assert "line 6" not in stream.text
    assert platform.job(job_id)["status"] == "running"
    end = wait_for(lambda: stream.end, seconds=60, what="the end of the stream")
    assert (end["status"], end["reason"]) == ("failed", "script_error")
    assert end["error"] == "RuntimeError: the end"
    assert stream.text == platform.job(job_id)["logs"]
    phases = [document["phase"] for _, kind, document in stream.events if kind == "state"]
    assert phases[-2:] == ["training", "ended"]


def test_a_client_that_comes_back_has_every_byte_once(platform: Platform):
    job_id = platform.upload(TALKS.format(lines=100, pause=0.1))
    texts, last_id = [], ""
    for wanted in ("line 5", "line 15", "line 30"):
        stream = Stream(platform, job_id, last_id=last_id)
        # On a machine that halts, the stream before may have had this line too.
        had = "".join(texts)
        wait_for(lambda s=stream, w=wanted, h=had: w in h + s.text, seconds=60, what=wanted)
        stream.drop()
        events = list(stream.events)
        texts += [document["text"] for _, kind, document in events if kind == "log"]
        last_id = next((event_id for event_id, _, _ in reversed(events) if event_id), last_id)
    stream = Stream(platform, job_id, last_id=last_id)
    wait_for(lambda: stream.end, seconds=60, what="the end")
    whole = "".join(texts) + stream.text
    assert whole == platform.job(job_id)["logs"]
    assert said_by(100) in whole


def test_a_supervisor_killed_in_mid_stream_loses_no_byte(platform: Platform):
    job_id = platform.upload(TALKS.format(lines=60, pause=0.1))
    stream = Stream(platform, job_id)
    for wanted in ("line 5", "line 25"):
        wait_for(lambda w=wanted: w in stream.text, seconds=60, what=wanted)
        supervisor = platform.processes()["supervisor"]
        os.kill(supervisor, signal.SIGKILL)
        wait_for(
            lambda old=supervisor: platform.processes().get("supervisor", old) != old,
            seconds=30,
            what="a new supervisor",
        )
    wait_for(lambda: stream.end, seconds=120, what="the end")
    assert stream.text == platform.job(job_id)["logs"]
    assert said_by(60) in stream.text


def test_a_web_process_killed_in_mid_stream_is_found_again(platform: Platform):
    job_id = platform.upload(TALKS.format(lines=60, pause=0.1))
    first = Stream(platform, job_id)
    wait_for(lambda: "line 5" in first.text, seconds=60, what="output")
    os.kill(platform.processes()["web"], signal.SIGKILL)
    wait_for(lambda: first.broke_off or not first._thread.is_alive(), seconds=20, what="the break")

    def again() -> Stream | None:
        try:
            return Stream(platform, job_id, last_id=first.last_id)
        except requests.ConnectionError:
            return None

    second = wait_for(again, seconds=30, what="a new web process")
    wait_for(lambda: second.end, seconds=60, what="the end")
    assert first.text + second.text == platform.job(job_id)["logs"]


def test_the_log_is_read_by_byte_and_by_range_with_curl(platform: Platform):
    job_id = platform.upload("print('0123456789')\nraise SystemExit(1)\n")
    platform.ended(job_id)
    url = f"{platform.url}/mlops/training/jobs/{job_id}/logs"
    whole = subprocess.run(["curl", "-sS", url], capture_output=True).stdout
    assert b"0123456789\n" in whole
    begin = whole.index(b"0123456789")
    ranged = ["curl", "-sS", "-i", "-r", f"{begin}-{begin + 4}", url]
    answer = subprocess.run(ranged, capture_output=True).stdout
    assert answer.startswith(b"HTTP/1.1 206")
    assert answer.endswith(b"\r\n\r\n01234")
    rest = requests.get(url, params={"offset": begin + 5, "length": 2}, timeout=30)
    assert (rest.content, rest.headers["X-Log-Next-Offset"]) == (b"56", str(begin + 7))
    assert requests.get(url, params={"tail": 1}, timeout=30).content == b"0123456789\n"
    streamed = subprocess.run(
        ["curl", "-sSN", "-H", "Accept: text/event-stream", url], capture_output=True
    )
    assert b"event: end\n" in streamed.stdout


def test_a_flood_keeps_its_head_and_tail_and_holds_up_nobody(platform: Platform):
    flood = platform.upload(FLOODS)
    url = f"{platform.url}/mlops/training/jobs/{flood}/logs"
    wait_for(
        lambda: int(requests.head(url, timeout=30).headers["X-Log-Size"]) > 20_000_000,
        seconds=90,
        what="the flood",
    )
    talker = platform.upload(TALKS.format(lines=20, pause=0.1))
    stream = Stream(platform, talker)
    wait_for(lambda: stream.end, seconds=90, what="the end of the other job")
    assert said_by(20) in stream.text
    ended = platform.ended(flood)
    assert ended["error"] == "The script ended with exit code 3."
    answer = requests.get(url, params={"part": "run"}, timeout=60)
    assert answer.content.startswith(b"the first words\n")
    last = answer.text.splitlines()[-1]
    assert last.startswith("the last words behind ")
    printed = len("the first words\n") + int(last.split()[-1]) + len(last) + 1
    mark = f"\n[... {int(answer.headers['X-Log-Dropped'])} bytes cut ...]\n"
    assert len(answer.content) < 12_000_000 < printed
    assert answer.text.count(mark) == answer.text.count(" bytes cut ") == 1
    kept = len(answer.content) - len(mark)
    assert kept + int(answer.headers["X-Log-Dropped"]) == printed


def test_the_timeline_tells_the_whole_story(platform: Platform):
    job_id = platform.upload("raise SystemExit(1)\n")
    platform.ended(job_id)
    document = platform.get(f"/mlops/training/jobs/{job_id}/events").json()
    names = [event["name"] for event in document["events"]]
    assert [names[0], names[-1]] == ["accepted", "failed"]
    assert {"claimed", "starting", "training"} <= set(names)


def test_the_helper_follows_live_and_leaves_the_job_when_it_is_interrupted(
    platform: Platform, tmp_path: Path
):
    script = tmp_path / "train.py"
    script.write_text(WAITS)
    command = [sys.executable, HELPER, "--url", platform.url, "--script", str(script)]
    command += ["--experiment", "e", "--model", "m"]
    output = tmp_path / "output"
    with output.open("wb") as file:
        helper = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    wait_for(lambda: "\nup\n" in output.read_text(), seconds=60, what="the script's words")
    helper.send_signal(2)
    assert helper.wait(timeout=30) == 130
    said = output.read_text()
    job_id = said.split()[1]
    assert "[training]" in said
    assert "The job goes on" in said
    assert platform.job(job_id)["status"] == "running"
    platform.post(f"/mlops/training/jobs/{job_id}/cancel", None)
    platform.ended(job_id)

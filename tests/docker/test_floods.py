"""Output of every nasty kind, from a real engine into the store: bounded, counted, shown sanely."""

import re
import statistics
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from deploy.trial import wait_for
from sandbox.engine import Engine
from sandbox.environments import Environment, EnvironmentStore
from tests.fixtures.engine import JobRunner
from tests.unit.test_logs import a_job, an_attempt
from training import logs
from training.followers import LogFollower
from training.models import Attempt, Job, LogChunk
from training.services import finish, rows
from training.states import Intent, Reason
from training.supervisor import JobSupervisor

pytestmark = pytest.mark.django_db(transaction=True)

QUOTA = 1024 * 1024
# Head, samples, the tail when the script was asked to end, and what it printed after that.
KEPT_OF_WHAT_WE_END = QUOTA * 7 // 4
FOLLOW_SECONDS = 120
FLOOD = (
    "import sys\n"
    "sys.stdout.write('the first words\\n')\n"
    "block = b''.join(b'%015d\\n' % number for number in range(65536))\n"
    "for _ in range({blocks}):\n"
    "    sys.stdout.buffer.write(block)\n"
    "sys.stdout.write('the last words\\n')\n"
)
ENDLESS = (
    "import sys\n"
    "sys.stdout.write('the first words ')\n"
    "for number in range({blocks}):\n"
    "    sys.stdout.write('x' * (1024 * 1024))\n"
    "sys.stdout.write(' the last words')\n"
)
SHORT_LINES = (
    "import sys\n"
    "sys.stdout.write('the first words\\n')\n"
    "for _ in range(2000):\n"
    "    sys.stdout.write('y\\n' * 10000)\n"
    "sys.stdout.write('the last words\\n')\n"
)
BAR = (
    "import sys\n"
    "for number in range(50_000):\n"
    "    sys.stdout.write(f'\\r{number:6d} of 50000 [' + '#' * 40 + ']')\n"
)
NASTY = b"\0\x01\x1b[31mred\x1b[0m\rlone\r\n\xff\xfe\xe2\x80\xa8\n\x1b]0;title\x07\x7f\n"


class Followed:
    """A script in a job container, and the follower that stores what it prints."""

    def __init__(self, engine: Engine, container: str) -> None:
        self.job: Job = a_job()
        self.attempt: Attempt = an_attempt(self.job)
        Attempt.objects.filter(pk=self.attempt.pk).update(container_id=container)
        self.attempt.refresh_from_db()
        self.engine = engine
        self.follower = self.follow()

    def follow(self) -> LogFollower:
        self.follower = LogFollower(
            engine=self.engine, attempt=self.attempt, wake=threading.Event()
        )
        return self.follower

    def to_the_end(self) -> None:
        def look() -> bool:
            ended = self.follower.ended
            self.follower.store(self.attempt)
            return ended

        wait_for(look, seconds=FOLLOW_SECONDS, what="the end of the output")
        # As a finish does: an engine that is followed may swallow the very last words.
        logs.take_the_rest(self.attempt, self.engine)

    def pieces(self) -> list[logs.Piece]:
        return list(logs.pieces_of(self.job))

    def kept(self) -> int:
        return sum(len(piece.data) for piece in self.pieces())


@pytest.fixture
def followed(
    jobs: JobRunner,
    plain_environment: Environment,
    environments: EnvironmentStore,
    tmp_path: Path,
    settings: Any,
) -> Callable[..., Followed]:
    settings.JOB_LOG_MAX_BYTES = QUOTA

    def start(script: str, **options: Any) -> Followed:
        folder = tmp_path / str(len(jobs.made))
        folder.mkdir()
        spec = jobs.spec(
            folder,
            script,
            environment=plain_environment,
            platform=environments.platform_folder(),
            log_bytes=QUOTA,
            **options,
        )
        return Followed(jobs.engine, jobs.start(spec))

    return start


def assert_head_tail_and_size(flood: Followed, *, size: int) -> None:
    """The head and the tail are there, the mark says exactly what is missing between them."""
    pieces = flood.pieces()
    assert pieces[0].data.startswith(b"the first words")
    assert pieces[-1].data.rstrip().endswith(b"the last words")
    assert QUOTA <= flood.kept() <= QUOTA + 2 * logs.CHUNK_BYTES
    assert logs.size_of(flood.job) == size
    marks = [int(cut) for cut in re.findall(r"\n\[\.\.\. (\d+) bytes cut", logs.text_of(flood.job))]
    assert marks == [size - flood.kept()]


@pytest.mark.parametrize(
    ("script", "size"),
    [
        (FLOOD.format(blocks=64), 64 * 16 * 65536 + len("the first words\nthe last words\n")),
        (ENDLESS.format(blocks=1000), 1000 * 1024**2 + len("the first words  the last words")),
        (SHORT_LINES, 20 * 1000 * 2000 + len("the first words\nthe last words\n")),
    ],
    ids=["lines", "gigabyte", "twenty-million-lines"],
)
def test_a_flood_leaves_its_head_its_tail_and_the_size_of_the_cut(
    followed: Callable[..., Followed], script: str, size: int
):
    flood = followed(script)
    flood.to_the_end()
    assert_head_tail_and_size(flood, size=size)


def test_the_engines_own_record_of_a_flood_is_small(followed: Callable[..., Followed]):
    flood = followed(SHORT_LINES)
    flood.to_the_end()
    record = sum(map(len, flood.engine.recorded_logs(flood.attempt.container_id)))
    assert record < 2 * QUOTA


def test_what_nobody_followed_is_taken_at_the_end_within_the_same_bounds(
    followed: Callable[..., Followed],
):
    flood = followed(FLOOD.format(blocks=2))
    wait_for(lambda: flood.follower.ended, seconds=FOLLOW_SECONDS, what="the end")
    size = 2 * 16 * 65536 + len("the first words\nthe last words\n")
    for _ in range(2):
        logs.take_the_rest(flood.attempt, flood.engine)
        assert_head_tail_and_size(flood, size=size)


def test_a_follower_that_takes_over_in_a_flood_has_the_exact_size_too(
    followed: Callable[..., Followed],
):
    flood = followed(
        "import time\n" + FLOOD.format(blocks=3).replace("block)\n", "block)\n    time.sleep(1)\n")
    )
    for wanted in (1, 2):

        def look(wanted: int = wanted) -> bool:
            flood.follower.store(flood.attempt)
            return logs.size_of(flood.job) >= wanted * 16 * 65536

        wait_for(look, seconds=60, what="output")
        flood.follow()
    flood.to_the_end()
    assert_head_tail_and_size(flood, size=3 * 16 * 65536 + len("the first words\nthe last words\n"))


def test_a_flood_does_not_delay_what_another_job_prints(followed: Callable[..., Followed]):
    flood = followed(ENDLESS.format(blocks=1_000_000), log_hard_bytes=2**50)
    talker = followed("import time\nwhile True: print(time.time()); time.sleep(0.05)\n")
    late: list[float] = []

    def look() -> bool:
        flood.follower.store(flood.attempt)
        talker.follower.store(talker.attempt)
        lines = logs.text_of(talker.job).splitlines()[:-1]
        late.append(time.time() - float(lines[-1]) if lines else 0.0)
        return len(lines) > 100

    wait_for(look, seconds=FOLLOW_SECONDS, what="a hundred lines")
    assert statistics.median(late) < 1
    assert logs.size_of(flood.job) > 100 * QUOTA


def test_a_follower_that_takes_over_loses_and_doubles_nothing(
    followed: Callable[..., Followed],
):
    talker = followed(
        "import time\n"
        "for number in range(300):\n"
        "    print('line', number, flush=True)\n"
        "    time.sleep(0.01)\n"
    )
    for wanted in (1000, 2000):

        def look(wanted: int = wanted) -> bool:
            talker.follower.store(talker.attempt)
            return logs.size_of(talker.job) >= wanted

        wait_for(look, seconds=60, what="output")
        talker.follow()
    talker.to_the_end()
    assert logs.text_of(talker.job) == "".join(f"line {number}\n" for number in range(300))


def test_binary_control_characters_and_broken_utf8_are_kept(
    followed: Callable[..., Followed],
):
    nasty = followed(f"import sys\nsys.stdout.buffer.write({NASTY!r})\n")
    nasty.to_the_end()
    assert b"".join(piece.data for piece in nasty.pieces()) == NASTY


def test_a_progress_bar_of_carriage_returns_is_one_bounded_line(
    followed: Callable[..., Followed],
):
    bar = followed(BAR)
    bar.to_the_end()
    assert logs.text_of(bar.job).endswith("49999 of 50000 [" + "#" * 40 + "]")
    assert bar.kept() <= QUOTA + 2 * logs.CHUNK_BYTES
    # Asked for its last line, it gives what is kept of it, and reads no more than that.
    assert logs.offset_of_tail(bar.job, lines=1) == 0


def supervised(flood: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor looks at the flood until it asks for its end."""
    Job.objects.filter(pk=flood.job.pk).update(status="running", phase="training")
    now = timezone.now()
    Attempt.objects.filter(pk=flood.attempt.pk).update(
        lease_owner=rows.SUPERVISOR, container_started_at=now, deadline_at=now + timedelta(hours=1)
    )
    asked: list[int] = []
    monkeypatch.setattr(finish, "ask_to_finish", asked.append)
    supervisor = JobSupervisor(engine=flood.engine)

    def look() -> bool:
        supervisor.tick()
        return bool(asked)

    wait_for(look, seconds=FOLLOW_SECONDS, what="the end of the flood")
    flood.attempt.refresh_from_db()
    state = flood.engine.state(flood.attempt.container_id)
    assert state is not None
    assert not state.running


def test_past_the_hard_bound_the_launcher_ends_the_script(
    followed: Callable[..., Followed], settings: Any, monkeypatch: pytest.MonkeyPatch
):
    settings.JOB_LOG_HARD_BYTES = 8 * QUOTA
    flood = followed(ENDLESS.format(blocks=1_000_000), log_hard_bytes=8 * QUOTA)
    supervised(flood, monkeypatch)
    assert finish.keep_exit_facts(flood.attempt)
    end = finish.script_failure(flood.attempt)
    assert end is not None
    assert end.reason is Reason.LOG_QUOTA
    assert flood.attempt.exit_code == 226
    assert logs.size_of(flood.job) > 8 * QUOTA
    assert flood.kept() <= KEPT_OF_WHAT_WE_END


def test_past_the_hard_bound_the_supervisor_ends_what_the_launcher_did_not(
    followed: Callable[..., Followed], settings: Any, monkeypatch: pytest.MonkeyPatch
):
    settings.JOB_LOG_HARD_BYTES = 8 * QUOTA
    settings.JOB_GRACE_SECONDS = 2
    flood = followed(ENDLESS.format(blocks=1_000_000), log_hard_bytes=2**50)
    supervised(flood, monkeypatch)
    assert flood.attempt.intent == Intent.LOG_QUOTA
    assert flood.kept() <= KEPT_OF_WHAT_WE_END


def test_the_part_is_the_runs(followed: Callable[..., Followed]):
    one = followed("print('words')\n")
    one.to_the_end()
    (piece,) = one.pieces()
    assert (piece.part, piece.attempt) == (LogChunk.Part.RUN, 1)

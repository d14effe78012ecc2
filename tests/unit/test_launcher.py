"""The launcher keeps the deadline, relays the output and reports how the script ended."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.image import launcher
from sandbox.order import Order
from sandbox.output import Run, printed, printed_bytes
from training import verdict

LAUNCHER = Path(launcher.__file__)
QUOTA = 256 * 1024
ORDER = Order({"GIVEN": "a value"}).encoded()


@pytest.fixture
def launch(tmp_path):
    """Starts the launcher on a script, in a folder of the test, and gives it its order."""
    runner = tmp_path / "run_launcher.py"
    runner.write_text(
        "import os, runpy, sys\n"
        "original = os.posix_spawn\n"
        "def spawn(*args, **options):\n"
        "    pid = original(*args, **options)\n"
        "    if os.environ.get('SCRIPT_IS_FASTER'):\n"
        "        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "    return pid\n"
        "os.posix_spawn = spawn\n"
        f"sys.path.append({str(LAUNCHER.parent)!r})\n"
        f"runpy.run_path({str(LAUNCHER.with_name('run_job.py'))!r}, run_name='__main__')\n"
    )

    def start(
        source: str,
        *,
        deadline: float = 30,
        grace: float = 5,
        log_bytes: int = QUOTA,
        hard_bytes: int = 1024 * QUOTA,
        order: bytes | None = ORDER,
    ) -> subprocess.Popen:
        script = tmp_path / "script.py"
        script.write_text(source)
        command = [sys.executable, str(runner), "--deadline-seconds", str(deadline)]
        command += ["--grace-seconds", str(grace), "--log-bytes", str(log_bytes)]
        command += ["--log-hard-bytes", str(hard_bytes), str(script)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT
        )
        started.append(process)
        if order is not None:
            process.stdin.write(order)
            process.stdin.close()
            process.stdin = None
        return process

    started: list[subprocess.Popen] = []
    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # not kill: the launcher ends its script
            process.communicate(timeout=20)
        process.stdout.close()


def output_of(process: subprocess.Popen, *, timeout: float = 30) -> bytes:
    """What the script printed and the launcher passed on, to the end."""
    return printed_bytes([process.communicate(timeout=timeout)[0]])


def line_of(process: subprocess.Popen) -> bytes:
    """The next frame."""
    line = process.stdout.readline()
    return process.stdout.readline() if line.startswith(b"!began ") else line


def runs_of(process: subprocess.Popen, *, timeout: float = 60) -> list[Run]:
    return list(printed([process.communicate(timeout=timeout)[0]]))


def test_it_passes_on_output_and_exit_code(launch):
    process = launch("print('hello'); raise SystemExit(3)")
    assert output_of(process) == b"hello\n"
    assert process.returncode == 3


def test_a_signal_that_ended_the_script_is_told_from_one_that_ended_the_container(launch):
    process = launch("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    process.communicate(timeout=20)
    assert process.returncode == 160 + signal.SIGSEGV


def test_a_script_that_ends_before_the_launcher_goes_on_is_not_missed(launch, monkeypatch):
    monkeypatch.setenv("SCRIPT_IS_FASTER", "1")
    process = launch("raise SystemExit(3)")
    process.communicate(timeout=20)
    assert process.returncode == 3


def test_it_ends_a_script_whose_time_is_over(launch):
    process = launch("import threading; threading.Event().wait()", deadline=0.5)
    process.communicate(timeout=20)
    assert process.returncode == 124


def test_it_kills_a_script_that_does_not_listen(launch):
    source = (
        "import signal, threading\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "threading.Event().wait()\n"
    )
    process = launch(source, deadline=1.5, grace=0.3)
    assert output_of(process) == b"deaf\n"
    assert process.returncode == 124


def test_it_passes_a_request_to_end_on_to_the_script(launch):
    source = (
        "import signal, sys, threading\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "threading.Event().wait()\n"
    )
    process = launch(source)
    assert printed_bytes([line_of(process)]).startswith(b"ready")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 225


def test_a_request_to_end_sends_the_tail_before_the_script_has_ended(launch):
    source = (
        "import signal, sys, threading\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"sys.stdout.write('x' * {4 * QUOTA} + 'the last words\\n')\n"
        "sys.stdout.flush()\n"
        "threading.Event().wait()\n"
    )
    process = launch(source, grace=3)
    tail_begins = 4 * QUOTA + len("the last words\n") - QUOTA // 2
    data = b""
    while not data.endswith(b"the last words\n"):
        ((offset, data),) = printed([line_of(process)])
        assert offset != tail_begins  # it was a sample
    process.send_signal(signal.SIGTERM)
    while offset != tail_begins:
        ((offset, data),) = printed([line_of(process)])
    assert process.poll() is None
    process.communicate(timeout=30)


def test_an_order_brings_variables(launch):
    process = launch("import os\nprint(os.environ['GIVEN'])\n")
    assert output_of(process) == b"a value\n"


def test_without_its_whole_order_no_script_runs(launch):
    for order in (b"", ORDER[:3], ORDER[:-1]):
        process = launch("print('ran')", order=order)
        assert output_of(process) == b""
        assert process.returncode == 227


def test_it_ends_a_script_that_stopped_itself(launch):
    source = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    process = launch(source, deadline=0.5, grace=0.5)
    process.communicate(timeout=20)
    assert process.returncode == 124


def test_it_gives_the_script_signals_that_are_not_blocked(launch):
    source = "import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    assert output_of(launch(source)) == b"0\n"


def test_its_exit_codes_are_those_that_the_verdict_reads():
    names = ("DEADLINE", "ASKED_TO_END", "LOG_QUOTA")
    for name in ("SIGNAL_EXIT_BASE", *(f"{name}_EXIT_CODE" for name in names)):
        assert getattr(launcher, name) == getattr(verdict, name)


def test_it_needs_nothing_but_the_standard_library():
    given = f"import sys; sys.path.append({str(LAUNCHER.parent)!r}); import launcher"
    command = [sys.executable, "-I", "-S", "-c", given]
    assert subprocess.run(command, capture_output=True).returncode == 0


# -- the relay -------------------------------------------------------------------------------------
def test_output_and_errors_keep_their_order(launch):
    source = (
        "import os\nfor number in range(500):\n    os.write(1 + number % 2, b'%d\\n' % number)\n"
    )
    assert output_of(launch(source)) == b"".join(b"%d\n" % number for number in range(500))


def test_the_script_finds_a_pipe_and_no_terminal(launch):
    source = "import sys; print(sys.stdout.isatty(), sys.stderr.isatty(), sys.stdin.isatty())"
    assert output_of(launch(source)) == b"False False False\n"


def test_the_first_line_comes_while_the_script_runs(launch):
    process = launch("import threading; print('now'); threading.Event().wait()", deadline=60)
    assert printed_bytes([line_of(process)]).startswith(b"now")


def test_any_byte_comes_through_as_it_was_printed(launch):
    nasty = bytes(range(256)) + b"\xf0\x9f\x98\x80\r\n@12 aGk=\n\x1b[31m" + b"\xff" * 20_000
    source = f"import sys; sys.stdout.buffer.write({nasty!r})"
    assert output_of(launch(source)) == nasty


def test_a_script_cannot_write_a_frame(launch):
    source = "print('@500 aGVsbG8=')\nprint('words')"
    printed = b"@500 aGVsbG8=\nwords\n"
    assert output_of(launch(source)) == printed


def numbered(lines: int) -> bytes:
    return b"".join(b"%011d\n" % number for number in range(lines))


def test_of_a_flood_head_and_tail_are_kept_with_exact_offsets(launch):
    lines = 1_000_000
    source = (
        "import sys\n"
        f"for start in range(0, {lines}, 1000):\n"
        "    sys.stdout.buffer.write(b''.join(b'%011d\\n' % n for n in range(start, start+1000)))\n"
    )
    process = launch(source)
    record = process.communicate(timeout=60)[0]
    runs = list(printed([record]))
    whole = numbered(lines)
    for offset, data in runs:
        assert data == whole[offset : offset + len(data)]
    seen = {place for offset, data in runs for place in range(offset, offset + len(data))}
    assert seen >= set(range(QUOTA // 2))
    assert seen >= set(range(len(whole) - QUOTA // 2, len(whole)))
    assert len(record) < QUOTA * 5 // 3 + 4096
    assert process.returncode == 0


def test_what_is_printed_behind_the_head_is_seen_while_the_script_runs(launch):
    source = (
        "import sys, threading\n"
        f"sys.stdout.buffer.write(b'x' * {QUOTA})\n"
        "print('alive')\n"
        "threading.Event().wait()\n"
    )
    process = launch(source)
    offset, data = 0, b""
    while not data.endswith(b"alive\n"):
        ((offset, data),) = printed([line_of(process)])
    assert offset + len(data) == QUOTA + len(b"alive\n")


def test_a_script_that_prints_too_much_is_ended(launch):
    source = "while True: print('y' * 1000)"
    process = launch(source, hard_bytes=20 * QUOTA)
    runs = runs_of(process)
    assert process.returncode == 226
    assert runs[-1][0] + len(runs[-1][1]) > 20 * QUOTA


def test_a_script_that_prints_too_much_and_does_not_listen_is_killed(launch):
    source = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True: print('y' * 10000)\n"
    )
    process = launch(source, hard_bytes=20 * QUOTA, grace=0.5)
    runs_of(process)
    assert process.returncode == 226


def test_the_signal_of_the_relay_sent_by_the_script_does_nothing(launch):
    source = (
        "import os, signal, time\n"
        "for _ in range(20): os.kill(os.getppid(), signal.SIGUSR1); time.sleep(0.01)\n"
        "print('still here')\n"
    )
    process = launch(source)
    assert output_of(process) == b"still here\n"
    assert process.returncode == 0


def test_a_child_that_keeps_the_output_open_does_not_hold_up_the_end(launch):
    source = (
        "import os, sys\n"
        "print('parent', flush=True)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        while True: os.write(1, b'child' * 100)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    process = launch(source, deadline=60)
    # Only the launcher's own end is waited for: in a container its children go with it.
    assert output_of(process).startswith(b"parent\n")
    assert process.returncode == 0


def test_a_script_that_closes_its_output_still_runs_to_its_end(launch):
    source = "import os, time; print('bye'); os.close(1); os.close(2); time.sleep(0.5); os._exit(3)"
    process = launch(source)
    assert output_of(process) == b"bye\n"
    assert process.returncode == 3


def test_the_deadline_holds_while_nobody_takes_the_output(launch):
    process = launch("while True: print('y' * 1000)", deadline=1, grace=0.5, log_bytes=64 * QUOTA)
    # The pipe to us is full at once, and nothing is read until the launcher has ended.
    assert process.wait(timeout=20) == 124


def test_output_that_is_taken_late_makes_the_script_wait_and_loses_nothing(launch):
    lines = 100_000
    process = launch(f"for n in range({lines}): print('%011d' % n)", log_bytes=64 * QUOTA)
    time.sleep(1)
    assert process.poll() is None
    assert output_of(process) == numbered(lines)

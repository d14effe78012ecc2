"""The launcher keeps the deadline and reports how the script ended."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training import verdict

LAUNCHER = Path(__file__).parents[2] / "sandbox" / "image" / "launcher.py"


@pytest.fixture
def launch(tmp_path):
    """Starts the launcher on a script, with /scratch replaced by a folder of the test."""
    runner = tmp_path / "run_launcher.py"
    runner.write_text(
        "import subprocess, sys, importlib.util\n"
        "original = subprocess.Popen.__init__\n"
        "def here(self, *args, **options):\n"
        f"    options['cwd'] = {str(tmp_path)!r}\n"
        "    original(self, *args, **options)\n"
        "subprocess.Popen.__init__ = here\n"
        f"spec = importlib.util.spec_from_file_location('launcher', {str(LAUNCHER)!r})\n"
        "launcher = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(launcher)\n"
        "sys.exit(launcher.main())\n"
    )

    def start(source: str, *, deadline: float = 30, grace: float = 5) -> subprocess.Popen:
        script = tmp_path / "script.py"
        script.write_text(source)
        command = [sys.executable, str(runner), "--deadline-seconds", str(deadline)]
        command += ["--grace-seconds", str(grace), str(script)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start


def test_it_passes_on_output_and_exit_code(launch):
    process = launch("print('hello'); raise SystemExit(3)")
    assert process.communicate(timeout=20)[0] == b"hello\n"
    assert process.returncode == 3


def test_a_signal_that_ended_the_script_is_told_from_one_that_ended_the_container(launch):
    process = launch("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    process.communicate(timeout=20)
    assert process.returncode == 160 + signal.SIGSEGV


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
    assert process.communicate(timeout=20)[0] == b"deaf\n"
    assert process.returncode == 124


def test_it_passes_a_request_to_end_on_to_the_script(launch):
    source = (
        "import signal, sys, threading\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "threading.Event().wait()\n"
    )
    process = launch(source)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 225


def test_it_ends_a_script_that_stopped_itself(launch):
    source = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    process = launch(source, deadline=0.5, grace=0.5)
    process.communicate(timeout=20)
    assert process.returncode == 124


def test_it_gives_the_script_signals_that_are_not_blocked(launch):
    source = "import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    assert launch(source).communicate(timeout=20)[0] == b"0\n"


def test_its_exit_codes_are_those_that_the_verdict_reads():
    spec = importlib.util.spec_from_file_location("launcher", LAUNCHER)
    launcher = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launcher)
    for name in ("DEADLINE_EXIT_CODE", "SIGNAL_EXIT_BASE", "ASKED_TO_END_EXIT_CODE"):
        assert getattr(launcher, name) == getattr(verdict, name)


def test_it_needs_nothing_but_the_standard_library():
    spec = importlib.util.spec_from_file_location("launcher", LAUNCHER)
    command = [sys.executable, "-I", "-S", "-c", f"exec(open({spec.origin!r}).read(), {{}})"]
    assert subprocess.run(command, capture_output=True).returncode == 0

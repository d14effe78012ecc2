"""Each script of the corpus tries to get out; what it managed is looked at from outside too.

A script says `MANAGED …` for what must not work. The whole runs under each runtime, all of them at
the same time: scripts that leave their container whole share a few, one after another or, where
they only wait, together; the others have one each.
"""

import contextlib
import ctypes
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.container import NO_RESOLVER, RUNC, SandboxSpec
from sandbox.engine import ContainerState, Engine, EngineUnavailable
from sandbox.environments import Environment, EnvironmentStore
from sandbox.firewall import Policy
from sandbox.network import Networks
from sandbox.order import Order, hand_in
from sandbox.output import printed
from tests.docker.hostile.expected import (
    ALONE,
    ENDED_BY_MEMORY,
    OFFLINE,
    TO_THEIR_DEADLINE,
    WAITING,
    Alone,
    harmless,
)
from tests.docker.hostile.pack import BEGIN, END
from tests.fixtures.engine import LOG_BYTES, ORDER_SECONDS, RUNTIMES, JobRunner, said
from tests.fixtures.strangers import STRANGERS, Strangers
from training.states import Reason
from training.verdict import ExitFacts, failure_of

HERE = Path(__file__).parent
PRELUDE = (HERE / "prelude.py").read_text()
PACK = (HERE / "pack.py").read_text()
SCRIPTS = {path.stem: path.read_text() for path in sorted((HERE / "scripts").glob("*.py"))}
PACKS = 3
SIDE_BY_SIDE = 6
PACK_SECONDS = 480
SLACK_SECONDS = 30
HARD_BYTES = 32 * 1024 * 1024
RECORD_BYTES = 5 * LOG_BYTES
IPC_KEY, IPC_NAME = 0x6D6C6F70, "mlops-hostile"
IPC_CREAT, IPC_RMID = 0o1000, 0
MEMORY_MB = {RUNC: 256, "runsc": 384}
PEER_SCRIPT = """
import socket
listener = socket.create_server(("", 8080))
print("up", flush=True)
while True:
    connection, peer = listener.accept()
    print("heard", peer, flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """What the engine says of a container after the end, and what was printed in it."""

    id: str
    overran: bool
    said: str
    state: ContainerState
    differences: list[str]
    changed_files: list[str]
    runtime: str
    record_bytes: int
    script_is_as_it_was: bool

    def of(self, name: str) -> str:
        """What this script of a pack said; all of it when it had a container of its own."""
        if name in ALONE:
            return self.said
        return self.said.partition(f"{BEGIN}{name}\n")[2].partition(f"\n{END}{name} ")[0]

    def end_of(self, name: str) -> str:
        """How this script of a pack ended (as `os.waitpid` tells), and what it said."""
        status = self.said.partition(f"\n{END}{name} ")[2].partition("\n")[0]
        return f"{name} ended with {status or 'nothing'}, and said: {self.of(name)[-2000:]!r}"

    def lines(self, name: str, word: str) -> list[str]:
        return [line for line in self.of(name).splitlines() if line.startswith(word)]


@dataclass
class Host:
    """What of this machine a script could have changed or heard from."""

    listener: socket.socket
    datagrams: socket.socket
    local: socket.socket
    connections: int = 0

    def kernel(self) -> list[str]:
        names = ("kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory")
        more = ("vm/nr_hugepages", "kernel/modprobe", "net/ipv4/ip_forward")
        return [_read(Path("/proc/sys", name)) for name in (*names, *more)]

    def shared(self) -> list[str]:
        """System V shared memory, queues and semaphores, by their keys and owners."""
        tables = [Path("/proc/sysvipc", name).read_text() for name in ("shm", "msg", "sem")]
        return [line for table in tables for line in table.splitlines() if " 10001 " in line]


@pytest.fixture(scope="module")
def host(networks: Networks) -> Iterator[Host]:
    """Listeners at the host's address on the jobs' network, and what the host shares by names."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((networks.jobs_gateway, 0)))
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        datagrams.bind(listener.getsockname())
        local.bind(f"\0{IPC_NAME}")
        local.listen()
        for quiet in (datagrams, local):
            quiet.setblocking(False)
        _share_by_name(stack)
        made = Host(listener, datagrams, local)
        thread = threading.Thread(target=_count, args=(made,))
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _share_by_name(stack: contextlib.ExitStack) -> None:
    """One of each that the kernel finds by a name or key, open to everybody."""
    libc = ctypes.CDLL(None, use_errno=True)
    memory = libc.shmget(IPC_KEY, 4096, IPC_CREAT | 0o666)
    stack.callback(libc.shmctl, memory, IPC_RMID, None)
    queue = libc.msgget(IPC_KEY, IPC_CREAT | 0o666)
    stack.callback(libc.msgctl, queue, IPC_RMID, None)
    semaphores = libc.semget(IPC_KEY, 1, IPC_CREAT | 0o666)
    stack.callback(libc.semctl, semaphores, 0, IPC_RMID)
    assert min(memory, queue, semaphores) >= 0
    path = Path("/dev/shm", IPC_NAME)  # noqa: S108 - the very place that is tried
    path.touch(mode=0o666)
    stack.callback(path.unlink)


def _count(host: Host) -> None:
    with contextlib.suppress(OSError):
        while True:
            host.listener.accept()[0].close()
            host.connections += 1


@dataclass(frozen=True)
class Work:
    """Scripts that share a container under one runtime."""

    runtime: str
    names: tuple[str, ...]


class Corpora:
    """Runs every script once under each runtime, all of them side by side."""

    def __init__(
        self,
        runtimes: Sequence[str],
        run: Callable[[Work], Outcome],
        peer: str,
        host: Host,
        shared: Callable[[], Mapping[str, object]],
    ) -> None:
        self.peer = peer
        self.host = host
        self.kernel_before, self.ipc_before = host.kernel(), host.shared()
        self.shared_before, self.shared = shared(), shared
        self.clock_before = time.time() - time.monotonic()
        works = [Work(runtime, names) for names in _works() for runtime in runtimes]
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            self.ran = dict(zip(works, pool.map(run, works), strict=True))


class Corpus:
    """What came of them under one runtime."""

    def __init__(self, runtime: str, of_all: Corpora) -> None:
        self.runtime = runtime
        self.of_all = of_all
        ran = {work.names: end for work, end in of_all.ran.items() if work.runtime == runtime}
        self.by_container = list(ran.values())
        self.outcomes = {name: end for names, end in ran.items() for name in names}


def _works() -> list[tuple[str, ...]]:
    """Which scripts share a container; the longest first."""
    others = [name for name in SCRIPTS if name not in ALONE.keys() | OFFLINE | WAITING]
    packs = [tuple(others[number::PACKS]) for number in range(PACKS)]
    waiting = [tuple(sorted(names)) for names in (OFFLINE, WAITING)]
    short = [name for name in ALONE if name not in TO_THEIR_DEADLINE]
    alone = [(name,) for name in (*sorted(TO_THEIR_DEADLINE), *short)]
    return [*packs, *alone[: len(TO_THEIR_DEADLINE)], *waiting, *alone[len(TO_THEIR_DEADLINE) :]]


def _run(runner: JobRunner, spec: SandboxSpec) -> Outcome:
    engine = runner.engine
    container = engine.create(spec)
    script = next(mount.source for mount in spec.mounts if mount.target == "/job") / "script.py"
    before = script.read_bytes()
    try:
        engine.start(container)
        assert hand_in(engine, container, Order(), timeout_seconds=ORDER_SECONDS)
        overran = _overran(engine, container, spec)
        state = engine.state(container)
        assert state is not None
        inspect = engine.api.inspect_container(container)
        return Outcome(
            id=container,
            overran=overran,
            said=said(engine, container),
            state=state,
            differences=spec.differences(inspect),
            changed_files=[str(change["Path"]) for change in engine.api.diff(container) or []],
            runtime=inspect["HostConfig"]["Runtime"],
            record_bytes=sum(len(piece) for piece in engine.recorded_logs(container)),
            script_is_as_it_was=script.read_bytes() == before,
        )
    finally:
        engine.remove(container)


def _overran(engine: Engine, container: str, spec: SandboxSpec) -> bool:
    """Whether it had to be killed from outside, as the supervisor does after the deadline."""
    seconds = int(spec.command[spec.command.index("--deadline-seconds") + 1])
    try:
        engine.wait(container, timeout_seconds=seconds + SLACK_SECONDS)
    except EngineUnavailable:
        engine.kill(container)
        engine.wait(container, timeout_seconds=SLACK_SECONDS)
        return True
    return False


def _script(names: tuple[str, ...]) -> str:
    if names[0] in ALONE:
        return f"{PRELUDE}\n{SCRIPTS[names[0]]}"
    run = "run_together" if names[0] in WAITING | OFFLINE else "run_each"
    return f"{PACK}\n{run}({PRELUDE!r}, { ({name: SCRIPTS[name] for name in names})!r})\n"


@pytest.fixture(scope="module")
def corpora(
    engine: Engine,
    runner_image: str,
    networks: Networks,
    installation_id: str,
    plain_environment: Environment,
    environments: EnvironmentStore,
    firewall: Policy,
    strangers: Strangers,
    host: Host,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Corpora]:
    variables: dict[str, str] = {}
    # Who is missing of them is told of where his turn comes.
    runtimes = [name for name in RUNTIMES if name in engine.runtimes()]
    runners = {
        name: JobRunner(engine, runner_image, networks, installation_id, name) for name in runtimes
    }

    def spec_of(work: Work, script: str = "") -> SandboxSpec:
        first = work.names[0]
        offline = first in OFFLINE
        return runners[work.runtime].spec(
            tmp_path_factory.mktemp(first),
            script or _script(work.names),
            environment=plain_environment,
            platform=environments.platform_folder(),
            deadline_seconds=ALONE.get(first, Alone(frozenset(), PACK_SECONDS)).seconds,
            network=networks.offline if offline else networks.jobs,
            resolvers=(NO_RESOLVER,) if offline else firewall.resolvers,
            variables=variables,
            memory_mb=MEMORY_MB[work.runtime],
            log_hard_bytes=HARD_BYTES,
        )

    peer_spec = spec_of(Work(runtimes[0], ("peer",)), PEER_SCRIPT)
    peer = runners[runtimes[0]].start(peer_spec)
    try:
        variables |= {
            "GATEWAY": networks.jobs_gateway,
            "HOST_PORT": str(host.listener.getsockname()[1]),
            "IPC_KEY": str(IPC_KEY),
            "IPC_NAME": IPC_NAME,
            "PEER": _address(engine, peer),
            "PEER_NAME": peer_spec.name,
            "RESOLVERS": ",".join(firewall.resolvers),
        }
        folders = (plain_environment.path, environments.platform_folder())

        def run(work: Work) -> Outcome:
            return _run(runners[work.runtime], spec_of(work))

        yield Corpora(runtimes, run, peer, host, lambda: _fingerprint(folders))
    finally:
        engine.remove(peer)


@pytest.fixture(scope="module")
def corpus(runtime: str, corpora: Corpora) -> Corpus:
    return Corpus(runtime, corpora)


def _fingerprint(folders: tuple[Path, ...]) -> dict[str, object]:
    """Every file that all jobs of an environment share, by what would tell of a change."""
    found: dict[str, object] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            stat = path.lstat()
            # Not the change time: another environment that is built now adds a link to a file.
            found[str(path)] = (stat.st_ino, stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime)
    return found


def _address(engine: Engine, container: str) -> str:
    for _, data in printed(engine.follow_logs(container)):
        if b"up" in data:
            break
    state = engine.state(container)
    assert state is not None and state.ip_address
    return state.ip_address


def test_the_corpus_has_not_shrunk():
    assert len(SCRIPTS) >= 60
    assert SCRIPTS.keys() >= ALONE.keys() | OFFLINE | WAITING


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_hostile_script_manages_nothing(corpus: Corpus, name: str):
    outcome = corpus.outcomes[name]
    allowed = harmless(name, corpus.runtime)
    managed = [line for line in outcome.lines(name, "MANAGED") if not line.startswith(allowed)]
    assert managed == [], outcome.of(name)
    assert "Traceback" not in outcome.of(name), outcome.of(name)
    # Of a container that ended as a whole the last words may be lost with it.
    ended_whole = name in ALONE and outcome.state.exit_code not in (0, 124, 226)
    spoke = outcome.lines(name, "refused") or outcome.lines(name, "MANAGED")
    assert spoke or ended_whole, outcome.end_of(name)


def test_every_container_is_what_it_was_made_to_be_to_its_end(corpus: Corpus):
    for outcome in corpus.by_container:
        assert outcome.runtime == corpus.runtime
        assert outcome.differences == []
        assert not outcome.state.running
        assert not outcome.overran
        # Nothing of its root was written, nor of the folder with its script.
        assert outcome.changed_files == []
        assert outcome.script_is_as_it_was


@pytest.mark.parametrize("name", ALONE)
def test_it_ends_as_its_kind_must_end(corpus: Corpus, name: str):
    outcome = corpus.outcomes[name]
    assert outcome.state.exit_code in ALONE[name].codes, outcome.said[-2000:]


def test_the_others_leave_their_container_whole(corpus: Corpus):
    packed = [corpus.outcomes[name] for name in SCRIPTS if name not in ALONE]
    assert {outcome.state.exit_code for outcome in packed} == {0}


@pytest.mark.parametrize("name", sorted(ENDED_BY_MEMORY))
def test_who_takes_too_much_memory_is_ended_by_the_kernel_and_the_engine_says_so(
    corpus: Corpus, name: str
):
    assert corpus.outcomes[name].state.oom_killed


def test_the_engines_record_of_what_they_print_is_bounded(corpus: Corpus):
    assert max(outcome.record_bytes for outcome in corpus.by_container) <= RECORD_BYTES


def test_a_forged_exit_code_counts_as_the_scripts_own(corpus: Corpus):
    outcome = corpus.outcomes["forged_end"]
    facts = ExitFacts(
        exit_code=outcome.state.exit_code or 0,
        oom_killed=outcome.state.oom_killed,
        intent="",
        seconds=1.0,
        timeout_seconds=60,
        grace_seconds=2,
        log_tail=outcome.said,
    )
    failure = failure_of(facts)
    assert failure is not None and failure.reason == Reason.SCRIPT_ERROR


def test_nothing_of_them_runs_on(corpus: Corpus):
    """By the kernel's word: a process is in the group of its container, whatever it does."""
    ids = {outcome.id for outcome in corpus.by_container}
    groups = [_read(path) for path in Path("/proc").glob("[0-9]*/cgroup")]
    assert [text for text in groups if any(one in text for one in ids)] == []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_nobody_outside_heard_of_any_of_them(corpus: Corpus, strangers: Strangers, engine: Engine):
    assert corpus.of_all.host.connections == 0
    with pytest.raises(BlockingIOError):
        corpus.of_all.host.datagrams.recv(100)
    with pytest.raises(BlockingIOError):
        corpus.of_all.host.local.accept()
    # Each of them once, by the fixture itself.
    assert sorted(strangers.heard()) == sorted(STRANGERS)
    assert "heard" not in said(engine, corpus.of_all.peer)


def test_what_all_jobs_share_is_as_it_was(corpus: Corpus):
    assert corpus.of_all.shared() == corpus.of_all.shared_before


def test_the_kernel_of_the_host_is_as_it_was(corpus: Corpus):
    assert corpus.of_all.host.kernel() == corpus.of_all.kernel_before
    assert corpus.of_all.host.shared() == corpus.of_all.ipc_before
    # Days, if a script had set it; a clock that is corrected drifts less.
    assert abs(time.time() - time.monotonic() - corpus.of_all.clock_before) < 60
    assert not list(Path("/sys/fs/cgroup").glob("**/mine"))

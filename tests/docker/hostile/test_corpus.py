"""Each script of the corpus tries to get out; what it managed is looked at from outside too.

A script says `MANAGED …` for what must not work. One container for each script, as a job has one;
a few side by side, since a start takes a third of a second.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.container import SandboxSpec
from sandbox.engine import ContainerState, Engine, EngineUnavailable
from sandbox.environments import Environment, EnvironmentStore
from sandbox.firewall import Policy
from sandbox.network import Networks
from sandbox.output import printed
from tests.fixtures.engine import JobRunner, said
from tests.fixtures.strangers import STRANGERS, Strangers

HERE = Path(__file__).parent
PRELUDE = (HERE / "prelude.py").read_text()
SCRIPTS = {path.stem: path for path in sorted((HERE / "scripts").glob("*.py"))}
SIDE_BY_SIDE = 4
SCRIPT_SECONDS = 20
SLACK_SECONDS = 10
PEER_SCRIPT = """
import socket
listener = socket.create_server(("", 8080))
print("up", flush=True)
while True:
    connection, peer = listener.accept()
    print("heard", peer, flush=True)
"""
ENDED_BY_MEMORY = frozenset({"memory_hog", "shared_memory"})


# What is known to be open. Strict: whoever closes one has to take it out of here.
@dataclass(frozen=True)
class Outcome:
    """What a script said, and what the engine says of its container after the end."""

    overran: bool
    said: str
    state: ContainerState
    differences: list[str]
    changed_files: list[str]

    def lines(self, word: str) -> list[str]:
        return [line for line in self.said.splitlines() if line.startswith(word)]


@dataclass
class Host:
    """What of this machine a script could have changed."""

    listener: socket.socket
    datagrams: socket.socket
    connections: int = 0

    def kernel(self) -> list[str]:
        names = ("kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory")
        return [Path("/proc/sys", name).read_text() for name in (*names, "net/ipv4/ip_forward")]


@pytest.fixture(scope="module")
def host(networks: Networks) -> Iterator[Host]:
    """A listener at the host's address on the jobs' network, by TCP and by UDP."""
    with (
        socket.create_server((networks.jobs_gateway, 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(listener.getsockname())
        datagrams.setblocking(False)
        made = Host(listener, datagrams)
        thread = threading.Thread(target=_count, args=(made,))
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _count(host: Host) -> None:
    with contextlib.suppress(OSError):
        while True:
            host.listener.accept()[0].close()
            host.connections += 1


class Corpus:
    """Runs every script once, when it is first asked for one."""

    def __init__(self, runner: JobRunner, spec_of, peer: str, host: Host) -> None:
        self.peer = peer
        self.host = host
        self.kernel_before = host.kernel()
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            ran = pool.map(lambda name: _run(runner, spec_of(name)), SCRIPTS)
            self.outcomes = dict(zip(SCRIPTS, ran, strict=True))


def _run(runner: JobRunner, spec: SandboxSpec) -> Outcome:
    engine = runner.engine
    container = engine.create(spec)
    try:
        engine.start(container)
        overran = _overran(engine, container)
        state = engine.state(container)
        assert state is not None
        return Outcome(
            overran=overran,
            said=said(engine, container),
            state=state,
            differences=spec.differences(engine.api.inspect_container(container)),
            changed_files=[str(change["Path"]) for change in engine.api.diff(container) or []],
        )
    finally:
        engine.remove(container)


def _overran(engine: Engine, container: str) -> bool:
    """Whether it had to be killed from outside, as the supervisor does after the deadline."""
    try:
        engine.wait(container, timeout_seconds=SCRIPT_SECONDS + SLACK_SECONDS)
    except EngineUnavailable:
        engine.kill(container)
        engine.wait(container, timeout_seconds=SLACK_SECONDS)
        return True
    return False


@pytest.fixture(scope="module")
def corpus(
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
) -> Iterator[Corpus]:
    runner = JobRunner(engine, runner_image, networks, installation_id)

    def spec_of(name: str, script: str = "", **variables: str) -> SandboxSpec:
        return runner.spec(
            tmp_path_factory.mktemp(name),
            script or PRELUDE + SCRIPTS[name].read_text(),
            environment=plain_environment,
            platform=environments.platform_folder(),
            deadline_seconds=SCRIPT_SECONDS,
            resolvers=firewall.resolvers,
            variables=variables,
        )

    peer_spec = spec_of("peer", PEER_SCRIPT)
    peer = runner.start(peer_spec)
    try:
        address = _address(engine, peer)
        variables = {
            "GATEWAY": networks.jobs_gateway,
            "HOST_PORT": str(host.listener.getsockname()[1]),
            "PEER": address,
            "PEER_NAME": peer_spec.name,
            "RESOLVERS": ",".join(firewall.resolvers),
        }
        yield Corpus(runner, lambda name: spec_of(name, **variables), peer, host)
    finally:
        engine.remove(peer)


def _address(engine: Engine, container: str) -> str:
    for _, data in printed(engine.follow_logs(container)):
        if b"up" in data:
            break
    state = engine.state(container)
    assert state is not None and state.ip_address
    return state.ip_address


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_hostile_script_manages_nothing(corpus: Corpus, name: str):
    outcome = corpus.outcomes[name]
    assert outcome.lines("MANAGED") == [], outcome.said
    assert outcome.lines("refused"), outcome.said
    assert not outcome.state.running
    assert not outcome.overran
    # The container is what it was made to be to its end, and nothing of its root was written.
    assert outcome.differences == []
    assert outcome.changed_files == []


@pytest.mark.parametrize("name", sorted(ENDED_BY_MEMORY))
def test_who_takes_too_much_memory_is_ended_by_the_kernel_and_the_engine_says_so(
    corpus: Corpus, name: str
):
    assert corpus.outcomes[name].state.oom_killed


def test_nobody_outside_heard_of_any_of_them(corpus: Corpus, strangers: Strangers, engine: Engine):
    assert corpus.host.connections == 0
    with pytest.raises(BlockingIOError):
        corpus.host.datagrams.recv(100)
    # Each of them once, by the fixture itself.
    assert sorted(strangers.heard()) == sorted(STRANGERS)
    assert "heard" not in said(engine, corpus.peer)


def test_the_kernel_of_the_host_is_as_it_was(corpus: Corpus):
    assert corpus.host.kernel() == corpus.kernel_before
    assert not list(Path("/sys/fs/cgroup").glob("**/mine"))

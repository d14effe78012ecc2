"""Proves from inside that the network policy holds: what must fail is tried, and what must work.

Each network is tried by a container with the very sandbox that runs there, beside a second one that
it must not reach. The host's own addresses answer for themselves: a port where nobody listens says
"refused" to whom the firewall lets through. On one port somebody does listen, here, and must hear
nothing.
"""

import contextlib
import ipaddress
import json
import re
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox.container import SandboxSpec
from sandbox.engine import Engine, EngineError
from sandbox.firewall import Policy, Reachable
from sandbox.network import Networks
from sandbox.spec import probe_spec

PROBE_SECONDS = 60
PEER_SECONDS = 10
POLL_SECONDS = 0.05
PEER_COMMAND = ("python3", "-c", f"import time; time.sleep({PROBE_SECONDS})")
PROBE_COMMAND = ("python3", "-u", "/opt/mlops/probe_network.py")
PEER_PORT = 8080
# Nobody listens there (tcpmux): a host that can be reached refuses.
CLOSED_PORT = 1
# Of documentation (RFC 5737): which way a packet to it would take is all that is asked.
SOMEWHERE = "192.0.2.1"
FIB_TRIE = Path("/proc/net/fib_trie")
IF_INET6 = Path("/proc/net/if_inet6")
LOCAL_IPV4 = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")
REACHED = ("connected", "refused")
# Of each kind of address that is never the internet, one.
STRANGERS = (
    ("cloud metadata", "169.254.169.254", 80),
    ("Azure's platform", "168.63.129.16", 80),
    ("private 10/8", "10.0.0.1", 80),
    ("private 172.16/12", "172.31.255.254", 80),
    ("private 192.168/16", "192.168.0.1", 80),
    ("carrier 100.64/10", "100.100.100.200", 80),
    ("link-local", "169.254.170.2", 80),
    ("IPv6 metadata", "fd00:ec2::254", 80),
    ("IPv6 link-local", "fe80::a9fe:a9fe", 80),
    ("IPv6 internet", "2001:db8::1", 443),
)


@dataclass(frozen=True)
class Try:
    """An address that a container of a network must reach, or must not."""

    what: str
    host: str
    port: int
    must_reach: bool = False


@dataclass(frozen=True)
class Result:
    """What came of a try, as the container saw it; what the host heard is a result of its own."""

    network: str
    what: str
    address: str
    must_reach: bool
    got: str

    @property
    def passed(self) -> bool:
        return (self.got in REACHED) == self.must_reach and self.got != "not tried"

    @property
    def sentence(self) -> str:
        wanted = "must be reached" if self.must_reach else "must not be reached"
        return f"{self.what} ({self.address}) {wanted} from {self.network}: {self.got}"


@dataclass(frozen=True)
class Subjects:
    """A container's spec for each network; what runs in them is the probe."""

    internet: SandboxSpec
    none: SandboxSpec
    server: SandboxSpec
    build: SandboxSpec


def probe(
    engine: Engine, subjects: Subjects, *, policy: Policy, networks: Networks
) -> tuple[Result, ...]:
    """All tries of all networks, side by side. Raises EngineError, EngineUnavailable."""
    with _listening(networks.jobs_gateway) as listener:
        own = (*_host_tries(listener, networks), *_named(policy))
        strangers = [stranger for stranger in _strangers() if not _allows(policy, stranger)]
        mlflow = [Try("MLflow", *_first(each), must_reach=True) for each in policy.always]
        unreachable = [replace(each, must_reach=False) for each in mlflow]
        work = (
            ("internet", subjects.internet, [*own, *mlflow], strangers),
            ("none", subjects.none, [*own, *mlflow], strangers),
            ("server", subjects.server, [*own, *unreachable], strangers),
            # An index need not be reached: one that is away is no reason to run no jobs.
            ("build", subjects.build, [*own, *unreachable], _not_opened(policy, strangers)),
        )
        with ThreadPoolExecutor(max_workers=len(work)) as pool:
            results = pool.map(lambda each: _one_network(engine, *each), work)
            found = tuple(result for part in results for result in part)
        return found if listener is None else (*found, _heard(listener))


def _one_network(
    engine: Engine, network: str, spec: SandboxSpec, own: Sequence[Try], strangers: Sequence[Try]
) -> list[Result]:
    """The peer first: its address is what the other one tries."""
    with running(engine, probe_spec(_renamed(spec), command=PEER_COMMAND)) as peer:
        address = _address(engine, peer)
        must_reach = [each for each in own if each.must_reach]
        first = [*(each for each in own if not each.must_reach)]
        first.append(Try("another container", address, PEER_PORT))
        # Last: that it is reached says nothing of the firewall.
        second = [*strangers, *must_reach]
        lists = [[[each.host, each.port] for each in part] for part in (first, second)]
        environment = (*spec.environment, ("MLOPS_PROBE", json.dumps(lists)))
        asker = replace(_renamed(spec), environment=tuple(sorted(environment)))
        with running(engine, probe_spec(asker, command=PROBE_COMMAND)) as container:
            code = engine.wait(container, timeout_seconds=PROBE_SECONDS)
            said = engine.read_logs(container).decode(errors="replace")
    tries = [*first, *second]
    return [
        Result(network, each.what, f"{each.host}:{each.port}", each.must_reach, got)
        for each, got in zip(tries, _answers(code, said, len(tries)), strict=True)
    ]


def _answers(code: int, said: str, count: int) -> list[str]:
    """Raises EngineError when the probe itself failed: nothing is known then."""
    try:
        answers = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        answers = None
    if code != 0 or not isinstance(answers, list) or len(answers) != count:
        raise EngineError(f"The network probe ended with {code}: {said.strip()[-300:]}")
    return [str(answer) for answer in answers]


@contextlib.contextmanager
def running(engine: Engine, spec: SandboxSpec) -> Iterator[str]:
    """A container, started; it is removed when the block ends, however that is."""
    container = engine.create(spec)
    try:
        engine.start(container)
        yield container
    finally:
        engine.remove(container)


def _renamed(spec: SandboxSpec) -> SandboxSpec:
    return replace(spec, name=f"{spec.name}-{secrets.token_hex(4)}")


def _address(engine: Engine, container: str) -> str:
    """Raises EngineError when the container got none, or ended."""
    deadline = time.monotonic() + PEER_SECONDS
    while time.monotonic() < deadline:
        state = engine.state(container)
        if state is None or not state.running:
            break
        if state.ip_address:
            return state.ip_address
        time.sleep(POLL_SECONDS)
    raise EngineError("The probe's second container did not start.")


@contextlib.contextmanager
def _listening(address: str) -> Iterator[socket.socket | None]:
    """A listener on the host's address of the jobs network; None when the engine is elsewhere."""
    with socket.socket() as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            yield None
            return
        listener.listen()
        listener.setblocking(False)
        yield listener


def _heard(listener: socket.socket) -> Result:
    """The outside's word, whatever the containers said."""
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        got = "silent"
    else:
        connection.close()
        got = "connected"
    host, port = listener.getsockname()
    return Result("any", "a listener on the host, by what it heard", f"{host}:{port}", False, got)


def _host_tries(listener: socket.socket | None, networks: Networks) -> list[Try]:
    tries = [Try("the host", address, CLOSED_PORT) for address in _host_addresses(networks)]
    if listener is not None:
        host, port = listener.getsockname()
        tries.append(Try("a listener on the host", host, port))
    return tries


def _host_addresses(networks: Networks) -> list[str]:
    """A few of this host's addresses: one rule is for all of them. The way out is among them.

    Few, since a kernel tells a host of at most six refusals at once, and is then silent.
    """
    ipv4 = sorted(set(LOCAL_IPV4.findall(FIB_TRIE.read_text())))
    ipv6 = sorted({_ipv6(line.split()[0]) for line in IF_INET6.read_text().splitlines()})
    named = [networks.jobs_gateway, *_way_out(), *_foreign(ipv4)[:2], *_foreign(ipv6)[:2]]
    return list(dict.fromkeys(named))


def _way_out() -> list[str]:
    """The address that this host has to the internet; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            asker.connect((SOMEWHERE, 9))
        except OSError:
            return []
        return [str(asker.getsockname()[0])]


def _foreign(addresses: Sequence[str]) -> list[str]:
    return [each for each in addresses if not ipaddress.ip_address(each).is_loopback]


def _ipv6(digits: str) -> str:
    return str(ipaddress.IPv6Address(int(digits, 16)))


def _strangers() -> list[Try]:
    return [Try(what, host, port) for what, host, port in STRANGERS]


def _named(policy: Policy) -> list[Try]:
    """Whoever may be asked for names may be asked for nothing else."""
    return [Try("a resolver, by another port", address, 80) for address in policy.resolvers]


def _allows(policy: Policy, each: Try) -> bool:
    """Whether the operator opened this very address."""
    address = ipaddress.ip_address(each.host)
    named: Iterable[Reachable] = (*policy.always, *policy.allowed)
    return any(address in opened.network and each.port == opened.port for opened in named)


def _not_opened(policy: Policy, strangers: Iterable[Try]) -> list[Try]:
    """Without what an index or a proxy of the operator's own is."""
    named = {str(each.network.network_address) for each in policy.builds.named}
    return [each for each in strangers if each.host not in named]


def _first(reachable: Reachable) -> tuple[str, int]:
    return str(reachable.network.network_address), reachable.port

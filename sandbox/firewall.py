"""What containers may reach: rules of the host's firewall, in a table of this installation's own.

The table is nftables' own kind, beside Docker's chains and never in them: whatever flushes or
orders those does not touch ours, and ours touches nobody else's. It refuses and never grants: a
packet that it lets pass still has to pass everybody else's rules. It is written by a one-shot
container with NET_ADMIN in the host's network, always as a whole and in one step, so that writing
it again is how it is checked.

What is left open: with `internet`, a job asks the resolvers it was given (port 53 and nothing else
of them), so that it learns internal names, and can carry data out in the names it asks for.
"""

import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sandbox.engine import Engine
from sandbox.holders import HOLDER_LABEL, me
from sandbox.network import Networks
from sandbox.spec import firewall_spec

IPv4 = ipaddress.IPv4Network
INSTALL_SECONDS = 30
MISSING_MARK = "rules were missing"
# Never the internet: private (RFC 1918), carrier (6598), link-local with the metadata address
# (3927), loopback, "this" network, protocol assignments (Oracle's metadata), benchmarks, multicast
# and reserved; and the one public-looking address that is Azure's own platform.
FORBIDDEN = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
DNS_PORT = 53
ANSWERS = "ct state established,related accept"
REFUSE = "goto refuse"
# No IPv6, nothing of the host under any of its addresses, and nothing that is not the internet.
NOT_THE_INTERNET = (
    "meta nfproto ipv6 goto refuse",
    "fib daddr type != unicast goto refuse",
    f"ip daddr {{ {', '.join(FORBIDDEN)} }} goto refuse",
)
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
BRIDGE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
ALLOWED = re.compile(r"(?P<network>[0-9./]+):(?P<port>[0-9]{1,5})")


class AddressInvalid(ValueError):
    """An address in a setting cannot be used; the message says why."""


class RulesNotInstalled(Exception):
    """The host's firewall did not take the rules; the message is what it said."""


@dataclass(frozen=True)
class Reachable:
    """A network of addresses, and the one TCP port of each that may be reached."""

    network: IPv4
    port: int

    def __str__(self) -> str:
        return f"{self.network}:{self.port}"


@dataclass(frozen=True)
class BuildReach:
    """What builds may reach: what is named, the internet by these ports, and who knows names."""

    named: tuple[Reachable, ...] = ()
    ports: tuple[int, ...] = ()
    resolvers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """What the containers of one installation may reach.

    `always` is for every job (MLflow); `allowed` and `resolvers` for those that have `internet`.
    """

    installation_id: str
    always: tuple[Reachable, ...]
    allowed: tuple[Reachable, ...] = ()
    resolvers: tuple[str, ...] = ()
    builds: BuildReach = BuildReach()


def read_allowed(text: str) -> tuple[Reachable, ...]:
    """From `10.1.2.0/24:5432, 10.0.0.7:9000`. Raises AddressInvalid."""
    return tuple(_allowed(part.strip()) for part in text.split(",") if part.strip())


def reachable_url(url: str) -> tuple[Reachable, ...]:
    """Where a URL's server listens; its name is looked up now. Raises AddressInvalid."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise AddressInvalid(f"{url!r} names no server.")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = socket.getaddrinfo(parts.hostname, port, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise AddressInvalid(f"The server {parts.hostname}: {error}.") from error
    addresses = sorted({str(entry[4][0]) for entry in found})
    return tuple(Reachable(IPv4(f"{address}/32"), port) for address in addresses)


def is_internal(reachable: Reachable) -> bool:
    """Whether it is in a range that is never the internet."""
    return any(reachable.network.subnet_of(IPv4(each)) for each in FORBIDDEN)


def host_resolvers(files: Iterable[Path] = RESOLV_CONF) -> tuple[str, ...]:
    """Whom the host asks for names, where a container can ask them too.

    Empty when the host knows only itself: then the engine asks on the container's behalf.
    """
    for path in files:
        found = _nameservers(path)
        if found:
            return found
    return ()


def ruleset(policy: Policy, networks: Networks) -> str:
    """The whole table, in the words of `nft`. Raises AddressInvalid for a bridge's strange name."""
    for bridge in networks.bridges:
        if not BRIDGE_NAME.fullmatch(bridge):
            raise AddressInvalid(f"{bridge!r} is no name for a bridge.")
    ours = "{ " + ", ".join(f'"{bridge}"' for bridge in networks.bridges) + " }"
    lines = [
        f"table inet {table_name(policy.installation_id)} {{",
        *_chain(
            "input",
            "type filter hook input priority -10; policy accept;",
            *_jumps(networks),
        ),
        *_chain(
            "forward",
            "type filter hook forward priority -10; policy accept;",
            # Nobody begins to talk to a container; the host does, and that is no forwarding.
            f"oifname {ours} ct state != {{ established, related }} counter drop",
            *_jumps(networks),
        ),
        *_chain("jobs", ANSWERS, *_for_jobs(policy)),
        *_chain("offline", ANSWERS, *_accepts(policy.always), REFUSE),
        *_chain("servers", ANSWERS, REFUSE),
        *_chain("builds", ANSWERS, *_for_builds(policy), REFUSE),
        *_chain("refuse", "counter reject with icmpx type admin-prohibited"),
        "}",
    ]
    return "\n".join(lines) + "\n"


def table_name(installation_id: str) -> str:
    return "mlops_" + re.sub(r"[^A-Za-z0-9]", "_", installation_id)


def install(engine: Engine, *, image: str, policy: Policy, networks: Networks) -> bool:
    """Writes the rules. Returns whether they had been missing until now.

    Raises RulesNotInstalled, AddressInvalid, EngineError, EngineUnavailable.
    """
    table = table_name(policy.installation_id)
    said = _nft(
        engine,
        image=image,
        installation_id=policy.installation_id,
        command=(
            f"nft list table inet {table} >/dev/null 2>&1 || echo {MISSING_MARK}; "
            'printf %s "$RULES" | nft -f -'
        ),
        rules=f"table inet {table} {{}}\ndelete table inet {table}\n{ruleset(policy, networks)}",
    )
    return MISSING_MARK in said


def remove(engine: Engine, *, image: str, installation_id: str) -> None:
    """Removes an installation's table; one that is not there is removed already.

    Raises RulesNotInstalled, EngineError, EngineUnavailable.
    """
    table = table_name(installation_id)
    _nft(
        engine,
        image=image,
        installation_id=installation_id,
        command='printf %s "$RULES" | nft -f -',
        rules=f"table inet {table} {{}}\ndelete table inet {table}\n",
    )


def _jumps(networks: Networks) -> list[str]:
    """`input` has what is for the host, under any of its addresses; that needs no list of them."""
    return [
        f'iifname "{networks.jobs_bridge}" jump jobs',
        f'iifname "{networks.offline_bridge}" jump offline',
        f'iifname "{networks.servers_bridge}" jump servers',
        f'iifname "{networks.builds_bridge}" jump builds',
    ]


def _accepts(reachable: Sequence[Reachable]) -> list[str]:
    return [f"ip daddr {each.network} tcp dport {each.port} accept" for each in reachable]


def _asks(resolvers: Sequence[str]) -> list[str]:
    return [
        f"ip daddr {address} {protocol} dport {DNS_PORT} accept"
        for address in resolvers
        for protocol in ("udp", "tcp")
    ]


def _for_jobs(policy: Policy) -> list[str]:
    opened = _accepts((*policy.always, *policy.allowed))
    return [*opened, *_asks(policy.resolvers), *NOT_THE_INTERNET]


def _for_builds(policy: Policy) -> list[str]:
    reach = policy.builds
    ports = ", ".join(str(port) for port in reach.ports)
    internet = [*NOT_THE_INTERNET, f"tcp dport {{ {ports} }} accept"] if ports else []
    return [*_accepts(reach.named), *_asks(reach.resolvers), *internet]


def _chain(name: str, *rules: str) -> list[str]:
    return [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]


def _nft(engine: Engine, *, image: str, installation_id: str, command: str, rules: str) -> str:
    spec = firewall_spec(
        name=f"mlops-{installation_id}-firewall-{secrets.token_hex(4)}",
        image=image,
        command=("sh", "-c", command),
        rules=rules,
        labels={"mlops.installation": installation_id, HOLDER_LABEL: me()},
    )
    container = engine.create(spec)
    try:
        engine.start(container)
        code = engine.wait(container, timeout_seconds=INSTALL_SECONDS)
        said = engine.read_logs(container).decode(errors="replace").strip()
    finally:
        engine.remove(container)
    if code != 0:
        raise RulesNotInstalled(said[-500:] or f"nft ended with {code}")
    return said


def _allowed(text: str) -> Reachable:
    match = ALLOWED.fullmatch(text)
    if match is None:
        raise AddressInvalid(
            f"{text!r} is not an address with a port, such as 10.1.2.0/24:5432 (jobs have no IPv6)."
        )
    try:
        network = IPv4(match["network"])
    except ValueError as error:
        raise AddressInvalid(f"{text!r}: {error}.") from None
    port = int(match["port"])
    if not 0 < port < 65536:
        raise AddressInvalid(f"{text!r}: a port is a number from 1 to 65535.")
    return Reachable(network, port)


def _nameservers(path: Path) -> tuple[str, ...]:
    """IPv4 ones that are not the host's own loopback."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ()
    words = [line.split() for line in lines]
    named = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    found = []
    for name in named:
        try:
            address = ipaddress.IPv4Address(name)
        except ValueError:
            continue
        if not address.is_loopback:
            found.append(str(address))
    return tuple(found)

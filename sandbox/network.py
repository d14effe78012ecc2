"""The networks of an installation; containers on them never reach each other."""

from dataclasses import dataclass

from docker.errors import APIError
from docker.types import IPAMConfig, IPAMPool

from sandbox.engine import Engine, EngineError, _mapped

ISOLATED = {"com.docker.network.bridge.enable_icc": "false"}
BRIDGE_OPTION = "com.docker.network.bridge.name"


@dataclass(frozen=True)
class Networks:
    """`jobs` reaches the internet, `offline` MLflow only, `servers` nothing.

    `jobs_gateway` is the host's address on the jobs network, where MLflow listens, `jobs_subnet`
    what it is part of. The bridges are the host's interfaces, by which the firewall knows them.
    `offline` is not what Docker calls internal: there a job has no way to MLflow's address.
    """

    jobs: str
    offline: str
    servers: str
    jobs_gateway: str
    jobs_subnet: str
    jobs_bridge: str
    offline_bridge: str
    servers_bridge: str


@dataclass(frozen=True)
class _Made:
    """A network's addresses, and the bridge that it is to the host."""

    subnet: str
    gateway: str
    bridge: str


@_mapped
def ensure_networks(
    engine: Engine, installation_id: str, *, jobs_subnet: str = "", jobs_gateway: str = ""
) -> Networks:
    """Makes what is missing. Raises EngineError when a network has the name but not the shape.

    A jobs network that is made again while the platform runs needs the addresses it had: MLflow
    listens at one of them. EngineError also when they belong to another network by now.
    """
    jobs, offline, servers = _names(installation_id)
    pool = IPAMPool(subnet=jobs_subnet, gateway=jobs_gateway or None) if jobs_subnet else None
    made = _ensure(engine, jobs, installation_id=installation_id, internal=False, pool=pool)
    made_offline = _ensure(engine, offline, installation_id=installation_id, internal=False)
    made_servers = _ensure(engine, servers, installation_id=installation_id, internal=True)
    return Networks(
        jobs=jobs,
        offline=offline,
        servers=servers,
        jobs_gateway=made.gateway,
        jobs_subnet=made.subnet,
        jobs_bridge=made.bridge,
        offline_bridge=made_offline.bridge,
        servers_bridge=made_servers.bridge,
    )


@_mapped
def missing_networks(engine: Engine, installation_id: str) -> list[str]:
    """The names of those networks that somebody removed."""
    label = f"mlops.installation={installation_id}"
    there = {network["Name"] for network in engine.api.networks(filters={"label": [label]})}
    return [name for name in _names(installation_id) if name not in there]


@_mapped
def remove_networks(engine: Engine, installation_id: str) -> None:
    """Removes the networks of an installation; one that is in use or missing is left alone."""
    label = f"mlops.installation={installation_id}"
    for network in engine.api.networks(filters={"label": [label]}):
        try:
            engine.api.remove_network(network["Id"])
        except APIError as error:
            if error.status_code not in (403, 404):
                raise


def _names(installation_id: str) -> tuple[str, str, str]:
    """Jobs, offline, servers."""
    prefix = f"mlops-{installation_id}"
    return f"{prefix}-jobs", f"{prefix}-offline", f"{prefix}-servers"


def _ensure(
    engine: Engine,
    name: str,
    *,
    installation_id: str,
    internal: bool,
    pool: IPAMPool | None = None,
) -> _Made:
    if not engine.api.networks(names=[f"^{name}$"]):
        engine.api.create_network(
            name,
            driver="bridge",
            internal=internal,
            options=ISOLATED,
            ipam=IPAMConfig(pool_configs=[pool]) if pool else None,
            labels={"mlops.installation": installation_id},
            check_duplicate=True,
        )
    network = engine.api.inspect_network(name)
    if network["Internal"] != internal or network["Options"].get(next(iter(ISOLATED))) != "false":
        raise EngineError(f"The network {name} exists but is not isolated; remove it.")
    addresses = network["IPAM"]["Config"][0]
    return _Made(
        subnet=addresses["Subnet"],
        gateway=addresses["Gateway"],
        bridge=network["Options"].get(BRIDGE_OPTION) or f"br-{network['Id'][:12]}",
    )

"""The networks of an installation; containers on them never reach each other."""

from dataclasses import dataclass

from docker.errors import APIError
from docker.types import IPAMConfig, IPAMPool

from sandbox.engine import Engine, EngineError
from sandbox.engine_errors import mapped

ISOLATED = {"com.docker.network.bridge.enable_icc": "false"}
BRIDGE_OPTION = "com.docker.network.bridge.name"


@dataclass(frozen=True)
class Networks:
    """`jobs` reaches the internet, `offline` MLflow only, `servers` nothing, `builds` the package
    index.

    `jobs_gateway` is the host's address on the jobs network, where MLflow listens, `jobs_subnet`
    what it is part of. The bridges are the host's interfaces, by which the firewall knows them.
    `offline` is not what Docker calls internal: there a job has no way to MLflow's address.
    """

    jobs: str
    offline: str
    servers: str
    builds: str
    jobs_gateway: str
    jobs_subnet: str
    jobs_bridge: str
    offline_bridge: str
    servers_bridge: str
    builds_bridge: str

    @property
    def bridges(self) -> tuple[str, ...]:
        return (self.jobs_bridge, self.offline_bridge, self.servers_bridge, self.builds_bridge)


@dataclass(frozen=True)
class _Made:
    """A network, its addresses, and the bridge that it is to the host."""

    name: str
    internal: bool
    isolated: bool
    subnet: str
    gateway: str
    bridge: str

    @classmethod
    def of(cls, engine: Engine, name: str) -> "_Made":
        network = engine.api.inspect_network(name)
        options, addresses = network["Options"], network["IPAM"]["Config"][0]
        return cls(
            name=name,
            internal=network["Internal"],
            isolated=ISOLATED.items() <= options.items(),
            subnet=addresses["Subnet"],
            gateway=addresses["Gateway"],
            bridge=options.get(BRIDGE_OPTION) or f"br-{network['Id'][:12]}",
        )


def network_names(installation_id: str) -> tuple[str, str, str, str]:
    """Every network of an installation: jobs, offline, servers, builds."""
    prefix = f"mlops-{installation_id}"
    return f"{prefix}-jobs", f"{prefix}-offline", f"{prefix}-servers", f"{prefix}-builds"


@mapped
def ensure_networks(
    engine: Engine, installation_id: str, *, jobs_subnet: str = "", jobs_gateway: str = ""
) -> Networks:
    """Makes what is missing. Raises EngineError when a network has the name but not the shape.

    A jobs network that is made again while the platform runs needs the addresses it had: MLflow
    listens at one of them. EngineError also when they belong to another network by now.
    """
    jobs, offline, servers, builds = network_names(installation_id)
    pool = IPAMPool(subnet=jobs_subnet, gateway=jobs_gateway or None) if jobs_subnet else None
    return _networks(
        _ensure(engine, jobs, installation_id=installation_id, internal=False, pool=pool),
        _ensure(engine, offline, installation_id=installation_id, internal=False),
        _ensure(engine, servers, installation_id=installation_id, internal=True),
        _ensure(engine, builds, installation_id=installation_id, internal=False),
    )


@mapped
def find_networks(
    engine: Engine, *, jobs: str, offline: str, servers: str, builds: str
) -> Networks:
    """Those that are there, by their names. Raises EngineError for one that is missing."""
    return _networks(*(_Made.of(engine, name) for name in (jobs, offline, servers, builds)))


@mapped
def missing_networks(engine: Engine, installation_id: str) -> list[str]:
    """The names of those networks that somebody removed."""
    label = f"mlops.installation={installation_id}"
    there = {network["Name"] for network in engine.api.networks(filters={"label": [label]})}
    return [name for name in network_names(installation_id) if name not in there]


@mapped
def remove_networks(engine: Engine, installation_id: str) -> None:
    """Removes the networks of an installation; one that is in use or missing is left alone."""
    label = f"mlops.installation={installation_id}"
    for network in engine.api.networks(filters={"label": [label]}):
        try:
            engine.api.remove_network(network["Id"])
        except APIError as error:
            if error.status_code not in (403, 404):
                raise


def _networks(jobs: _Made, offline: _Made, servers: _Made, builds: _Made) -> Networks:
    return Networks(
        jobs=jobs.name,
        offline=offline.name,
        servers=servers.name,
        builds=builds.name,
        jobs_gateway=jobs.gateway,
        jobs_subnet=jobs.subnet,
        jobs_bridge=jobs.bridge,
        offline_bridge=offline.bridge,
        servers_bridge=servers.bridge,
        builds_bridge=builds.bridge,
    )


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
    made = _Made.of(engine, name)
    if made.internal != internal or not made.isolated:
        raise EngineError(f"The network {name} exists but is not isolated; remove it.")
    return made

"""The two networks of an installation; containers on them never reach each other."""

from dataclasses import dataclass

from docker.errors import APIError
from docker.types import IPAMConfig, IPAMPool

from sandbox.engine import Engine, EngineError, _mapped

ISOLATED = {"com.docker.network.bridge.enable_icc": "false"}


@dataclass(frozen=True)
class Networks:
    """`jobs` reaches the package index and data sources; `servers` reaches nothing.

    `jobs_gateway` is the host's address on the jobs network, where MLflow listens, `jobs_subnet`
    what it is part of.
    """

    jobs: str
    servers: str
    jobs_gateway: str
    jobs_subnet: str


@_mapped
def ensure_networks(
    engine: Engine, installation_id: str, *, jobs_subnet: str = "", jobs_gateway: str = ""
) -> Networks:
    """Makes what is missing. Raises EngineError when a network has the name but not the shape.

    A jobs network that is made again while the platform runs needs the addresses it had: MLflow
    listens at one of them. EngineError also when they belong to another network by now.
    """
    jobs = f"mlops-{installation_id}-jobs"
    servers = f"mlops-{installation_id}-servers"
    pool = IPAMPool(subnet=jobs_subnet, gateway=jobs_gateway or None) if jobs_subnet else None
    made = _ensure(engine, jobs, installation_id=installation_id, internal=False, pool=pool)
    _ensure(engine, servers, installation_id=installation_id, internal=True)
    return Networks(
        jobs=jobs, servers=servers, jobs_gateway=made["Gateway"], jobs_subnet=made["Subnet"]
    )


@_mapped
def missing_networks(engine: Engine, installation_id: str) -> list[str]:
    """The names of those networks that somebody removed."""
    label = f"mlops.installation={installation_id}"
    there = {network["Name"] for network in engine.api.networks(filters={"label": [label]})}
    wanted = (f"mlops-{installation_id}-jobs", f"mlops-{installation_id}-servers")
    return [name for name in wanted if name not in there]


@_mapped
def remove_networks(engine: Engine, installation_id: str) -> None:
    """Removes both networks of an installation; one that is in use or missing is left alone."""
    label = f"mlops.installation={installation_id}"
    for network in engine.api.networks(filters={"label": [label]}):
        try:
            engine.api.remove_network(network["Id"])
        except APIError as error:
            if error.status_code not in (403, 404):
                raise


def _ensure(
    engine: Engine,
    name: str,
    *,
    installation_id: str,
    internal: bool,
    pool: IPAMPool | None = None,
) -> dict[str, str]:
    """Returns the network's addresses: `Subnet`, `Gateway`."""
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
    return dict(network["IPAM"]["Config"][0])

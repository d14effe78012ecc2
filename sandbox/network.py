"""The two networks of an installation; containers on them never reach each other."""

from dataclasses import dataclass

from docker.errors import APIError

from sandbox.engine import Engine, EngineError, _mapped

ISOLATED = {"com.docker.network.bridge.enable_icc": "false"}


@dataclass(frozen=True)
class Networks:
    """`jobs` reaches the package index and data sources; `servers` reaches nothing.

    `jobs_gateway` is the host's address on the jobs network, where MLflow listens.
    """

    jobs: str
    servers: str
    jobs_gateway: str


@_mapped
def ensure_networks(engine: Engine, installation_id: str) -> Networks:
    """Makes what is missing. Raises EngineError when a network has the name but not the shape."""
    jobs = f"mlops-{installation_id}-jobs"
    servers = f"mlops-{installation_id}-servers"
    gateway = _ensure(engine, jobs, installation_id=installation_id, internal=False)
    _ensure(engine, servers, installation_id=installation_id, internal=True)
    return Networks(jobs=jobs, servers=servers, jobs_gateway=gateway)


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


def _ensure(engine: Engine, name: str, *, installation_id: str, internal: bool) -> str:
    """Returns the gateway's address."""
    if not engine.api.networks(names=[f"^{name}$"]):
        engine.api.create_network(
            name,
            driver="bridge",
            internal=internal,
            options=ISOLATED,
            labels={"mlops.installation": installation_id},
            check_duplicate=True,
        )
    network = engine.api.inspect_network(name)
    if network["Internal"] != internal or network["Options"].get(next(iter(ISOLATED))) != "false":
        raise EngineError(f"The network {name} exists but is not isolated; remove it.")
    return str(network["IPAM"]["Config"][0]["Gateway"])

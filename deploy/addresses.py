"""Where the processes listen: addresses and ports, and whether they are free."""

import os
import socket
from dataclasses import dataclass

from deploy.home import Home
from deploy.report import Stop
from sandbox.network import Networks

DEFAULT_PORT = 8000
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Address:
    """Where the web process listens."""

    bind: str
    port: int

    @property
    def url(self) -> str:
        host = "localhost" if self.bind in (*LOOPBACK, "0.0.0.0") else self.bind
        return f"http://{host}:{self.port}"

    @property
    def probe_host(self) -> str:
        return "127.0.0.1" if self.bind in (*LOOPBACK, "0.0.0.0") else self.bind


def web_address() -> Address:
    """Raises Stop for a PORT that is none."""
    text = os.environ.get("PORT", str(DEFAULT_PORT))
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise Stop(f"PORT={text} is not a port; choose one from 1 to 65535.")
    return Address(bind=os.environ.get("MLOPS_BIND", "127.0.0.1"), port=int(text))


def check_port(address: Address) -> None:
    """Raises Stop when the address is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.bind, address.port))
        except OSError as error:
            raise Stop(
                f"{address.bind}:{address.port} cannot be used ({error.strerror}). "
                f"Choose another port: PORT={address.port + 1} make run"
            ) from None


def mlflow_port(home: Home, networks: Networks) -> int:
    """The same port at each start, since it is part of what users bookmark; a new one if taken."""
    known = home.remembered("mlflow_port")
    for port in (known, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((networks.jobs_gateway, port))
            except OSError:
                continue
            home.remember("mlflow_port", probe.getsockname()[1])
            return int(probe.getsockname()[1])
    raise Stop(f"No free port for MLflow at {networks.jobs_gateway}.")

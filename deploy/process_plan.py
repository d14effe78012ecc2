"""What each process of the platform is: its command, its account and its variables."""

import os
import sys

from deploy import accounts as accounts_of
from deploy.accounts import Accounts
from deploy.addresses import LOOPBACK, Address
from deploy.backing import Backing
from deploy.home import Home
from deploy.processes import Service
from registry.gate.ledger import FILES_VARIABLE, MEGABYTES_VARIABLE
from sandbox.build_rules import SECRET_SETTINGS
from sandbox.images import ImageInfo
from sandbox.network import Networks

CONNECTION = "mlops_site.connections:Connection"
THIS_HOST = "127.0.0.1"
LOOPBACK_HOSTS = "localhost,127.0.0.1,[::1]"
# What every process may know of the operator's shell: words, certificates, our own settings.
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
ENGINE_VARIABLES = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
RUNTIME_VARIABLE = "SANDBOX_RUNTIME"
SECRET_VARIABLES = frozenset({"MLOPS_SECRET_KEY", "MLOPS_MLFLOW_PASSWORD", "MLOPS_MLFLOW_SECRET"})


class Plan:
    """What each process runs, as whom, and with which variables: no more than it needs."""

    def __init__(
        self,
        home: Home,
        address: Address,
        accounts: Accounts,
        networks: Networks,
        *,
        backing: Backing,
        mlflow_port: int,
        runtime: str,
    ) -> None:
        self.backing = backing
        self.images: tuple[ImageInfo, ...] = ()
        self.runtime = runtime
        self.home = home
        self.address = address
        self.accounts = accounts
        self.networks = networks
        self.mlflow_port = mlflow_port
        needed = accounts_of.needed_folders(home)
        self._covered = tuple(accounts_of.covered_folders(needed)) if accounts.web else ()
        self._needed = tuple(needed)

    @property
    def mlflow_url(self) -> str:
        return f"http://{self.networks.jobs_gateway}:{self.mlflow_port}"

    def mlflow(self) -> Service:
        command = [sys.executable, "-m", "registry.mlflow_server"]
        command += ["--home", str(self.home.folder("mlflow"))]
        command += ["--host", self.networks.jobs_gateway, "--port", str(self.mlflow_port)]
        bounds = (MEGABYTES_VARIABLE, FILES_VARIABLE)
        environment = {
            **_passed_on(),
            **{name: os.environ[name] for name in bounds if name in os.environ},
            "MLOPS_MLFLOW_PASSWORD": self.home.secrets["mlflow_password"],
            "MLOPS_MLFLOW_SECRET": self.home.secrets["mlflow_session_key"],
        }
        return Service(
            name="mlflow",
            command=tuple(command),
            environment=environment,
            account=self.accounts.mlflow,
            covered=self._covered,
            needed=self._needed,
        )

    def web(self) -> Service:
        command = [sys.executable, "-m", "uvicorn", "mlops_site.asgi:application"]
        command += ["--host", self.address.bind, "--port", str(self.address.port)]
        command += ["--loop", "uvloop", "--http", CONNECTION, "--no-access-log"]
        command += ["--log-level", "warning"]
        command += _believed_proxies()
        # Clients that follow a job would hold up the end; they come back to the next process.
        command += ["--timeout-graceful-shutdown", "3"]
        environment = {
            **self._common_environment(),
            "MLOPS_SECRET_KEY": self.home.secrets["session_key"],
            "MLOPS_ALLOWED_HOSTS": os.environ.get("MLOPS_ALLOWED_HOSTS") or self._hosts(),
            # A user waits for it, and one of few threads; a job can wait longer.
            "MLOPS_MLFLOW_CALL_SECONDS": os.environ.get("MLOPS_MLFLOW_CALL_SECONDS", "5"),
        }
        return Service(
            name="web",
            command=tuple(command),
            environment=environment,
            account=self.accounts.web,
            covered=self._covered,
            needed=self._needed,
        )

    def worker(self) -> Service:
        return self._manage_service("worker", "work")

    def supervisor(self) -> Service:
        return self._manage_service("supervisor", "supervise")

    def worker_environment(self) -> dict[str, str]:
        """The addresses of engine and queue, and the queue's key; no key of anybody's session."""
        engine = {name: os.environ[name] for name in ENGINE_VARIABLES if name in os.environ}
        return {
            **self._common_environment(),
            **engine,
            **self.backing.for_workers,
            **{name: os.environ[name] for name in SECRET_SETTINGS if name in os.environ},
            RUNTIME_VARIABLE: self.runtime,
            "HOME": str(self.home.root),
            "MLOPS_SECRET_KEY": self.home.secrets["queue_key"],
        }

    def _manage_service(self, name: str, command: str) -> Service:
        return Service(
            name=name,
            command=(sys.executable, "manage.py", command),
            environment=self.worker_environment(),
        )

    def _common_environment(self) -> dict[str, str]:
        hidden = SECRET_VARIABLES.union(SECRET_SETTINGS)
        own = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("MLOPS_") and name not in hidden
        }
        return {
            **_passed_on(),
            **own,
            **self.backing.for_everybody,
            "MLOPS_HOME": str(self.home.root),
            "PORT": str(self.address.port),
            "MLOPS_INSTALLATION_ID": self.home.installation_id,
            "MLOPS_PYTHON_IMAGES": ",".join(f"{one.python}={one.tag}" for one in self.images),
            "MLOPS_JOBS_NETWORK": self.networks.jobs,
            "MLOPS_JOBS_SUBNET": self.networks.jobs_subnet,
            "MLOPS_JOBS_GATEWAY": self.networks.jobs_gateway,
            "MLOPS_OFFLINE_NETWORK": self.networks.offline,
            "MLOPS_SERVERS_NETWORK": self.networks.servers,
            "MLOPS_BUILDS_NETWORK": self.networks.builds,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLOPS_MLFLOW_PASSWORD": self.home.secrets["mlflow_password"],
        }

    def _hosts(self) -> str:
        return LOOPBACK_HOSTS if self.address.bind in LOOPBACK else "*"


def _believed_proxies() -> list[str]:
    """Whose word for a client's address and scheme is taken; with an empty setting nobody's."""
    trusted = os.environ.get("MLOPS_TRUSTED_PROXIES", THIS_HOST)
    return ["--forwarded-allow-ips", trusted] if trusted else ["--no-proxy-headers"]


def _passed_on() -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**passed, "PYTHONUNBUFFERED": "1"}

"""A model is a stranger's code too: what its pickle tries in the server that opens it.

The very scripts of the corpus, run by a pickle, in a container with a model server's sandbox,
beside a server that answers all the while.
"""

import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from deploy.trial import wait_for
from inference.containers import TOKEN_VARIABLE, ending
from sandbox.container import Limits, SandboxSpec
from sandbox.engine import Engine
from sandbox.environments import Environment, EnvironmentStore
from sandbox.firewall import Policy
from sandbox.image.served_ends import Exit
from sandbox.network import Networks
from sandbox.spec import SERVER_PORT, server_spec
from tests.docker.hostile.expected import OFFLINE, WAITING, harmless
from tests.docker.hostile.test_corpus import PACK, PRELUDE, SCRIPTS
from tests.fixtures.strangers import STRANGERS, Strangers

# Where the engine lays its init into the file system, which is all that it may show as changed.
ENGINE_INIT = {"/usr", "/usr/sbin", "/usr/sbin/docker-init"}
READY_SECONDS = 180
END_SECONDS = 240
TRIED = (
    "cgroup_escape",
    "docker_socket",
    "host_paths",
    "net_host",
    "net_none",
    "net_peer",
    "own_rights",
    "read_only",
    "secrets",
)
PYFUNC = "flavors:\n  python_function:\n    python_version: 3.11.2\n"
BENIGN = "class Model:\n    def predict(self, table):\n        return [1] * len(table)\n\n\n"
BENIGN += "def _load_pyfunc(path):\n    return Model()\n"
HOG = "kept = []\nwhile True:\n    kept.append(os.urandom(1024 * 1024))\n"


class Payload:
    """What unpickles as a call of `exec`."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, dict[str, str]]]:
        return exec, (self.source, {"__name__": "hostile"})


def with_code(folder: Path, source: str) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "benign_loader.py").write_text(source)
    about = f"{PYFUNC}    loader_module: benign_loader\n    code: code\n"
    (folder / "MLmodel").write_text(about)


def with_pickle(folder: Path, source: str) -> None:
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Payload(source)))
    _pyfunc_model(folder, "python_model.pkl")


def with_description(about: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "MLmodel").write_text(about)

    return fill


def with_linked_description(folder: Path) -> None:
    (folder / "MLmodel").symlink_to("/proc/self/environ")


def _pyfunc_model(folder: Path, path: str) -> None:
    about = f"{PYFUNC}    loader_module: mlflow.pyfunc.model\n    cloudpickle_version: 3.0.0\n"
    (folder / "MLmodel").write_text(f"{about}    python_model: {path}\n")


@dataclass
class Servers:
    """Starts model servers under one runtime; they go with the test."""

    engine: Engine
    spec_of: Callable[[Path, str], SandboxSpec]
    root: Path
    made: list[str]
    token: str

    def start(self, fill: Callable[[Path], None], **variables: str) -> str:
        folder = self.root / secrets.token_hex(4)
        folder.mkdir(mode=0o755)
        fill(folder)
        spec = self.spec_of(folder, self.token, **variables)
        container = self.engine.create(spec)
        self.made.append(container)
        self.engine.start(container)
        return container

    def address(self, container: str) -> str:
        def look() -> str | None:
            state = self.engine.state(container)
            assert state is not None and state.running, self.said(container)
            return state.ip_address

        return f"http://{wait_for(look, seconds=60, what='an address')}:{SERVER_PORT}"

    def ask(self, container: str, path: str, **options: object) -> requests.Response | None:
        headers = {"Authorization": f"Bearer {self.token}"}
        method = "POST" if options else "GET"
        try:
            return requests.request(
                method, f"{self.address(container)}{path}", headers=headers, timeout=30, **options
            )
        except requests.ConnectionError:
            return None

    def wait_until_ready(self, container: str) -> None:
        def ready() -> bool:
            answer = self.ask(container, "/ready")
            return answer is not None and answer.status_code == 200

        wait_for(ready, seconds=READY_SECONDS, what="the model server")

    def said(self, container: str) -> str:
        return self.engine.read_logs(container).decode(errors="replace")


@pytest.fixture(scope="module")
def servers(
    runtime: str,
    engine: Engine,
    runner_image: str,
    networks: Networks,
    installation_id: str,
    plain_environment: Environment,
    environments: EnvironmentStore,
    firewall: Policy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Servers]:
    def spec_of(folder: Path, token: str, **variables: str) -> SandboxSpec:
        return server_spec(
            name=f"mlops-{installation_id}-server-{secrets.token_hex(4)}",
            image=runner_image,
            model_folder=folder,
            environment_folder=plain_environment.path,
            platform_folder=environments.platform_folder(),
            variables={TOKEN_VARIABLE: token, **variables},
            network=networks.servers,
            limits=Limits(memory_mb=512, cpus=1.0, pids=64, scratch_mb=32),
            runtime=runtime,
            labels={"mlops.installation": installation_id},
        )

    root = tmp_path_factory.mktemp("models")
    root.chmod(0o755)
    started = Servers(engine, spec_of, root, [], secrets.token_hex(16))
    yield started
    for container in started.made:
        print(started.said(container))
        engine.remove(container)


@pytest.fixture(scope="module")
def neighbour(servers: Servers) -> str:
    """A server that was there before, with a model that does its work."""
    container = servers.start(lambda folder: with_code(folder, BENIGN))
    servers.wait_until_ready(container)
    return container


NATIVE = "flavors:\n  sklearn:\n    serialization_format: cloudpickle\n    pickled_model: "
OUTSIDE = "ModelFilesOutside"
POINTS_OUTSIDE: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "a device": (with_description(f"{NATIVE}/dev/zero\n"), OUTSIDE),
    "a pipe of its own": (with_description(f"{NATIVE}../dev/stdin\n"), OUTSIDE),
    "another file": (lambda folder: _pyfunc_model(folder, "../../etc/passwd"), OUTSIDE),
    # MLflow's loader walks through all that is below, which is everything.
    "code": (with_description(f"{PYFUNC}    loader_module: benign\n    code: ../..\n"), OUTSIDE),
    "a link": (with_linked_description, OUTSIDE),
    "a loader by its path": (
        with_description(f"{PYFUNC}    loader_module: ../../tmp/loader\n"),
        "Error",
    ),
    "no description": (with_description("[1, 2]\n"), "ValueError"),
}


def test_a_model_that_points_outside_ends_its_server_at_once_and_says_why(
    servers: Servers, engine: Engine
):
    started = {what: servers.start(fill) for what, (fill, _) in POINTS_OUTSIDE.items()}
    for what, container in started.items():
        assert engine.wait(container, timeout_seconds=END_SECONDS) == Exit.LOAD_FAILED, what
        end = ending(engine.state(container), engine, memory_mb=512, loading=True)
        assert POINTS_OUTSIDE[what][1] in end.sentence, (what, end.sentence)
        assert "root:" not in end.log_tail


def test_a_pickle_gets_out_of_no_model_server(
    servers: Servers,
    neighbour: str,
    runtime: str,
    networks: Networks,
    strangers: Strangers,
    engine: Engine,
):
    waiting = {name: SCRIPTS[name] for name in TRIED if name in WAITING | OFFLINE}
    others = {name: SCRIPTS[name] for name in TRIED if name not in waiting}
    source = f"{PACK}\nrun_together({PRELUDE!r}, {waiting!r})\nrun_each({PRELUDE!r}, {others!r})\n"
    source += "os._exit(3)\n"
    variables = {
        "GATEWAY": networks.jobs_gateway,
        "HOST_PORT": "22",
        "PEER": servers.address(neighbour).removeprefix("http://").partition(":")[0],
        "RESOLVERS": "",
    }
    attacker = servers.start(lambda folder: with_pickle(folder, source), **variables)
    hog = servers.start(lambda folder: with_pickle(folder, f"import os\n{HOG}"))
    assert engine.wait(attacker, timeout_seconds=END_SECONDS) == 3
    said = servers.said(attacker)
    allowed = tuple(word for name in TRIED for word in harmless(name, runtime))
    managed = [line for line in said.splitlines() if line.startswith("MANAGED")]
    assert [line for line in managed if not (allowed and line.startswith(allowed))] == [], said
    assert said.count("--- ended ") == len(TRIED), said
    assert sorted(strangers.heard()) == sorted(STRANGERS)

    engine.wait(hog, timeout_seconds=END_SECONDS)
    state = engine.state(hog)
    assert state is not None and state.oom_killed

    for container in (attacker, hog, neighbour):
        inspect = engine.api.inspect_container(container)
        assert inspect["HostConfig"]["Runtime"] == runtime
        assert {change["Path"] for change in engine.api.diff(container) or []} <= ENGINE_INIT
    answer = servers.ask(neighbour, "/predict", json={"inputs": [[1.0], [2.0]]})
    assert answer is not None and answer.json()["predictions"] == [1, 1]

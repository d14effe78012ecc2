"""What containers reach and what they do not, tried against stand-ins on this machine alone."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.container import NO_RESOLVER, RUNC, Kind, Limits, SandboxSpec
from sandbox.engine import Engine
from sandbox.environments import Environment, EnvironmentStore
from sandbox.firewall import BuildReach, Policy, install, read_allowed, remove
from sandbox.network import Networks
from sandbox.probe import Subjects, probe, running
from sandbox.spec import build_spec, probe_spec, server_spec
from tests.fixtures.engine import MLFLOW_PORT, JobRunner, said
from tests.fixtures.strangers import METADATA, NAMED, PORT, PRIVATE, PUBLIC

TRY = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def attempt(target):
    try:
        socket.create_connection((target[0], target[1]), timeout=2.5).close()
    except OSError as error:
        return type(error).__name__
    return "connected"
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(attempt, json.loads({targets!r})))))
"""


@pytest.fixture(scope="module")
def mlflow(networks: Networks) -> Iterator[None]:
    """Somebody who answers at MLflow's port."""
    with socket.create_server((networks.jobs_gateway, MLFLOW_PORT)) as listener:
        thread = threading.Thread(target=_answer, args=(listener,))
        thread.start()
        yield
        # Closing it would not wake who waits on it.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _answer(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


@pytest.fixture
def tried(
    jobs: JobRunner,
    plain_environment: Environment,
    environments: EnvironmentStore,
    firewall: Policy,
    tmp_path: Path,
):
    """Tries addresses from a job on a network; returns what came of each."""

    def try_them(network: str, *targets: tuple[str, int], resolvers=()) -> list[str]:
        spec = jobs.spec(
            tmp_path,
            TRY.format(targets=json.dumps(targets)),
            environment=plain_environment,
            platform=environments.platform_folder(),
            network=network,
            resolvers=resolvers,
        )
        container = jobs.start(spec)
        assert jobs.engine.wait(container, timeout_seconds=60) == 0
        return json.loads(said(jobs.engine, container).splitlines()[-1])

    return try_them


def _server(image: str, networks: Networks, installation_id: str, empty: Path) -> SandboxSpec:
    return server_spec(
        name=f"mlops-{installation_id}-probe-server",
        image=image,
        model_folder=empty,
        environment_folder=empty,
        platform_folder=empty,
        variables={},
        network=networks.servers,
        limits=Limits(memory_mb=128, cpus=1.0, pids=64, scratch_mb=8),
        runtime=RUNC,
        labels={"mlops.installation": installation_id},
    )


def _build(image: str, networks: Networks, installation_id: str, empty: Path) -> SandboxSpec:
    return build_spec(
        name=f"mlops-{installation_id}-probe-build",
        image=image,
        command=(),
        store_folder=empty,
        user="builder",
        variables={},
        network=networks.builds,
        limits=Limits(memory_mb=128, cpus=1.0, pids=64, scratch_mb=8),
        labels={"mlops.installation": installation_id},
    )


@pytest.fixture
def subjects(
    jobs: JobRunner,
    plain_environment: Environment,
    environments: EnvironmentStore,
    runner_image: str,
    networks: Networks,
    installation_id: str,
    tmp_path: Path,
) -> Subjects:
    def job(network: str, resolvers: tuple[str, ...]) -> SandboxSpec:
        return jobs.spec(
            tmp_path,
            "",
            environment=plain_environment,
            platform=environments.platform_folder(),
            network=network,
            resolvers=resolvers,
        )

    empty = tmp_path / "empty"
    empty.mkdir()
    return Subjects(
        internet=job(networks.jobs, ()),
        none=job(networks.offline, (NO_RESOLVER,)),
        server=_server(runner_image, networks, installation_id, empty),
        build=_build(runner_image, networks, installation_id, empty),
    )


def test_a_job_with_internet_reaches_the_internet_and_mlflow_and_nothing_private(
    tried, strangers, mlflow, networks: Networks
):
    found = tried(
        networks.jobs,
        (PUBLIC, PORT),
        (networks.jobs_gateway, MLFLOW_PORT),
        (METADATA, PORT),
        (PRIVATE, PORT),
        (networks.jobs_gateway, 22),
    )
    assert found[:2] == ["connected", "connected"]
    assert "connected" not in found[2:]
    assert "ConnectionRefusedError" not in found[2:]


def test_a_job_without_network_reaches_mlflow_and_nothing_else(
    tried, strangers, mlflow, networks: Networks
):
    found = tried(
        networks.offline,
        (networks.jobs_gateway, MLFLOW_PORT),
        (PUBLIC, PORT),
        (METADATA, PORT),
        (PRIVATE, PORT),
        (networks.jobs_gateway, 22),
        resolvers=[NO_RESOLVER],
    )
    assert found[0] == "connected"
    assert not {"connected", "ConnectionRefusedError"} & set(found[1:])


def test_an_address_that_the_operator_names_is_reached_at_its_port_and_no_other(
    tried, strangers, engine: Engine, runner_image: str, networks: Networks, policy: Policy
):
    opened = replace(policy, allowed=read_allowed(f"{NAMED}/32:{PORT}"))
    install(engine, image=runner_image, policy=opened, networks=networks)
    try:
        found = tried(networks.jobs, (NAMED, PORT), (NAMED, PORT + 1), (PRIVATE, PORT))
        offline = tried(networks.offline, (NAMED, PORT))
    finally:
        install(engine, image=runner_image, policy=policy, networks=networks)
    assert found[0] == "connected"
    assert not {"connected", "ConnectionRefusedError"} & {*found[1:], *offline}


def test_a_build_reaches_the_index_by_its_port_and_what_the_operator_named_and_nothing_else(
    engine: Engine,
    strangers,
    mlflow,
    runner_image: str,
    networks: Networks,
    policy: Policy,
    installation_id: str,
    tmp_path: Path,
):
    """The private index that is opened to builds is not opened to jobs."""
    named = read_allowed(f"{NAMED}/32:{PORT}")
    install(
        engine,
        image=runner_image,
        policy=replace(policy, builds=BuildReach(named=named, ports=(PORT,))),
        networks=networks,
    )
    targets = [
        (PUBLIC, PORT),
        (NAMED, PORT),
        (PUBLIC, PORT + 1),
        (NAMED, PORT + 1),
        (PRIVATE, PORT),
        (METADATA, PORT),
        (networks.jobs_gateway, MLFLOW_PORT),
        (networks.jobs_gateway, 22),
    ]
    build = probe_spec(
        _build(runner_image, networks, installation_id, tmp_path),
        command=("python3", "-c", TRY.format(targets=json.dumps(targets))),
    )
    try:
        with running(engine, build) as container:
            assert engine.wait(container, timeout_seconds=60) == 0
            found = json.loads(engine.read_logs(container).splitlines()[-1])
    finally:
        install(engine, image=runner_image, policy=policy, networks=networks)
    assert found[:2] == ["connected", "connected"]
    assert not {"connected", "ConnectionRefusedError"} & set(found[2:])


def test_names_are_found_with_internet_only(
    jobs, plain_environment, environments, firewall, networks, tmp_path
):
    """The host's own resolver is asked for a name that every resolver answers, or says no to."""
    script = (
        "import socket\n"
        "try:\n    socket.getaddrinfo('no-such-name.invalid', 80)\n"
        "except socket.gaierror as error:\n    print(error.errno)\n"
    )
    codes = {}
    for network, resolvers in (
        (networks.jobs, firewall.resolvers),
        (networks.offline, (NO_RESOLVER,)),
    ):
        spec = jobs.spec(
            tmp_path,
            script,
            environment=plain_environment,
            platform=environments.platform_folder(),
            network=network,
            resolvers=resolvers,
        )
        container = jobs.start(spec)
        jobs.engine.wait(container, timeout_seconds=60)
        codes[network] = int(said(jobs.engine, container).split()[-1])
    assert codes[networks.jobs] == socket.EAI_NONAME
    assert codes[networks.offline] == socket.EAI_AGAIN


def test_the_probe_finds_the_policy_in_force(
    engine: Engine, subjects: Subjects, firewall: Policy, networks: Networks, mlflow
):
    results = probe(engine, subjects, policy=firewall, networks=networks)
    assert [result.sentence for result in results if not result.passed] == []
    assert {result.network for result in results} == {"internet", "none", "server", "build", "any"}


def test_the_probe_finds_missing_rules_and_sends_nothing_past_the_host_then(
    engine: Engine,
    subjects: Subjects,
    firewall: Policy,
    networks: Networks,
    runner_image: str,
    installation_id: str,
    mlflow,
):
    remove(engine, image=runner_image, installation_id=installation_id)
    try:
        results = probe(engine, subjects, policy=firewall, networks=networks)
    finally:
        was_missing = install(engine, image=runner_image, policy=firewall, networks=networks)
    assert was_missing
    failed = [result for result in results if not result.passed]
    assert any(result.what == "a listener on the host, by what it heard" for result in failed)
    jobs_results = [result for result in results if result.network in ("internet", "none")]
    metadata = {each.got for each in jobs_results if each.what == "cloud metadata"}
    assert metadata == {"not tried"}


def test_rules_that_are_there_are_written_again_and_said_to_have_been_there(
    engine: Engine, runner_image: str, networks: Networks, firewall: Policy
):
    assert not install(engine, image=runner_image, policy=firewall, networks=networks)


def test_nothing_of_the_firewall_container_stays(engine: Engine, firewall, installation_id: str):
    labels = {"mlops.installation": installation_id, "mlops.kind": Kind.FIREWALL}
    assert engine.find(labels) == []

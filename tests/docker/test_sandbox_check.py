"""The operator's self-test, on a real engine: it passes here, and it fails where it should."""

from pathlib import Path

import pytest

from sandbox.check import Row, _inspected, check
from sandbox.container import NO_RESOLVER, RUNC, Kind, Limits, SandboxSpec
from sandbox.engine import Engine
from sandbox.firewall import Policy
from sandbox.network import Networks
from sandbox.probe import Subjects
from sandbox.spec import build_spec, job_spec, server_spec
from tests.fixtures.engine import LOG_BYTES

LIMITS = Limits(memory_mb=128, cpus=1.0, pids=64, scratch_mb=8)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def subjects(
    runtime: str, empty: Path, runner_image: str, networks: Networks, installation_id: str
) -> Subjects:
    labels = {"mlops.installation": installation_id}

    def job(network: str, resolvers: tuple[str, ...]) -> SandboxSpec:
        return job_spec(
            name=f"mlops-{installation_id}-check",
            image=runner_image,
            script_folder=empty,
            script_name="none.py",
            environment_folder=empty,
            platform_folder=empty,
            data_folder=empty,
            variables={},
            network=network,
            resolvers=resolvers,
            limits=LIMITS,
            runtime=runtime,
            deadline_seconds=60,
            grace_seconds=1,
            log_bytes=LOG_BYTES,
            log_hard_bytes=LOG_BYTES,
            labels=labels,
        )

    return Subjects(
        internet=job(networks.jobs, ()),
        none=job(networks.offline, (NO_RESOLVER,)),
        server=server_spec(
            name=f"mlops-{installation_id}-check-server",
            image=runner_image,
            model_folder=empty,
            environment_folder=empty,
            platform_folder=empty,
            variables={},
            network=networks.servers,
            limits=LIMITS,
            runtime=runtime,
            labels=labels,
        ),
        build=_build(empty, runner_image, networks, installation_id),
    )


def _build(empty: Path, runner_image: str, networks: Networks, installation_id: str) -> SandboxSpec:
    return build_spec(
        name=f"mlops-{installation_id}-check-build",
        image=runner_image,
        command=(),
        store_folder=empty,
        user="builder",
        variables={},
        network=networks.builds,
        limits=LIMITS,
        labels={"mlops.installation": installation_id},
    )


@pytest.fixture(scope="module")
def rows(
    engine: Engine, subjects: Subjects, firewall: Policy, networks: Networks
) -> tuple[Row, ...]:
    return check(engine, subjects, policy=firewall, networks=networks)


def test_everything_is_as_it_must_be_on_this_machine(rows: tuple[Row, ...]):
    assert [row for row in rows if not row.passed] == []


def test_every_kind_is_looked_at_from_outside_and_from_inside(rows: tuple[Row, ...], runtime: str):
    for kind in ("job", "build", "server"):
        seen = {row.what for row in rows if row.subject == kind}
        assert {"HostConfig.CapDrop", "HostConfig.Tmpfs", "Config.User"} <= seen
        assert {"capabilities", "processes", "scratch_mb", "more memory"} <= seen
        # Asked of the host's kernel a filter stands between; one of its own is not the host's.
        assert ("seccomp" if runtime == RUNC or kind == "build" else "kernel") in seen
        told = [row.got for row in rows if row.subject == kind and row.what == "HostConfig.Runtime"]
        assert told == [RUNC if kind == "build" else runtime]
    networks = {f"network {name}" for name in ("internet", "none", "server", "build")}
    assert networks <= {row.subject for row in rows}


def test_nothing_of_the_check_stays(rows, engine: Engine, installation_id: str):
    assert engine.find({"mlops.installation": installation_id, "mlops.kind": "probe"}) == []


def test_an_engine_that_drops_a_field_fails_the_check(
    engine: Engine, subjects: Subjects, monkeypatch: pytest.MonkeyPatch
):
    """As engines did to others: the option is taken, and nothing comes of it."""
    honest = engine.api.create_container_from_config

    def forgetful(config, name):
        host = {key: value for key, value in config["HostConfig"].items() if key != "PidsLimit"}
        return honest({**config, "HostConfig": host}, name)

    monkeypatch.setattr(engine.api, "create_container_from_config", forgetful)
    found = list(_inspected(engine, Kind.JOB, subjects.internet, {}))
    assert [row.passed for row in found] == [False]
    assert "PidsLimit" in found[0].got

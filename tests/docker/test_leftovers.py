"""What killed processes leave on the engine, made on purpose and seen gone."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from urllib3.exceptions import ProtocolError

from sandbox import held_folders, holders
from sandbox.container import Limits
from sandbox.engine import Engine, EngineError, EngineUnavailable
from sandbox.engine_errors import guarded_stream
from sandbox.environments import BUILD_LABEL, EnvironmentStore
from sandbox.network import Networks, ensure_networks, missing_networks, remove_networks
from sandbox.spec import build_spec, probe_spec
from training import leftovers
from training.leftovers import Leftovers

# Makes a build's folder as a worker does, and is then killed with it.
BUILDER = """\
import sys, threading
from pathlib import Path
from sandbox.store_folders import StoreFolders
with StoreFolders(Path(sys.argv[1])).build_folder() as folder:
    (folder / "half-made").touch()
    print(folder.name, flush=True)
    threading.Event().wait()
"""


@pytest.fixture
def store(
    engine: Engine, runner_image: str, networks: Networks, installation_id: str, tmp_path: Path
) -> EnvironmentStore:
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return EnvironmentStore(
        root=tmp_path / "store",
        engine=engine,
        image=runner_image,
        network=networks.jobs,
        installation_id=installation_id,
        build_seconds=60,
    )


@pytest.fixture
def builder(store: EnvironmentStore, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def build_container(
    engine: Engine, root: Path, *, name: str, image: str, network: str, installation_id: str
) -> str:
    """A build that takes for ever, as a worker starts it."""
    spec = build_spec(
        name=f"mlops-{installation_id}-build-{name}-install",
        image=image,
        command=["python3", "-c", "import threading; threading.Event().wait()"],
        store_folder=root,
        user="runner",
        variables={},
        network=network,
        limits=Limits(memory_mb=64, cpus=0.5, pids=16, scratch_mb=16),
        labels={"mlops.installation": installation_id, BUILD_LABEL: name},
    )
    container = engine.create(spec)
    engine.start(container)
    return container


def test_a_build_whose_worker_was_killed_is_removed_and_a_living_one_is_not(
    engine: Engine,
    store: EnvironmentStore,
    builder: "subprocess.Popen[str]",
    runner_image: str,
    networks: Networks,
    installation_id: str,
    tmp_path: Path,
    monkeypatch,
):
    monkeypatch.setattr(held_folders, "YOUNG_SECONDS", 0.0)
    assert builder.stdout is not None
    name = builder.stdout.readline().strip()
    folder = tmp_path / "store" / "building" / name
    container = build_container(
        engine,
        tmp_path / "store",
        name=name,
        image=runner_image,
        network=networks.jobs,
        installation_id=installation_id,
    )
    try:
        assert store.remove_abandoned() == []
        state = engine.state(container)
        assert state is not None
        assert state.running
        assert (folder / "half-made").exists()
        builder.kill()
        builder.wait()
        assert store.remove_abandoned() == [name]
        assert engine.state(container) is None
        assert not folder.exists()
        assert store.remove_abandoned() == []
    finally:
        engine.remove(container)


def test_a_folder_that_was_made_just_now_is_left_to_its_maker(
    store: EnvironmentStore, tmp_path: Path
):
    folder = tmp_path / "store" / "building" / "new"
    folder.mkdir(parents=True)
    assert store.remove_abandoned() == []
    assert folder.exists()


def test_the_lock_of_a_killed_builder_is_free(
    builder: "subprocess.Popen[str]", store: EnvironmentStore, tmp_path: Path
):
    assert builder.stdout is not None
    folder = tmp_path / "store" / "building" / builder.stdout.readline().strip()
    handle = os.open(folder, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        builder.kill()
        builder.wait()
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def test_a_pruned_network_is_made_again_with_its_addresses(engine: Engine, installation_id: str):
    other = f"{installation_id}-net"
    try:
        before = ensure_networks(engine, other)
        assert missing_networks(engine, other) == []
        remove_networks(engine, other)
        every = {before.jobs, before.offline, before.servers, before.builds}
        assert set(missing_networks(engine, other)) == every
        after = ensure_networks(
            engine, other, jobs_subnet=before.jobs_subnet, jobs_gateway=before.jobs_gateway
        )
        # The bridges are others, so that the firewall's rules are written anew.
        assert after.jobs_bridge != before.jobs_bridge
        assert (after.jobs_subnet, after.jobs_gateway) == (before.jobs_subnet, before.jobs_gateway)
        assert missing_networks(engine, other) == []
    finally:
        remove_networks(engine, other)


def test_addresses_that_another_network_has_by_now_are_refused(
    engine: Engine, installation_id: str, networks: Networks
):
    other = f"{installation_id}-net"
    try:
        with pytest.raises(EngineError):
            ensure_networks(
                engine,
                other,
                jobs_subnet=networks.jobs_subnet,
                jobs_gateway=networks.jobs_gateway,
            )
    finally:
        remove_networks(engine, other)


def test_an_event_stream_that_breaks_off_is_an_engine_that_is_away():
    """What urllib3 raises when the daemon dies, below what the SDK looks at."""

    def broken() -> Iterator[bytes]:
        yield b"the last event"
        raise ProtocolError("Connection broken: InvalidChunkLength")

    stream = guarded_stream(broken())
    assert next(stream) == b"the last event"
    with pytest.raises(EngineUnavailable):
        next(stream)


def test_a_probe_goes_with_the_process_that_made_it(
    engine: Engine,
    runner_image: str,
    networks: Networks,
    installation_id: str,
    settings,
    tmp_path,
    monkeypatch,
):
    settings.INSTALLATION_ID = installation_id
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    holders_of = {"dead": f"{holders.me().rpartition(':')[0]}:{dead.pid}", "alive": holders.me()}
    made = {}
    for name, holder in holders_of.items():
        spec = build_spec(
            name=f"mlops-{installation_id}-helper-{name}",
            image=runner_image,
            command=["sleep", "60"],
            store_folder=tmp_path,
            user="builder",
            variables={},
            network=networks.jobs,
            limits=Limits(memory_mb=64, cpus=0.5, pids=16, scratch_mb=8),
            labels={"mlops.installation": installation_id, holders.HOLDER_LABEL: holder},
        )
        made[name] = engine.create(probe_spec(spec, command=["sleep", "60"]))
    try:
        Leftovers(engine).remove_helpers()
        assert engine.state(made["dead"]) is None
        assert engine.state(made["alive"]) is not None
        # One that an engine's death kept from its start is left when it is old enough.
        monkeypatch.setattr(leftovers, "HELPER_SECONDS", 0)
        Leftovers(engine).remove_helpers()
        assert engine.state(made["alive"]) is None
    finally:
        for container in made.values():
            engine.remove(container)

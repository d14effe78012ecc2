"""Environments: built once for what was resolved, found without a container afterwards."""

import threading
from pathlib import Path

import pytest

from sandbox.engine import Engine
from sandbox.environments import BuildStopped, Environment, EnvironmentFailed, EnvironmentStore


def silent(data: bytes) -> None:
    """Takes a build's output and keeps none of it."""


@pytest.fixture
def containers_made(engine: Engine, monkeypatch) -> list[str]:
    """The names of the containers that were asked for during the test."""
    names: list[str] = []
    original = engine.create
    monkeypatch.setattr(engine, "create", lambda spec: names.append(spec.name) or original(spec))
    return names


def test_what_was_built_before_is_found_without_a_container(
    environments: EnvironmentStore, plain_environment: Environment, containers_made: list[str]
):
    assert environments.find([]) == plain_environment
    assert environments.build([], output=silent) == plain_environment
    assert environments.get(plain_environment.key) == plain_environment
    assert containers_made == []


def test_order_and_spelling_of_requirements_make_no_difference(
    environments: EnvironmentStore, containers_made: list[str]
):
    first = environments.build(["six==1.17.0", "PyYAML"], output=silent)
    made = len(containers_made)
    assert environments.find(["pyyaml", "six == 1.17.0"]) == first
    assert len(containers_made) == made


def test_two_sets_that_resolve_to_the_same_share_one_folder(
    environments: EnvironmentStore, plain_environment: Environment
):
    assert environments.build(["pandas"], output=silent).key == plain_environment.key


def test_the_lock_names_exact_versions_and_keeps_mlflow_below_3_14(
    plain_environment: Environment,
):
    pins = dict(line.split("==") for line in plain_environment.lock.split())
    assert pins["mlflow-skinny"].startswith("3.13.")
    assert {"pandas", "psutil"} <= pins.keys()


def test_the_containers_python_is_known_without_one(
    environments: EnvironmentStore, plain_environment: Environment, containers_made: list[str]
):
    (library,) = plain_environment.path.glob("lib/python*")
    assert environments.python_tag() == library.name.replace("python", "cpython-").replace(".", "")
    assert containers_made == []


def test_an_environment_is_compiled_and_relocatable(plain_environment: Environment):
    compiled = plain_environment.path.glob("lib/*/site-packages/mlflow/__pycache__/*.pyc")
    assert next(compiled, None) is not None
    assert "relocatable = true" in (plain_environment.path / "pyvenv.cfg").read_text()


@pytest.mark.parametrize(
    ("requirements", "reason"),
    [
        (["no-such-package-on-any-index-4711"], "requirements_not_found"),
        (["six==999.0"], "requirements_not_found"),
        (["pandas<2", "pandas>=2"], "requirements_conflict"),
        (["not a requirement"], "requirements_invalid"),
    ],
)
def test_requirements_that_cannot_be_installed_are_told_apart(environments, requirements, reason):
    with pytest.raises(EnvironmentFailed) as failed:
        environments.build(requirements, output=silent)
    assert failed.value.reason == reason
    assert failed.value.detail
    assert failed.value.hint


def test_resolving_says_what_would_be_installed_and_installs_nothing(
    environments: EnvironmentStore, containers_made: list[str], tmp_path: Path
):
    requirements = ["six==1.17.0", f"tomli!=0.{abs(hash(tmp_path.name)) % 10**6}"]
    found = environments.resolve(requirements, output=silent)
    assert {"six==1.17.0"} <= set(found.lock.split())
    assert [name.rpartition("-")[2] for name in containers_made] == ["resolve"]
    built = environments.get(found.key)
    assert found.installed == (built is not None)


def test_what_is_installed_is_resolved_without_a_container(
    environments: EnvironmentStore, plain_environment: Environment, containers_made: list[str]
):
    found = environments.resolve([], output=silent)
    assert (found.key, found.lock) == (plain_environment.key, plain_environment.lock)
    assert found.installed
    assert containers_made == []


def test_resolving_fails_as_a_build_does_and_leaves_nothing_behind(
    environments: EnvironmentStore,
):
    with pytest.raises(EnvironmentFailed) as failed:
        environments.resolve(["six==999.0"], output=silent)
    assert failed.value.reason == "requirements_not_found"
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(BuildStopped):
        environments.resolve([f"six!=0.{id(stopped)}"], output=silent, stop=stopped)
    root = environments.platform_folder().parents[1]
    assert list((root / "building").iterdir()) == []


def test_a_failed_build_leaves_nothing_behind(environments: EnvironmentStore):
    with pytest.raises(EnvironmentFailed):
        environments.build(["six==999.0"], output=silent)
    root = environments.platform_folder().parents[1]
    assert list((root / "building").iterdir()) == []


def test_two_builds_of_the_same_set_at_once_build_once(
    environments: EnvironmentStore, containers_made: list[str], tmp_path: Path
):
    requirements = ["six<1.17", f"pyyaml!=0.{abs(hash(tmp_path.name)) % 10**6}"]
    found: list[Environment] = []

    def build() -> None:
        found.append(environments.build(requirements, output=silent))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len([name for name in containers_made if name.endswith("resolve")]) == 1


def test_a_build_that_takes_too_long_is_ended(
    engine: Engine, runner_image: str, networks, installation_id: str, tmp_path: Path
):
    store = EnvironmentStore(
        root=tmp_path / "store",
        engine=engine,
        image=runner_image,
        network=networks.jobs,
        installation_id=installation_id,
        build_seconds=1,
    )
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    with pytest.raises(EnvironmentFailed) as failed:
        store.build([], output=silent)
    assert failed.value.reason == "environment_build_timeout"
    builds = {"mlops.installation": installation_id, "mlops.kind": "build"}
    assert engine.find(builds) == []

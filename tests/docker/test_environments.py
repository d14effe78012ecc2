"""Environments: built once for what was resolved, found without a container afterwards."""

import os
import shutil
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.testing import ENVIRONMENTS
from sandbox import store_folders
from sandbox.build_rules import BuildRules
from sandbox.engine import Engine
from sandbox.environments import (
    BuildStopped,
    Environment,
    EnvironmentFailed,
    EnvironmentInUse,
    EnvironmentStore,
)
from sandbox.held_folders import held_folder
from sandbox.image.lock_file import pins_in
from tests.fixtures.engine import JobRunner


def _compiled_from(source: Path) -> Iterator[Path]:
    return source.parent.glob(f"__pycache__/{source.stem}.*.pyc")


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
    pins = dict(pin.split("==") for pin in pins_in(plain_environment.lock))
    assert pins["mlflow-skinny"].startswith("3.13.")
    assert {"pandas", "psutil"} <= pins.keys()


def test_the_containers_python_is_known_without_one(
    environments: EnvironmentStore, plain_environment: Environment, containers_made: list[str]
):
    (library,) = plain_environment.path.glob("lib/python*")
    assert environments.python_tag() == library.name.replace("python", "cpython-").replace(".", "")
    assert containers_made == []


def test_an_environment_is_compiled_and_relocatable(plain_environment: Environment):
    sources = [*plain_environment.path.glob("lib/*/site-packages/pandas/**/*.py")]
    uncompiled = [path for path in sources if not any(_compiled_from(path))]
    assert sources
    assert uncompiled == []
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
        (["docopt"], "requirements_not_found"),
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
    assert {"six==1.17.0"} <= set(found.pins)
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


@pytest.fixture
def build_folders(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Those of this test's builds: tests that run beside build in the same store."""
    made: list[Path] = []

    @contextmanager
    def noted(parent: Path) -> Iterator[Path]:
        with held_folder(parent) as folder:
            made.append(folder)
            yield folder

    monkeypatch.setattr(store_folders, "held_folder", noted)
    return made


def test_resolving_fails_as_a_build_does_and_leaves_nothing_behind(
    environments: EnvironmentStore, build_folders: list[Path]
):
    with pytest.raises(EnvironmentFailed) as failed:
        environments.resolve(["six==999.0"], output=silent)
    assert failed.value.reason == "requirements_not_found"
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(BuildStopped):
        environments.resolve([f"six!=0.{id(stopped)}"], output=silent, stop=stopped)
    assert [folder.exists() for folder in build_folders] == [False, False]


def test_a_failed_build_leaves_nothing_behind(
    environments: EnvironmentStore, build_folders: list[Path]
):
    with pytest.raises(EnvironmentFailed):
        environments.build(["six==999.0"], output=silent)
    assert [folder.exists() for folder in build_folders] == [False]


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
    assert len([name for name in containers_made if name.endswith("build")]) == 1


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


def store_with(
    rules: BuildRules, *, engine: Engine, image: str, network: str, installation_id: str
) -> EnvironmentStore:
    """The store of all these tests, with other rules."""
    return EnvironmentStore(
        root=ENVIRONMENTS,
        engine=engine,
        image=image,
        network=network,
        installation_id=installation_id,
        build_seconds=120,
        rules=rules,
    )


@pytest.fixture
def with_rules(engine, runner_image, networks, installation_id, environments):
    """Makes a store whose operator chose something."""
    names = {"engine": engine, "image": runner_image, "network": networks.jobs}
    return lambda **values: store_with(
        BuildRules(**values), installation_id=installation_id, **names
    )


def test_a_version_that_is_not_there_is_told_with_those_that_are(environments):
    with pytest.raises(EnvironmentFailed) as failed:
        environments.build(["six==999.0"], output=silent)
    assert "six comes in 1.17.0" in failed.value.hint
    assert failed.value.package == "six"


def test_what_comes_as_source_only_is_told_so(environments):
    with pytest.raises(EnvironmentFailed) as failed:
        environments.build(["docopt"], output=silent)
    assert "docopt comes as source only" in failed.value.hint


def test_every_line_of_a_lock_has_hashes_and_pip_and_uv_can_read_both_forms(
    plain_environment: Environment,
):
    text = plain_environment.lock
    assert text.count("==") == len(pins_in(text)) <= text.count("--hash=sha256:")
    document = tomllib.loads(plain_environment.pylock)
    pins = {f"{entry['name']}=={entry['version']}" for entry in document["packages"]}
    assert pins == set(pins_in(text))
    for entry in document["packages"]:
        assert all(wheel["hashes"]["sha256"] in text for wheel in entry["wheels"])


def test_a_denied_package_is_refused_as_a_dependency_too(with_rules):
    denied = with_rules(denied=frozenset({"python-dateutil"}))
    with pytest.raises(EnvironmentFailed) as failed:
        denied.resolve(["tomli!=0.4711"], output=silent)
    assert failed.value.reason == "requirements_denied"
    assert "python-dateutil" in failed.value.detail


def test_an_environment_that_would_be_too_large_is_refused_before_it_is_downloaded(with_rules):
    with pytest.raises(EnvironmentFailed) as failed:
        with_rules(max_mb=1).build(["tomli!=0.4712"], output=silent)
    assert failed.value.reason == "environment_too_large"
    assert "may have 1" in failed.value.detail


def test_an_index_that_does_not_answer_is_the_platforms_fault_and_its_password_is_masked(
    with_rules,
):
    said = bytearray()
    away = with_rules(index="https://someone:topsecret@index.invalid/simple")
    with pytest.raises(EnvironmentFailed) as failed:
        away.build(["tomli!=0.4713"], output=said.extend)
    assert failed.value.reason == "package_index_unreachable"
    assert b"topsecret" not in said


def a_wheel(folder: Path, name: str, version: str) -> None:
    """A package of one module, made by hand."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "ANSWER = 42\n")
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")


def test_a_wheel_of_the_operators_own_folder_is_installed_and_locked(with_rules, tmp_path: Path):
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    a_wheel(tmp_path, "our_own_4711", "1.0")
    built = with_rules(wheels=tmp_path).build(["our-own-4711"], output=silent)
    assert "our-own-4711==1.0" in pins_in(built.lock)
    assert next(built.path.glob("lib/*/site-packages/our_own_4711.py"), None) is not None
    assert "/wheels" not in built.pylock


def test_without_an_index_only_the_operators_wheels_are_there(with_rules, tmp_path: Path):
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    offline = with_rules(wheels=tmp_path, offline=True)
    with pytest.raises(EnvironmentFailed) as failed:
        offline.build(["tomli!=0.4714"], output=silent)
    assert failed.value.reason == "requirements_not_found"


def test_a_lost_environment_is_built_again_from_its_lock(environments: EnvironmentStore):
    built = environments.build(["six==1.16.0"], output=silent)
    shutil.rmtree(built.path)
    assert environments.get(built.key) is None
    assert environments.restore(built.key, output=silent) == built
    assert next(built.path.glob("lib/*/site-packages/six.py"), None) is not None
    assert environments.restore("0" * 20, output=silent) is None


def test_a_lock_without_hashes_becomes_an_environment_with_the_same_versions(
    environments: EnvironmentStore, plain_environment: Environment
):
    pins = pins_in(plain_environment.lock)
    old = "".join(f"{pin}\n" for pin in pins)
    assert environments.restore("0" * 20, output=silent, lock=old) is None
    assert pins_in(environments.build_alike(old, output=silent).lock) == pins


def test_an_environment_is_removed_only_when_no_container_has_it_and_none_may_have_it_soon(
    environments: EnvironmentStore, jobs: JobRunner, tmp_path: Path
):
    built = environments.build(["six==1.15.0"], output=silent)
    assert not environments.remove(built.key)
    spec = jobs.spec(
        tmp_path,
        "import time; time.sleep(60)",
        environment=built,
        platform=environments.platform_folder(),
    )
    container = jobs.start(spec)
    long_ago = time.time() - 3600
    os.utime(ENVIRONMENTS / "used" / built.key, (long_ago, long_ago))
    assert not environments.remove(built.key)
    with pytest.raises(EnvironmentInUse):
        environments.rebuild(built.key, output=silent)
    jobs.engine.remove(container)
    assert built.key in [one.key for one in environments.stored()]
    assert environments.remove(built.key)
    assert built.key not in [one.key for one in environments.stored()]
    assert environments.get(built.key) is None

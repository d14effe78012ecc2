"""Packages that would reach the next job: what they bring runs in no build and stays its own."""

import io
import secrets
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy.testing import ENVIRONMENTS
from sandbox.build_rules import BuildRules
from sandbox.engine import Engine
from sandbox.environments import Environment, EnvironmentFailed, EnvironmentStore
from sandbox.network import Networks
from tests.docker.test_environments import silent
from tests.fixtures.engine import BUILD_SECONDS

# In the folder that all environments come from; a build may write there.
TOUCH = "__import__('pathlib').Path('/store/poisoned-by-{0}').touch()\n"
VICTIM = "six"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    return tmp_path


@pytest.fixture
def store(
    wheels: Path, engine: Engine, runner_image: str, networks: Networks, installation_id: str
) -> EnvironmentStore:
    return EnvironmentStore(
        root=ENVIRONMENTS,
        engine=engine,
        image=runner_image,
        network=networks.jobs,
        installation_id=installation_id,
        build_seconds=BUILD_SECONDS,
        rules=BuildRules(wheels=wheels),
    )


@pytest.fixture
def name() -> str:
    """A new one each time, so that there is something to build."""
    return f"poison{secrets.token_hex(4)}"


def a_wheel(folder: Path, name: str, files: dict[str, str], links: dict[str, str]) -> None:
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        for path, target in links.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            wheel.writestr(entry, target)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")


def a_source(folder: Path, name: str) -> None:
    setup = TOUCH.format("setup") + f"from setuptools import setup\nsetup(name={name!r})\n"
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
        for path, text in {
            "setup.py": setup,
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        }.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


def poisoned() -> list[str]:
    return [str(path) for path in ENVIRONMENTS.glob("poisoned-by-*")]


def module_of(environment: Environment, file: str) -> Path:
    return next(environment.path.glob(f"lib/*/site-packages/{file}"))


def test_what_a_wheel_brings_runs_in_no_build_and_changes_no_other_environment(
    store: EnvironmentStore, wheels: Path, name: str
):
    clean = store.build([VICTIM], output=silent)
    before = module_of(clean, f"{VICTIM}.py").read_bytes()
    files = {
        f"{name}.pth": f"import os; {TOUCH.format('pth')}",
        "sitecustomize.py": TOUCH.format("sitecustomize"),
        "usercustomize.py": TOUCH.format("usercustomize"),
        f"{name}/__init__.py": TOUCH.format("import"),
        # Files of another package are hard links into the cache that all environments share.
        f"{VICTIM}.py": "raise SystemExit('poisoned')\n",
        f"{name}-1.0.data/scripts/{name}": "#!python\n" + TOUCH.format("script"),
    }
    a_wheel(wheels, name, files, {f"{name}/out": "/store/cache", f"{name}/up": "../../../../.."})
    built = store.build([VICTIM, name], output=silent)
    try:
        assert module_of(built, f"{name}.pth").is_file()
        assert poisoned() == []
        assert module_of(clean, f"{VICTIM}.py").read_bytes() == before
        outside = [
            path
            for path in (built.path / "lib").rglob("*")
            if path.is_symlink() and built.path not in path.resolve().parents
        ]
        assert outside == []
    finally:
        shutil.rmtree(built.path)
    again = store.build([VICTIM, "python-dateutil"], output=silent)
    assert module_of(again, f"{VICTIM}.py").read_bytes() == before


def test_a_wheel_whose_names_lead_out_writes_nothing_there(
    store: EnvironmentStore, wheels: Path, name: str
):
    climbs = ("../" * 8, "/store/", f"{name}-1.0.data/data/" + "../" * 8)
    files = {f"{start}{name}-climbed.py": "" for start in climbs}
    a_wheel(wheels, name, {f"{name}.py": "", **files}, {})
    try:
        built = store.build([name], output=silent)
    except EnvironmentFailed as failed:
        assert failed.reason == "environment_build_failed"
        inside = None
    else:
        inside = built.path
    found = list(ENVIRONMENTS.rglob(f"{name}-climbed.py"))
    outside = [path for path in found if inside is None or inside not in path.parents]
    if inside is not None:
        shutil.rmtree(inside)
    # What uv unpacked of it lies in the archive of this very wheel, below its own folder.
    assert [path for path in outside if "archive-v0" not in path.parts] == []
    assert not (ENVIRONMENTS / f"{name}-climbed.py").exists()


def test_a_source_is_not_built_so_that_its_setup_never_runs(
    store: EnvironmentStore, wheels: Path, name: str
):
    a_source(wheels, name)
    with pytest.raises(EnvironmentFailed) as failed:
        store.build([name], output=silent)
    assert failed.value.reason.startswith("requirements_")
    assert poisoned() == []

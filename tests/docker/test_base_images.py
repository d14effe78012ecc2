"""Base images: pulled from a registry by tag and by digest, and Pythons that are there together."""

import contextlib
import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from docker.errors import ImageNotFound
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from deploy.testing import ENVIRONMENTS
from sandbox.base_images import ensure_base
from sandbox.engine import Engine
from sandbox.environments import EnvironmentStore
from sandbox.images import ImageFailed, ImageInfo, ensure_runner_images, remove_runner_image
from sandbox.network import Networks
from tests.fixtures.engine import BUILD_SECONDS, COMPILER, OTHER_BASE, JobRunner, said
from tests.fixtures.waiting import same_in_both

CONFIGURATION = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@dataclass
class Registry:
    """Debian's own, on loopback, which engines trust without TLS."""

    engine: Engine
    port: int
    process: "subprocess.Popen[bytes]"
    pushed: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}/base"

    def push(self, image: str, tag: str) -> str:
        """Returns the digest; the engine forgets that it ever had it under this name."""
        self.engine.api.tag(image, self.name, tag)
        for line in self.engine.api.push(self.name, tag, stream=True, decode=True):
            assert "error" not in line, line
        answer = requests.head(
            f"http://127.0.0.1:{self.port}/v2/base/manifests/{tag}",
            headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
            timeout=10,
        )
        self.forget(f":{tag}")
        return str(answer.headers["Docker-Content-Digest"])

    def forget(self, reference: str) -> None:
        with contextlib.suppress(ImageNotFound):
            self.engine.api.remove_image(f"{self.name}{reference}", noprune=True)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def registry(engine: Engine, tmp_path: Path) -> Iterator[Registry]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = tmp_path / "registry.yml"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path / "registry", port=port))
    registry = Registry(
        engine, port, subprocess.Popen(["docker-registry", "serve", str(configuration)])
    )
    try:
        _wait_until_it_answers(port)
        yield registry
    finally:
        registry.stop()
        for image in engine.api.images():
            for name in [*(image["RepoTags"] or []), *(image["RepoDigests"] or [])]:
                if name.startswith(registry.name):
                    registry.forget(name.removeprefix(registry.name))


def _wait_until_it_answers(port: int) -> None:
    with requests.Session() as session:
        patient = HTTPAdapter(max_retries=Retry(total=12, backoff_factor=0.05, backoff_max=2))
        session.mount("http://", patient)
        assert session.get(f"http://127.0.0.1:{port}/v2/", timeout=5).ok


class Maker:
    """Makes the runner images of an installation of its own, and remembers what it was told."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.installation_id = f"test-{secrets.token_hex(3)}"
        self.told: list[str] = []

    def __call__(
        self, *bases: str, packages: Sequence[str] = (), days: float | None = None
    ) -> Sequence[ImageInfo]:
        self.told.clear()
        return ensure_runner_images(
            self._engine,
            installation_id=self.installation_id,
            bases=bases,
            packages=packages,
            max_age=None if days is None else timedelta(days=days),
            report=self.told.append,
        )


@pytest.fixture
def made(engine: Engine) -> Iterator[Maker]:
    maker = Maker(engine)
    yield maker
    remove_runner_image(engine, maker.installation_id)
    with pytest.raises(ImageNotFound):
        engine.api.inspect_image(f"mlops-runner:{maker.installation_id}")


@pytest.fixture
def changed(engine: Engine) -> Iterator[str]:
    """The usual base once more, with another id."""
    base = ensure_base(engine, report=print).tag
    changes = [f"LABEL made={secrets.token_hex(4)}"]
    container = engine.api.create_container(base, ["true"])
    try:
        made = str(engine.api.commit(container["Id"], changes=changes)["Id"])
    finally:
        engine.api.remove_container(container["Id"])
    yield made
    # It goes with its last name, and the registry's fixture takes that away.
    with contextlib.suppress(ImageNotFound):
        engine.api.remove_image(made, force=True)


def test_a_base_is_pulled_by_tag_and_by_digest_and_again_only_when_it_is_too_old(
    engine: Engine, changed: str, registry: Registry, made: Maker
):
    base = ensure_base(engine, report=print).tag
    digest = registry.push(base, "1")
    tagged, pinned = f"{registry.name}:1", f"{registry.name}@{digest}"

    (first,) = made(tagged)
    assert made.told[:2] == [f"Pulling {tagged}", f"{tagged} is {digest}"]
    assert first.base == tagged
    (again,) = made(tagged, days=1)
    assert (again.id, made.told) == (first.id, [])

    # The tag moves: what is young enough stays, what is too old is pulled.
    assert registry.push(changed, "1") != digest
    engine.api.tag(base, registry.name, "1")
    (kept,) = made(tagged, days=1)
    assert kept.id == first.id
    (moved,) = made(tagged, days=0)
    assert moved.id != first.id
    assert moved.python == first.python

    # A digest never moves, however old, and needs no registry once it is there.
    registry.forget(f"@{digest}")
    (by_digest,) = made(pinned)
    assert made.told[0] == f"Pulling {pinned}"
    assert pinned in engine.api.inspect_image(base)["RepoDigests"]
    registry.stop()
    assert made(pinned, days=0)[0].id == by_digest.id

    # Without the registry an old one is better than none, and none is told in words.
    assert made(tagged, days=0)[0].python == first.python
    assert made.told[1].startswith(f"The image {tagged} cannot be pulled (")
    assert made.told[1].endswith("The one that is there is used")
    with pytest.raises(ImageFailed, match="base:3 cannot be pulled"):
        made(f"{registry.name}:3")


def test_two_bases_with_one_python_are_refused(engine: Engine, made: Maker):
    usual = ensure_base(engine, report=print).tag
    with pytest.raises(ImageFailed, match="both have Python 3"):
        made("", usual)


def test_a_job_may_have_another_python_with_an_environment_of_its_own(
    engine: Engine,
    environments: EnvironmentStore,
    networks: Networks,
    installation_id: str,
    made: Maker,
    tmp_path: Path,
):
    (other,) = made(OTHER_BASE, packages=COMPILER)
    assert other.python == "3.13"
    store = EnvironmentStore(
        root=ENVIRONMENTS,
        engine=engine,
        image=other.tag,
        network=networks.jobs,
        installation_id=installation_id,
        build_seconds=BUILD_SECONDS,
    )
    platform = store.ensure_platform(output=lambda data: None)
    assert platform != environments.platform_folder()
    assert store.python_tag() == "cpython-313"

    built = store.build([], output=lambda data: None)
    assert store.find([]) == built
    assert built.image == other.tag
    # It is nobody's else: neither found, nor by its key, nor made from its lock.
    assert environments.find([]) != built
    assert environments.get(built.key) is None
    assert environments.restore(built.key, output=print, lock=built.lock) is None

    jobs = JobRunner(engine, other.tag, networks, installation_id)
    script = "import sys, numpy, pandas; print(sys.version_info[:2], pandas.__file__)"
    container = jobs.start(jobs.spec(tmp_path, script, environment=built, platform=platform))
    try:
        engine.wait(container, timeout_seconds=60)
        assert "(3, 13) /env/lib/python3.13/" in said(engine, container)
        assert engine.api.inspect_container(container)["Image"] == other.id
        # Nor is a waiting container of this Python another thing than a fresh one.
        same_in_both(jobs, tmp_path, environment=built, platform=platform)
    finally:
        for container in jobs.made:
            engine.remove(container)

"""Where packages come from: indexes with a login, a proxy, own certificates, folders, sources."""

import dataclasses
import json
import os
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.build_rules import BuildRules
from sandbox.engine import Engine
from sandbox.environments import Environment, EnvironmentFailed, EnvironmentStore
from sandbox.image.lock_file import pins_in
from sandbox.images import ensure_runner_image, ensure_runner_images, remove_runner_image
from sandbox.network import Networks
from tests.fixtures.engine import COMPILER, MLFLOW_PORT, OTHER_BASE, JobRunner, said
from tests.fixtures.package_server import (
    BASELINE,
    PackageServer,
    a_source,
    a_wheel,
    baseline_folder,
)

SECRET, PROXY_SECRET = "topsecret-4711", "proxysecret-4711"
LOGIN = f"reader:{SECRET}"
# Nobody but the proxy knows where that is.
INDEX_NAME = "index.invalid"
# A build backend is code that runs before anybody looked at it; this one tries what it can.
HOSTILE = """
import io, json, os, socket, zipfile

def tried(call):
    try:
        return str(call())
    except OSError as error:
        return type(error).__name__

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    found = {
        "secrets": [name for name, value in os.environ.items() if "topsecret" in value],
        "store": sorted(os.listdir("/store")),
        "wheels": tried(lambda: os.listdir("/wheels")),
        "network": tried(lambda: socket.create_connection(("GATEWAY", PORT), timeout=3)),
        "cache": tried(lambda: open("/store/cache/mine", "w")),
        "system": tried(lambda: open("/opt/mlops/uv", "a")),
    }
    for name in ("pandas-99.0-py3-none-any.whl", "hostile_4711-1.0-py3-none-any.whl"):
        package, version, *_ = name.split("-")
        about = f"{package}-{version}.dist-info"
        with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
            wheel.writestr("hostile_4711.py", "FOUND = " + repr(json.dumps(found)))
            # Another package's own file: its one on the disk must not be written through.
            wheel.writestr("pandas.py", "ANSWER = 'poisoned'")
            wheel.writestr(f"{about}/METADATA",
                f"Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n")
            wheel.writestr(f"{about}/WHEEL",
                "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
            wheel.writestr(f"{about}/RECORD", "")
    os.symlink("/etc/passwd", os.path.join(wheel_directory, "hostile_4711-2.0-py3-none-any.whl"))
    return "hostile_4711-1.0-py3-none-any.whl"
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
StoreMaker = Callable[..., EnvironmentStore]


def silent(data: bytes) -> None:
    """Takes a build's output and keeps none of it."""


@pytest.fixture
def a_store(
    engine: Engine, runner_image: str, networks: Networks, installation_id: str, tmp_path: Path
) -> StoreMaker:
    """A store of this test, whose operator chose something."""
    baseline_folder(tmp_path)

    def made(*, image: str = runner_image, **rules: object) -> EnvironmentStore:
        return EnvironmentStore(
            root=tmp_path / "store",
            engine=engine,
            image=image,
            network=networks.jobs,
            installation_id=installation_id,
            build_seconds=300,
            rules=BuildRules(**rules),
        )

    return made


@pytest.fixture
def server(networks: Networks) -> Iterator[PackageServer]:
    """On the port of the host that containers may reach."""
    with PackageServer(networks.jobs_gateway, MLFLOW_PORT, login=LOGIN) as server:
        for name, version in BASELINE.items():
            server.add("private", name, version)
        yield server


def _files_with(folder: Path, word: str) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if word.encode() in path.read_bytes()]


def _pins(environment: Environment) -> dict[str, str]:
    return dict(pin.split("==") for pin in pins_in(environment.lock))


def test_packages_come_from_private_extra_and_proxied_indexes_and_no_job_sees_a_password(
    server: PackageServer, a_store: StoreMaker, jobs: JobRunner, tmp_path: Path
):
    server.add("private", "ours-private")
    server.add("extra", "ours-extra")
    # The same name in both: the extra index is asked first.
    server.add("private", "ours-extra", "9.0")
    server.add("proxied", "ours-proxied")
    place = f"{server.host}:{server.port}"
    store = a_store(
        index=f"http://{LOGIN}@{place}/private/simple",
        extra_indexes=(f"http://{place}/extra/simple", f"http://{INDEX_NAME}/proxied/simple"),
        proxies={
            "HTTP_PROXY": f"http://walker:{PROXY_SECRET}@{place}",
            "NO_PROXY": server.host,
        },
    )
    output = bytearray()
    built = store.build(["ours-private", "ours-extra", "ours-proxied"], output=output.extend)
    expected = {"ours-private": "1.0", "ours-extra": "1.0", "ours-proxied": "1.0"}
    assert _pins(built) == {**BASELINE, **expected}
    proxied = [asked for asked in server.asked if asked.host == INDEX_NAME]
    assert {asked.proxy_login for asked in proxied} == {f"walker:{PROXY_SECRET}"}
    assert LOGIN not in {asked.login for asked in proxied}

    # Nothing that outlives the build has a password.
    for secret in (SECRET, PROXY_SECRET):
        assert secret.encode() not in output
        assert secret not in built.lock + built.pylock
        assert _files_with(built.path, secret) == []
        assert _files_with(tmp_path / "store" / "kept", secret) == []
    script = "import os; print('4711' in str(dict(os.environ)), 'UV_INDEX' in os.environ)"
    spec = jobs.spec(tmp_path, script, environment=built, platform=tmp_path)
    container = jobs.start(spec)
    jobs.engine.wait(container, timeout_seconds=60)
    assert "4711" not in json.dumps(jobs.engine.api.inspect_container(container))
    assert said(jobs.engine, container).split() == ["False", "False"]


def test_an_index_that_does_not_let_us_in_or_lacks_a_package_is_told_in_words(
    server: PackageServer, a_store: StoreMaker
):
    place = f"{server.host}:{server.port}"
    refused = a_store(index=f"http://reader:wrong-4711@{place}/private/simple")
    with pytest.raises(EnvironmentFailed) as failed:
        refused.resolve([], output=silent)
    assert failed.value.reason == "package_index_unreachable"
    assert failed.value.detail == "The package index does not let the platform in."
    assert "4711" not in failed.value.hint

    lacking = a_store(index=f"http://{LOGIN}@{place}/private/simple")
    server.add("private", "ours-private", "1.5")
    with pytest.raises(EnvironmentFailed) as failed:
        lacking.resolve(["ours-private==7"], output=silent)
    assert failed.value.reason == "requirements_not_found"
    assert failed.value.hint == "For Python 3.11 ours-private comes in 1.5."
    assert SECRET not in failed.value.detail


@pytest.fixture
def trusting(
    engine: Engine, networks: Networks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, ssl.SSLContext]]:
    """A runner image that trusts an authority of our own, and the side of a server of it."""
    authority, tls = _authority(tmp_path, networks.jobs_gateway)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    own = f"test-{secrets.token_hex(3)}"
    yield ensure_runner_image(engine, installation_id=own, report=print).tag, tls
    remove_runner_image(engine, own)


def test_a_company_authority_is_trusted_in_build_containers_also_through_a_proxy_that_tunnels(
    networks: Networks, a_store: StoreMaker, trusting: tuple[str, ssl.SSLContext]
):
    image, tls = trusting
    with PackageServer(networks.jobs_gateway, MLFLOW_PORT, tls=tls) as server:
        _add_all(server)
        index = f"https://{server.host}:{server.port}/open/simple"
        with pytest.raises(EnvironmentFailed) as failed:
            a_store(index=index).resolve([], output=silent)
        assert failed.value.reason == "package_index_unreachable"
        found = a_store(image=image, index=index).resolve([], output=silent)
    assert len(found.pins) == len(BASELINE)

    with PackageServer("127.0.0.1", 0, tls=tls) as server:
        _add_all(server)
        tunnels = {f"{INDEX_NAME}:443": (server.host, server.port)}
        walker = f"walker:{PROXY_SECRET}"
        proxy = PackageServer(networks.jobs_gateway, MLFLOW_PORT, login=walker, tunnels=tunnels)
        with proxy:
            store = a_store(
                image=image,
                index=f"https://{INDEX_NAME}/open/simple",
                proxies={"HTTPS_PROXY": f"http://{walker}@{proxy.host}:{proxy.port}"},
            )
            built = store.build(["ours-tunnelled"], output=silent)
            with pytest.raises(EnvironmentFailed) as failed:
                store.resolve(["ours-tunnelled==7"], output=silent)
    assert _pins(built) == {**BASELINE, "ours-tunnelled": "1.0"}
    # Our own question goes the same way as those of uv.
    assert failed.value.hint == "For Python 3.11 ours-tunnelled comes in 1.0."
    assert {(asked.host, asked.path) for asked in proxy.asked} == {(f"{INDEX_NAME}:443", "")}
    assert walker in {asked.proxy_login for asked in proxy.asked}
    assert "" in {asked.host for asked in server.asked}


def _add_all(server: PackageServer) -> None:
    server.add("open", "ours-tunnelled")
    for name, version in BASELINE.items():
        server.add("open", name, version)


def _authority(folder: Path, address: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate authority of our own, and a server's side that shows a certificate of it."""
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        f"req -newkey rsa:2048 -nodes -subj /CN={address} -keyout one.key -out one.csr "
        f"-addext subjectAltName=IP:{address},DNS:{INDEX_NAME}",
        "x509 -req -in one.csr -CA ca.pem -CAkey ca.key -days 2 -copy_extensions copy -out one.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "one.pem", folder / "one.key")
    return folder / "ca.pem", tls


def test_a_source_is_built_apart_and_reaches_nothing_but_its_own_environment(
    a_store: StoreMaker, networks: Networks, tmp_path: Path
):
    hostile = HOSTILE.replace("GATEWAY", networks.jobs_gateway).replace("PORT", str(MLFLOW_PORT))
    files = {"setup.py": hostile, "pyproject.toml": PROJECT}
    name, content = a_source("hostile_4711", "1.0", files)
    (tmp_path / name).write_bytes(content)
    offline = {"wheels": tmp_path, "offline": True}

    plain = a_store(**offline).build([], output=silent)
    with pytest.raises(EnvironmentFailed) as failed:
        a_store(**offline).build(["hostile-4711"], output=silent)
    assert failed.value.reason == "requirements_not_found"

    store = a_store(**offline, allow_sources=True, proxies={"HTTP_PROXY": f"http://{LOGIN}@x"})
    output = bytearray()
    with PackageServer(networks.jobs_gateway, MLFLOW_PORT):
        built = store.build(["hostile-4711"], output=output.extend)
    assert b"Building hostile_4711-1.0.tar.gz from its source" in output
    assert _pins(built) == {**BASELINE, "hostile-4711": "1.0"}
    assert _told(built) == {
        "secrets": [],
        "store": ["needs.json", "out", "scratch", "source.tar.gz"],
        "wheels": "FileNotFoundError",
        "network": "OSError",
        "cache": "FileNotFoundError",
        "system": "PermissionError",
    }

    # What it overwrites is its own: the other environment and the usual cache have what they had.
    assert _module(plain, "pandas").read_text() == "ANSWER = 42\n"
    assert _files_with(tmp_path / "store" / "cache", "poisoned") == []
    assert _inodes(built.path).isdisjoint(_inodes(tmp_path / "store" / "cache"))
    again = a_store(**offline).build(["pandas"], output=silent)
    assert again.key == plain.key

    # Its wheel is nowhere else, and is kept: a model can get the same again.
    shutil.rmtree(built.path)
    restored = store.restore(built.key, output=silent)
    assert dataclasses.replace(restored, size_bytes=built.size_bytes) == built
    assert _told(restored)["secrets"] == []


# It asks for a package in the words of its own backend, and compiles against this Python.
COMPILED = """
import os, subprocess, sysconfig, zipfile

def get_requires_for_build_wheel(config_settings=None):
    return ["ours-builder>=1"]

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    import ours_builder
    with open("ours.c") as source:
        text = source.read().replace("ANSWER", str(ours_builder.ANSWER))
    with open("ours.c", "w") as source:
        source.write(text)
    include = sysconfig.get_path("include")
    library = "ours" + sysconfig.get_config_var("EXT_SUFFIX")
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{include}", "-o", library, "ours.c"], check=True)
    name = "ours_compiled-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        about = "ours_compiled-1.0.dist-info"
        wheel.write(library)
        wheel.writestr(f"{about}/METADATA",
            "Metadata-Version: 2.1\\nName: ours-compiled\\nVersion: 1.0\\n")
        wheel.writestr(f"{about}/WHEEL",
            "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{about}/RECORD", "")
    return name
"""
C = """\
#include <Python.h>
static struct PyModuleDef about = {PyModuleDef_HEAD_INIT, "ours", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_ours(void) {
    PyObject *module = PyModule_Create(&about);
    PyModule_AddIntConstant(module, "answer", ANSWER);
    return module;
}
"""


def test_a_source_with_c_is_built_where_the_operator_named_a_compiler(
    a_store: StoreMaker, engine: Engine, networks: Networks, installation_id: str, tmp_path: Path
):
    files = {"setup.py": COMPILED, "pyproject.toml": PROJECT, "ours.c": C}
    for name, content in (a_source("ours_compiled", "1.0", files), a_wheel("ours-builder")):
        (tmp_path / name).write_bytes(content)
    rules = {"wheels": tmp_path, "offline": True, "allow_sources": True}
    output = bytearray()
    with pytest.raises(EnvironmentFailed) as failed:
        a_store(**rules).build(["ours-compiled"], output=output.extend)
    assert failed.value.reason == "environment_build_failed"
    assert failed.value.detail == (
        "ours_compiled-1.0.tar.gz cannot be built here: it needs gcc, which the base image lacks."
    )
    assert "MLOPS_BASE_IMAGE_PACKAGES" in failed.value.hint
    assert b"To be built it needs ours-builder>=1" in output
    with pytest.raises(EnvironmentFailed) as failed:
        a_store(**rules, denied=frozenset({"ours-builder"})).build(["ours-compiled"], output=silent)
    assert failed.value.reason == "requirements_denied"

    own = f"test-{secrets.token_hex(3)}"
    try:
        (image,) = ensure_runner_images(
            engine,
            installation_id=own,
            bases=[OTHER_BASE],
            packages=COMPILER,
            max_age=None,
            report=print,
        )
        built = a_store(image=image.tag, **rules).build(["ours-compiled"], output=silent)
        script = "import ours; print(ours.answer, ours.__file__)"
        others = JobRunner(engine, image.tag, networks, installation_id)
        container = others.start(
            others.spec(tmp_path, script, environment=built, platform=tmp_path)
        )
        engine.wait(container, timeout_seconds=60)
        assert said(engine, container).startswith("42 /env/lib/python3.13/")
    finally:
        remove_runner_image(engine, own)


def _module(environment: Environment, name: str) -> Path:
    (found,) = environment.path.glob(f"lib/*/site-packages/{name}.py")
    return found


def _told(environment: Environment) -> dict[str, object]:
    text = _module(environment, "hostile_4711").read_text()
    return dict(json.loads(eval(text.removeprefix("FOUND = "))))


def _inodes(folder: Path) -> set[int]:
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return {file.lstat().st_ino for file in files}

"""Makes the runner image: a base with Python, two unprivileged users, uv and our own few scripts.

The base is `python:3.11-slim` where a registry answers, else Debian packages put together here.
Everything is compiled ahead: containers are read-only, and a base may come without any bytecode.
"""

import hashlib
import io
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests
import uv
from docker.errors import APIError, ImageNotFound

from sandbox.engine import Engine, EngineError, _mapped
from sandbox.spec import BUILDER_UID, RUNNER_UID

REGISTRY_URL = "https://registry-1.docker.io/v2/"
REGISTRY_SECONDS = 3
PULLED_BASE = "python:3.11-slim"
DEBIAN_PACKAGES = "python3,python3-venv,libgomp1,ca-certificates,nftables"
IMAGE_FOLDER = Path(__file__).parent / "image"
SYSTEM_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
CONTENT_LABEL = "mlops.content"
BASE_LABEL = "mlops.base"

DOCKERFILE = f"""\
FROM {{base}}
RUN ((ls /usr/lib/*/libgomp.so.1 && ls /usr/sbin/nft) >/dev/null 2>&1 \\
      || (apt-get update -qq \\
          && apt-get install -qq -y --no-install-recommends libgomp1 nftables \\
          && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*)) \\
 && groupadd --gid {RUNNER_UID} runner && groupadd --gid {BUILDER_UID} builder \\
 && useradd --uid {RUNNER_UID} --gid runner --home-dir /scratch --no-create-home runner \\
 && useradd --uid {BUILDER_UID} --gid builder --home-dir /scratch --no-create-home builder \\
 && mkdir -p /env /job /data /model /platform /scratch /store \\
 && python3 -m compileall -q -x '/(test|tests|idlelib|lib2to3)/' \\
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY opt-mlops/ /opt/mlops/
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/mlops
ENV LANG=C.UTF-8 SSL_CERT_FILE={{ca}} REQUESTS_CA_BUNDLE={{ca}}
"""


@dataclass(frozen=True)
class ImageInfo:
    """The runner image: its tag, its id, and what it was made from."""

    tag: str
    id: str
    base: str


class ImageFailed(Exception):
    """The image cannot be made; the message says what is missing, in words for an operator."""


def runner_image_tag(installation_id: str) -> str:
    return f"mlops-runner:{installation_id}"


@_mapped
def has_runner_image(engine: Engine, installation_id: str) -> bool:
    return _exists(engine, runner_image_tag(installation_id))


@_mapped
def ensure_runner_image(
    engine: Engine, *, installation_id: str, report: Callable[[str], None]
) -> ImageInfo:
    """Returns the image of this installation, made anew only when its content changed.

    `report` gets one line for each long step. Raises ImageFailed.
    """
    tag = runner_image_tag(installation_id)
    base = _ensure_base(engine, report=report)
    files = _files()
    content = _content_hash(base_id=_image_id(engine, base), files=files)
    if _label(engine, tag, CONTENT_LABEL) != content:
        report(f"Making the runner image from {base}")
        _build(engine, tag=tag, base=base, files=files, content=content)
    return ImageInfo(tag=tag, id=_image_id(engine, tag), base=base)


@_mapped
def base_is_present(engine: Engine) -> bool:
    """Whether a base image is there already, so that none needs to be pulled or put together."""
    return any(_exists(engine, tag) for tag in (PULLED_BASE, _debian_tag()))


@_mapped
def remove_runner_image(engine: Engine, installation_id: str) -> None:
    """Removes the tag; layers that another installation uses stay."""
    try:
        engine.api.remove_image(runner_image_tag(installation_id), force=True)
    except ImageNotFound:
        return


def _ensure_base(engine: Engine, *, report: Callable[[str], None]) -> str:
    if _exists(engine, PULLED_BASE):
        return PULLED_BASE
    debian = _debian_tag()
    if _exists(engine, debian):
        return debian
    if _registry_answers() and _pull(engine, report=report):
        return PULLED_BASE
    _import_debian(engine, tag=debian, report=report)
    return debian


def _registry_answers() -> bool:
    try:
        answer = requests.get(REGISTRY_URL, timeout=REGISTRY_SECONDS)
    except requests.RequestException:
        return False
    return answer.status_code in (200, 401)


def _pull(engine: Engine, *, report: Callable[[str], None]) -> bool:
    report(f"Pulling {PULLED_BASE}")
    repository, _, tag = PULLED_BASE.partition(":")
    try:
        engine.api.pull(repository, tag)
    except (APIError, requests.RequestException) as error:
        report(f"The pull failed ({error}); using Debian packages instead")
        return False
    return _exists(engine, PULLED_BASE)


def _import_debian(engine: Engine, *, tag: str, report: Callable[[str], None]) -> None:
    if not shutil.which("mmdebstrap"):
        raise ImageFailed(
            f"No registry answers and mmdebstrap is not installed. Install it "
            f"(apt-get install mmdebstrap), or load an image {PULLED_BASE} into Docker."
        )
    report("No image registry answers: making the base image from Debian packages (about 30 s)")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "root.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase"]
        command += [f"--include={DEBIAN_PACKAGES}", _suite(), str(archive)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ImageFailed(f"mmdebstrap failed: {done.stderr.strip()[-400:]}")
        repository, _, name = tag.partition(":")
        engine.api.import_image_from_file(str(archive), repository=repository, tag=name)


def _suite() -> str:
    """The Debian suite of this host; on another system, the one whose Python we support."""
    release = platform.freedesktop_os_release()
    known = release.get("ID") in ("debian", "ubuntu")
    return release.get("VERSION_CODENAME", "bookworm") if known else "bookworm"


def _debian_tag() -> str:
    """With other packages it is another base: the old one lacks something."""
    packages = hashlib.sha256(DEBIAN_PACKAGES.encode()).hexdigest()[:8]
    return f"mlops-base:debian-{_suite()}-{packages}"


def _files() -> dict[str, tuple[bytes, int]]:
    """What goes to /opt/mlops: name to content and mode."""
    waiting = IMAGE_FOLDER.glob("waiting_path/*.py")
    ours = [*IMAGE_FOLDER.glob("*.py"), *waiting, *_job_path_files()]
    files = {
        str(path.relative_to(IMAGE_FOLDER)): (path.read_bytes(), 0o644) for path in sorted(ours)
    }
    files["uv"] = (Path(uv.find_uv_bin()).read_bytes(), 0o755)
    bundle = Path(os.environ.get("SSL_CERT_FILE", SYSTEM_CA_BUNDLE))
    if bundle.is_file():
        # A company's own authority is trusted inside as it is outside.
        files["ca-certificates.crt"] = (bundle.read_bytes(), 0o644)
    return files


def _job_path_files() -> list[Path]:
    """What every job has on its `sys.path` beside its environment."""
    folder = IMAGE_FOLDER / "job_path"
    return [*folder.glob("*.py"), *folder.glob("*.dist-info/*")]


def _content_hash(*, base_id: str, files: dict[str, tuple[bytes, int]]) -> str:
    digest = hashlib.sha256(f"{base_id}\n{DOCKERFILE}".encode())
    for name, (content, mode) in sorted(files.items()):
        digest.update(f"{name} {mode} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _build(
    engine: Engine, *, tag: str, base: str, files: dict[str, tuple[bytes, int]], content: str
) -> None:
    own_bundle = "ca-certificates.crt" in files
    ca = "/opt/mlops/ca-certificates.crt" if own_bundle else str(SYSTEM_CA_BUNDLE)
    context = _context(DOCKERFILE.format(base=base, ca=ca), files)
    labels = {CONTENT_LABEL: content, BASE_LABEL: base}
    lines = engine.api.build(
        fileobj=context,
        custom_context=True,
        tag=tag,
        labels=labels,
        rm=True,
        forcerm=True,
        decode=True,
    )
    for line in lines:
        if "error" in line:
            raise ImageFailed(f"The runner image cannot be built: {str(line['error']).strip()}")


def _context(dockerfile: str, files: dict[str, tuple[bytes, int]]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, "Dockerfile", dockerfile.encode(), 0o644)
        for name, (content, mode) in files.items():
            _add(archive, f"opt-mlops/{name}", content, mode)
    buffer.seek(0)
    return buffer


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _exists(engine: Engine, tag: str) -> bool:
    try:
        engine.api.inspect_image(tag)
    except ImageNotFound:
        return False
    return True


def _image_id(engine: Engine, tag: str) -> str:
    try:
        return str(engine.api.inspect_image(tag)["Id"])
    except ImageNotFound as error:
        raise EngineError(f"The image {tag} is missing.") from error


def _label(engine: Engine, tag: str, name: str) -> str | None:
    try:
        labels = engine.api.inspect_image(tag)["Config"].get("Labels") or {}
    except ImageNotFound:
        return None
    return labels.get(name)


@_mapped
def base_of(engine: Engine, tag: str) -> str:
    """What a runner image was made from: environments built on one base do not fit another."""
    return _label(engine, tag, BASE_LABEL) or _image_id(engine, tag)

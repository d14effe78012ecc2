"""Makes the runner images: a base with Python, two unprivileged users, uv and our own few scripts.

One for each base that the operator names, and each base has another Python. Everything is compiled
ahead: containers are read-only, and a base may come without any bytecode.
"""

import contextlib
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import uv
from docker.errors import APIError, ImageNotFound

from sandbox.base_images import (
    BaseImage,
    ImageFailed,
    base_is_present,
    base_names,
    ensure_base,
    package_names,
)
from sandbox.container import BUILDER_UID, RUNNER_UID
from sandbox.engine import Engine, EngineError
from sandbox.engine_errors import mapped

__all__ = [
    "ImageFailed",
    "ImageInfo",
    "base_is_present",
    "base_names",
    "ensure_runner_images",
    "package_names",
]

IMAGE_FOLDER = Path(__file__).parent / "image"
SYSTEM_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
CONTENT_LABEL = "mlops.content"
BASE_LABEL = "mlops.base"
PYTHON_LABEL = "mlops.python"
INSTALLATION_LABEL = "mlops.image-of"
# The oldest that our own scripts in the containers run on.
PYTHON_MIN = (3, 11)
SAYS_PYTHON = "python-of-this-base"
ASK_PYTHON = f"""\
FROM {{base}}
RUN python3 -c "import sys; print('{SAYS_PYTHON}', *sys.version_info[:2])"
"""

DOCKERFILE = f"""\
FROM {{base}}
{{more}}RUN ((ls /usr/lib/*/libgomp.so.1 && ls /usr/sbin/nft) >/dev/null 2>&1 \\
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
# Those of Debian packages have them already; whatever apt says is what the operator reads.
MORE_PACKAGES = """\
RUN dpkg -s {packages} >/dev/null 2>&1 \\
 || (apt-get update -qq && apt-get install -qq -y --no-install-recommends {packages} \\
     && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*)
"""


@dataclass(frozen=True)
class ImageInfo:
    """A runner image: its tag, its id, what it was made from, and its Python, such as `3.11`."""

    tag: str
    id: str
    base: str
    python: str


def runner_image_tag(installation_id: str, base_name: str = "") -> str:
    """That of the usual base has no more in its name than the installation."""
    which = f"-{hashlib.sha256(base_name.encode()).hexdigest()[:8]}" if base_name else ""
    return f"mlops-runner:{installation_id}{which}"


@mapped
def has_runner_image(engine: Engine, installation_id: str) -> bool:
    return _label(engine, runner_image_tag(installation_id), CONTENT_LABEL) is not None


@mapped
def ensure_runner_images(
    engine: Engine,
    *,
    installation_id: str,
    bases: Sequence[str],
    packages: Sequence[str] = (),
    max_age: timedelta | None,
    report: Callable[[str], None],
) -> tuple[ImageInfo, ...]:
    """One for each base, in their order; the first has the Python of who asks for none.

    `packages` are Debian's, and are in all of them. Raises ImageFailed, also when two have the same
    Python.
    """
    made: dict[str, ImageInfo] = {}
    for number, name in enumerate(bases):
        tag = runner_image_tag(installation_id, name if number else "")
        base = ensure_base(engine, name, packages=packages, max_age=max_age, report=report)
        image = _ensure_image(
            engine,
            tag=tag,
            base=base,
            packages=packages,
            installation_id=installation_id,
            report=report,
        )
        other = made.setdefault(image.python, image)
        if other is not image:
            raise ImageFailed(
                f"{other.base} and {image.base} both have Python {image.python}: name one of them "
                "in MLOPS_BASE_IMAGES."
            )
    return tuple(made.values())


def ensure_runner_image(
    engine: Engine, *, installation_id: str, report: Callable[[str], None]
) -> ImageInfo:
    """The one of the usual base, whatever its age. Raises ImageFailed."""
    (image,) = ensure_runner_images(
        engine, installation_id=installation_id, bases=[""], max_age=None, report=report
    )
    return image


@mapped
def remove_runner_image(engine: Engine, installation_id: str) -> None:
    """Removes those of every base, and what they were before; shared layers stay."""
    labels = {"label": f"{INSTALLATION_LABEL}={installation_id}"}
    ours = [image["Id"] for image in engine.api.images(filters=labels)]
    for name in (*ours, runner_image_tag(installation_id)):
        try:
            engine.api.remove_image(name, force=True)
        except ImageNotFound:
            continue


def _ensure_image(
    engine: Engine,
    *,
    tag: str,
    base: BaseImage,
    packages: Sequence[str],
    installation_id: str,
    report: Callable[[str], None],
) -> ImageInfo:
    """Made anew only when its content changed."""
    files = _files()
    content = _content_hash(base_id=base.id, packages=packages, files=files)
    python = _label(engine, tag, PYTHON_LABEL)
    if python is None or _label(engine, tag, CONTENT_LABEL) != content:
        report(f"Making the runner image from {base}")
        before = _id_of(engine, tag)
        python = _python_of(engine, base)
        labels = {
            CONTENT_LABEL: content,
            # A name may mean another Python one day, and environments of this one will not fit.
            # Packages beside Python change no environment: a model keeps the one it has.
            BASE_LABEL: f"{base.name} python{python}" if base.name else base.kind,
            PYTHON_LABEL: python,
            INSTALLATION_LABEL: installation_id,
        }
        _build(engine, tag=tag, base=base.tag, packages=packages, files=files, labels=labels)
        _remove_if_nameless(engine, before)
    return ImageInfo(tag=tag, id=_image_id(engine, tag), base=str(base), python=python)


def _python_of(engine: Engine, base: BaseImage) -> str:
    """Such as `3.11`. Raises ImageFailed."""
    dockerfile = ASK_PYTHON.format(base=base.tag)
    said = _built(engine, _context(dockerfile, {}), f"{base} has no Python 3", nocache=True)
    for layer in re.findall(r"^Successfully built (\w+)$", said, re.MULTILINE):
        engine.api.remove_image(layer, force=True)
    found = re.search(rf"^{SAYS_PYTHON} (\d+) (\d+)$", said, re.MULTILINE)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        raise ImageFailed(f"{base} has no Python of at least {wanted} called python3.")
    return f"{version[0]}.{version[1]}"


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


def _content_hash(
    *, base_id: str, packages: Sequence[str], files: dict[str, tuple[bytes, int]]
) -> str:
    more = _more_packages(packages)
    digest = hashlib.sha256(f"{base_id}\n{DOCKERFILE}\n{more}\n{INSTALLATION_LABEL}".encode())
    for name, (content, mode) in sorted(files.items()):
        digest.update(f"{name} {mode} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _build(
    engine: Engine,
    *,
    tag: str,
    base: str,
    packages: Sequence[str],
    files: dict[str, tuple[bytes, int]],
    labels: dict[str, str],
) -> None:
    own_bundle = "ca-certificates.crt" in files
    ca = "/opt/mlops/ca-certificates.crt" if own_bundle else str(SYSTEM_CA_BUNDLE)
    dockerfile = DOCKERFILE.format(base=base, ca=ca, more=_more_packages(packages))
    context = _context(dockerfile, files)
    _built(engine, context, "The runner image cannot be built", tag=tag, labels=labels)


def _more_packages(packages: Sequence[str]) -> str:
    return MORE_PACKAGES.format(packages=" ".join(packages)) if packages else ""


def _built(
    engine: Engine,
    context: io.BytesIO,
    failure: str,
    *,
    tag: str | None = None,
    labels: dict[str, str] | None = None,
    nocache: bool = False,
) -> str:
    """What the engine says while it builds. Raises ImageFailed."""
    said = ""
    for line in engine.api.build(
        fileobj=context,
        custom_context=True,
        tag=tag,
        labels=labels,
        nocache=nocache,
        rm=True,
        forcerm=True,
        decode=True,
    ):
        said += line.get("stream", "")
        if "error" in line:
            raise ImageFailed(f"{failure}: {str(line['error']).strip()}")
    return said


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


def _remove_if_nameless(engine: Engine, image_id: str | None) -> None:
    """What a tag was before; while a container has it, the engine keeps it."""
    if image_id is None:
        return
    with contextlib.suppress(ImageNotFound, APIError):
        if not engine.api.inspect_image(image_id)["RepoTags"]:
            engine.api.remove_image(image_id)


def _id_of(engine: Engine, tag: str) -> str | None:
    try:
        return str(engine.api.inspect_image(tag)["Id"])
    except ImageNotFound:
        return None


def _image_id(engine: Engine, tag: str) -> str:
    found = _id_of(engine, tag)
    if found is None:
        raise EngineError(f"The image {tag} is missing.")
    return found


def _label(engine: Engine, tag: str, name: str) -> str | None:
    try:
        labels = engine.api.inspect_image(tag)["Config"].get("Labels") or {}
    except ImageNotFound:
        return None
    return labels.get(name)


@mapped
def base_of(engine: Engine, tag: str) -> str:
    """What a runner image was made from: environments built on one base do not fit another."""
    return _label(engine, tag, BASE_LABEL) or _image_id(engine, tag)

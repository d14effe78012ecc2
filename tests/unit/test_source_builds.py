"""Which source is built, and what of a hostile build's folder is believed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

from sandbox.base_images import base_names, ensure_base, package_names
from sandbox.environment_failures import EnvironmentFailed, source_failure
from sandbox.images import ImageFailed
from sandbox.source_builds import Source, needs_of, newest_source, take_wheel

FILES = ["a_b-1.0.tar.gz", "a-b-1.2.tar.gz", "a_b-2.0rc1.tar.gz", "other-9.0.tar.gz", "junk"]
SOURCE = Source("a-b", Version("1.2"), "a-b-1.2.tar.gz")
WHEEL = "a_b-1.2-py3-none-any.whl"


@pytest.mark.parametrize(
    ("requirements", "file"),
    [
        (["A.B"], "a-b-1.2.tar.gz"),
        (["a-b<1.2", "pandas==2"], "a_b-1.0.tar.gz"),
        (["a-b==2.0rc1"], "a_b-2.0rc1.tar.gz"),
        (["something-that-needs-it"], "a-b-1.2.tar.gz"),
    ],
)
def test_the_newest_source_that_fits_is_built(requirements: list[str], file: str):
    found = newest_source("a_b", FILES, requirements)
    assert found is not None
    assert found.file == file


def test_no_source_is_built_where_none_fits():
    assert newest_source("a-b", FILES, ["a-b>3"]) is None
    assert newest_source("c", FILES, ["c"]) is None


def test_the_wheel_of_that_name_and_version_is_taken_and_nothing_else(tmp_path: Path):
    made, taken = tmp_path / "out", tmp_path / "wheels"
    made.mkdir()
    for name in (WHEEL, "numpy-9.0-py3-none-any.whl", "a_b-9.0-py3-none-any.whl"):
        (made / name).write_bytes(b"wheel")
    take_wheel(SOURCE, made, taken)
    assert [path.name for path in taken.iterdir()] == [WHEEL]


def _a_link(made: Path) -> None:
    made.mkdir()
    (made / WHEEL).symlink_to("/etc/passwd")


def _a_pipe(made: Path) -> None:
    made.mkdir()
    os.mkfifo(made / WHEEL)


def _a_folder(made: Path) -> None:
    (made / WHEEL).mkdir(parents=True)


def _elsewhere(made: Path) -> None:
    other = made.with_name("elsewhere")
    other.mkdir()
    (other / WHEEL).write_bytes(b"wheel")
    made.symlink_to(other)


def _nothing(made: Path) -> None:
    made.mkdir()


@pytest.mark.parametrize("leave", [_a_link, _a_pipe, _a_folder, _elsewhere, _nothing])
def test_what_is_no_plain_file_in_its_own_folder_is_no_wheel(tmp_path: Path, leave):
    leave(tmp_path / "out")
    with pytest.raises(EnvironmentFailed, match="made no wheel of a-b 1.2"):
        take_wheel(SOURCE, tmp_path / "out", tmp_path / "wheels")
    assert list((tmp_path / "wheels").iterdir()) == []


def _says(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "needs.json").write_text(text) and None


def _links_to_a_good_one(folder: Path) -> None:
    (folder / "other").write_text('["wheel"]')
    (folder / "needs.json").symlink_to(folder / "other")


def test_what_a_build_backend_asks_for_is_read(tmp_path: Path):
    _says('["wheel", "cmake >= 3.26", "ninja; sys_platform == \'linux\'"]')(tmp_path)
    assert needs_of(SOURCE, tmp_path) == (
        "wheel",
        "cmake>=3.26",
        'ninja; sys_platform == "linux"',
    )


@pytest.mark.parametrize(
    "leave",
    [
        _says('["a @ https://example.org/a.whl"]'),
        _says('["--index-url=https://example.org"]'),
        _says('[["wheel"]]'),
        _says("[]"),
        _says("nothing"),
        _says("[" * 90_000),
        _says(json.dumps(["wheel"] * 51)),
        _says(json.dumps([" " * 200_000])),
        _links_to_a_good_one,
        lambda folder: os.mkfifo(folder / "needs.json"),
        lambda folder: None,
    ],
)
def test_what_a_build_backend_asks_for_is_names_and_versions_or_refused(tmp_path: Path, leave):
    leave(tmp_path)
    with pytest.raises(EnvironmentFailed, match="a-b-1.2.tar.gz does not say what it needs"):
        needs_of(SOURCE, tmp_path)


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory", "gcc"),
        ("error: command '/usr/bin/cc' failed: No such file or directory: 'cc'", "cc"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'cmake'", "cmake"),
        ("/bin/sh: 1: pg_config: not found", "pg_config"),
        ("ERROR: Unknown compiler(s): [['cc'], ['gcc'], ['clang']]", "cc"),
        ("src/a.c:1:10: fatal error: libpq-fe.h: No such file or directory", "libpq-fe.h"),
    ],
)
def test_a_build_that_lacks_something_of_the_system_says_what(told: str, what: str):
    failed = source_failure(f"building\n{told}\nerror: 1", file="a-1.tar.gz", package="a")
    assert f"it needs {what}, which the base image lacks" in failed.detail
    assert "MLOPS_BASE_IMAGE_PACKAGES" in failed.hint


def test_a_build_that_fails_for_itself_blames_nothing_of_the_system():
    told = "FileNotFoundError: [Errno 2] No such file or directory: 'README.md'"
    failed = source_failure(told, file="a-1.tar.gz", package="a")
    assert failed.detail == "a-1.tar.gz cannot be built here."


def test_packages_of_the_base_image_are_names_and_nothing_else():
    assert package_names("") == ()
    assert package_names(" libpq5,g++ gcc, gcc") == ("g++", "gcc", "libpq5")
    for wrong in ("gcc=12", "gcc-", "-o", "gcc:arm64", "Gcc", "a/b", "$(x)"):
        with pytest.raises(ImageFailed, match="MLOPS_BASE_IMAGE_PACKAGES"):
            package_names(wrong)


def test_packages_make_another_image_of_the_same_kind():
    class Api:
        def inspect_image(self, tag: str) -> dict[str, str]:
            return {"Id": tag}

    class HasAll:
        api = Api()

    plain, compiling = (
        ensure_base(HasAll(), "debian-packages:bookworm", packages=packages, report=print)
        for packages in ((), ("gcc",))
    )
    assert plain.tag != compiling.tag
    assert plain.kind == compiling.kind == plain.tag


def test_base_images_are_names_and_nothing_else():
    assert base_names("") == ("",)
    digest = f"r.example:5000/python@sha256:{'a' * 64}"
    assert base_names(f" {digest}, debian-packages:trixie ") == (digest, "debian-packages:trixie")
    with pytest.raises(ImageFailed, match="MLOPS_BASE_IMAGES"):
        base_names("python:3.12;rm")

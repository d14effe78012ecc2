"""Which source is built, and what of a hostile build's folder is believed."""

import os
from pathlib import Path

import pytest
from packaging.version import Version

from sandbox.base_images import base_names
from sandbox.environment_failures import EnvironmentFailed
from sandbox.images import ImageFailed
from sandbox.source_builds import Source, newest_source, take_wheel

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


def test_base_images_are_names_and_nothing_else():
    assert base_names("") == ("",)
    digest = f"r.example:5000/python@sha256:{'a' * 64}"
    assert base_names(f" {digest}, debian-packages:trixie ") == (digest, "debian-packages:trixie")
    with pytest.raises(ImageFailed, match="MLOPS_BASE_IMAGES"):
        base_names("python:3.12;rm")

"""The files of models: whole or not there, and cleared away only when nobody needs them."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from inference import model_files
from inference.failures import StartFailed
from inference.models import ModelServer
from inference.services import rows, starting, watching
from registry.mlflow_client import ModelVersion, RegistryUnavailable
from sandbox import held_folders

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
HOLDER = """
import sys
from pathlib import Path
from sandbox.held_folders import held_folder
with held_folder(Path(sys.argv[1]), prefix=".download-") as folder:
    (folder / "model").mkdir()
    print(folder.name, flush=True)
    sys.stdin.read()
"""


class Registry:
    """Hands out one file; `meanwhile` happens in the middle of a download."""

    def __init__(self) -> None:
        self.downloads = 0
        self.meanwhile: Callable[[Path], None] = lambda target: None

    def download_model(self, version: ModelVersion, target: Path) -> None:
        self.downloads += 1
        self.meanwhile(target)
        (target / "MLmodel").write_text("flavors: {}\n")
        (target / "MLmodel").chmod(0o600)


@pytest.fixture
def root(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.MODELS_DIR = tmp_path / "models"
    settings.MODELS_DIR.mkdir()
    monkeypatch.setattr(held_folders, "YOUNG_SECONDS", 0.0)
    return settings.MODELS_DIR


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def downloader(root: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process in the middle of a download, and its folder."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process, root / process.stdout.readline().strip()
        process.kill()


def a_version(source: str = "models:/m-1") -> ModelVersion:
    return ModelVersion(
        name="churn",
        version="1",
        source=source,
        run_id="r",
        status="READY",
        description="",
        model_id="m-1",
        created_at=MOMENT,
        updated_at=MOMENT,
    )


def folder_of(registry: Registry, source: str = "models:/m-1") -> Path:
    return model_files.model_folder(a_version(source), registry=registry)  # type: ignore[arg-type]


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_files_are_there_when_they_are_whole_and_readable(root: Path, registry: Registry):
    seen: list[set[str]] = []
    registry.meanwhile = lambda target: seen.append(names(root))
    folder = folder_of(registry)
    assert all(name.startswith(".download-") for name in seen[0])
    assert names(root) == {folder.name}
    assert (folder / "MLmodel").stat().st_mode & 0o777 == 0o644
    assert folder_of(registry) == folder
    assert registry.downloads == 1


def test_a_download_that_fails_leaves_nothing(root: Path, registry: Registry):
    def away(target: Path) -> None:
        (target / "half").write_text("x")
        raise RegistryUnavailable

    registry.meanwhile = away
    with pytest.raises(StartFailed):
        folder_of(registry)
    assert names(root) == set()


def test_a_download_goes_when_its_process_was_killed_and_not_before(
    root: Path, downloader: tuple["subprocess.Popen[str]", Path]
):
    process, folder = downloader
    assert model_files.remove_cut_off() == []
    process.kill()
    process.wait()
    assert folder.is_dir()
    watching.remove_cut_off_downloads()
    assert names(root) == set()


def test_a_folder_that_was_made_just_now_is_left_to_its_maker(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(held_folders, "YOUNG_SECONDS", 10.0)
    (root / ".download-new").mkdir()
    assert model_files.remove_cut_off() == []


def test_what_was_to_be_removed_when_its_remover_died_goes(root: Path):
    (root / ".removed-a-1" / "sub").mkdir(parents=True)
    assert model_files.remove_cut_off() == [".removed-a-1"]
    assert names(root) == set()


@pytest.mark.parametrize("status", ModelServer.Status.values)
def test_files_stay_while_a_row_names_them_and_go_when_none_does(
    db: None,
    root: Path,
    registry: Registry,
    downloader: tuple["subprocess.Popen[str]", Path],
    status: str,
):
    now = timezone.now()
    ModelServer.objects.create(
        model_name="churn",
        version="1",
        source="models:/m-2",
        status=status,
        reason="r",
        error="e",
        address="a:1",
        container_id="c",
        created_at=now,
        changed_at=now,
    )
    folder_of(registry, "models:/m-1")
    kept = folder_of(registry, "models:/m-2")
    watching.remove_unowned_models()
    assert names(root) == {kept.name, downloader[1].name}


def test_a_start_that_comes_while_files_are_cleared_away_downloads_them_again(
    root: Path, registry: Registry
):
    """It finds the folder only after it is decided whether the folder stays."""
    folder_of(registry)
    found: list[Path] = []
    starter = threading.Thread(target=lambda: found.append(folder_of(registry)))

    def owned() -> set[str]:
        starter.start()
        starter.join(timeout=0.2)
        assert starter.is_alive()
        return set()

    assert len(model_files.remove_unowned(owned)) == 1
    starter.join(timeout=10)
    assert (found[0] / "MLmodel").is_file()
    assert registry.downloads == 2


def test_a_start_names_its_files_before_it_looks_for_them(
    db: None, monkeypatch: pytest.MonkeyPatch
):
    now = timezone.now()
    server = ModelServer.objects.create(
        model_name="churn", version="1", created_at=now, changed_at=now
    )
    claim = rows.claim(server.pk)
    assert claim is not None
    owned: list[set[str]] = []

    def look(*_: object, **__: object) -> Path:
        owned.append(watching._owned_folders())
        raise StartFailed("host_failed", "no")

    monkeypatch.setattr(starting, "_version", lambda *_: a_version("models:/m-9"))
    monkeypatch.setattr(starting.containers, "environment_of", lambda *_, **__: None)
    monkeypatch.setattr(starting.model_files, "model_folder", look)
    with pytest.raises(StartFailed):
        starting._start_anew(server, claim, engine=None, registry=None)  # type: ignore[arg-type]
    assert owned == [{model_files.folder_name("churn", "models:/m-9", "1")}]

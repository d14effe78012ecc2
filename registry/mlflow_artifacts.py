"""The files of a model, through MLflow's artifact proxy.

A job can store anything in a model's name: no listing is trusted, and all of it has bounds.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath

import requests

from registry.mlflow_documents import Artifact, ModelVersion, artifact_in
from registry.mlflow_errors import RegistryRefused
from registry.mlflow_models import ABOUT_BYTES, AboutModel, about_in
from registry.mlflow_rest import MlflowRest

DOWNLOAD_BLOCK_BYTES = 1024 * 1024
ARTIFACT_SCHEME = "mlflow-artifacts:"
# A model that is whole never changes: what was read of one need not be asked again.
KNOWN_MOST = 500
MODEL_MAX_FILES, MODEL_MAX_DEPTH, MODEL_MAX_BYTES = 10_000, 32, 8 * 1024**3


class ModelFiles:
    """Of any version. Every method may raise RegistryUnavailable."""

    def __init__(self, rest: MlflowRest) -> None:
        self._rest = rest
        self._known: dict[str, AboutModel] = {}

    def about(self, version: ModelVersion) -> AboutModel:
        """What its `MLmodel` says, with the files at its top. Raises RegistryRefused."""
        known = self._known.get(version.model_id)
        if known is not None:
            return known
        place = self.place(version)
        files = tuple(self._listed(place))
        told = about_in(self._start_of(place / "MLmodel"), files=files)
        if len(self._known) >= KNOWN_MOST:
            self._known.clear()
        self._known[version.model_id] = told
        return told

    def requirements(self, version: ModelVersion) -> list[str]:
        """What the model itself says it needs (`requirements.txt`); empty when it says nothing."""
        path = self.place(version) / "requirements.txt"
        try:
            text = self._read(path).text
        except RegistryRefused:
            return []
        lines = (line.strip() for line in text.splitlines())
        # The whole of MLflow is a server; what a model needs of it is in the small package.
        return [
            line.replace("mlflow==", "mlflow-skinny==", 1) if line.startswith("mlflow==") else line
            for line in lines
            if line and not line.startswith(("#", "-"))
        ]

    def download(self, version: ModelVersion, destination: Path) -> None:
        """Every file of the model below `destination`. Raises RegistryRefused, also for a name
        that would leave it."""
        root = self.place(version)
        named = f"Model {version.name} version {version.version}"
        files = list(islice(self._below(root), MODEL_MAX_FILES + 1))
        if not files:
            raise RegistryRefused(f"{named} has no files.")
        if len(files) > MODEL_MAX_FILES:
            raise RegistryRefused(f"{named} has more than {MODEL_MAX_FILES} files.")
        left = MODEL_MAX_BYTES
        for path in files:
            relative = path.relative_to(root)
            if ".." in relative.parts or relative.is_absolute():
                raise RegistryRefused(f"The model holds a file with the name {relative}.")
            target = destination.joinpath(*relative.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as handle:
                for block in self._read(path).iter_content(DOWNLOAD_BLOCK_BYTES):
                    left -= len(block)
                    if left < 0:
                        raise RegistryRefused(f"{named} is larger than {MODEL_MAX_BYTES} bytes.")
                    handle.write(block)

    def place(self, version: ModelVersion) -> PurePosixPath:
        """Where the artifact proxy has the model's files. Raises RegistryRefused."""
        model_id = version.model_id
        if not model_id:
            raise RegistryRefused(
                f"Model {version.name} version {version.version} was not logged with log_model."
            )
        uri = self._rest.get(f"logged-models/{model_id}", {})["model"]["info"]["artifact_uri"]
        if not uri.startswith(ARTIFACT_SCHEME):
            raise RegistryRefused("The model's files are not kept by the MLflow server.")
        return PurePosixPath(uri.removeprefix(ARTIFACT_SCHEME).lstrip("/"))

    def _listed(self, folder: PurePosixPath) -> list[Artifact]:
        """What lies in a folder, by name alone."""
        answer = self._rest.call(
            "GET", "/api/2.0/mlflow-artifacts/artifacts", params={"path": str(folder)}
        ).json()
        found = [artifact_in(entry) for entry in answer.get("files", [])]
        named = [replace(file, path=PurePosixPath(file.path).name) for file in found]
        return sorted(named, key=lambda file: file.path)

    def _start_of(self, path: PurePosixPath) -> bytes:
        """So much that one that is too long is seen to be."""
        with self._read(path) as answer:
            return next(answer.iter_content(ABOUT_BYTES + 1), b"")

    def _below(self, folder: PurePosixPath, *, depth: int = 0) -> Iterator[PurePosixPath]:
        """Raises RegistryRefused for folders in folders in folders."""
        if depth > MODEL_MAX_DEPTH:
            raise RegistryRefused(
                f"The model has more than {MODEL_MAX_DEPTH} folders in each other."
            )
        listing = self._rest.call(
            "GET", "/api/2.0/mlflow-artifacts/artifacts", params={"path": str(folder)}
        ).json()
        for entry in listing.get("files", []):
            path = folder / PurePosixPath(entry["path"]).name
            if entry.get("is_dir"):
                yield from self._below(path, depth=depth + 1)
            else:
                yield path

    def _read(self, path: PurePosixPath) -> requests.Response:
        return self._rest.call("GET", f"/api/2.0/mlflow-artifacts/artifacts/{path}", stream=True)

"""The floor under a container: the same thing started by hand, as with a plain `docker run`.

Image, folders, network and variables are read from a container that the platform itself started;
limits, launcher, rows, queue and lease are left out.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sandbox.engine import Engine

KIND = "bench"
HOME = "/tmp"  # noqa: S108 - in the container


@dataclass(frozen=True)
class Recipe:
    """What one container was made of. `folders` are host paths by where they are seen inside."""

    image: str
    command: tuple[str, ...]
    user: str
    variables: Mapping[str, str]
    folders: Mapping[str, str]
    network: str

    def with_variables(self, **changed: str) -> "Recipe":
        return replace(self, variables={**self.variables, **changed})

    def with_script(self, script: Path) -> "Recipe":
        """The script run by Python itself, without our launcher."""
        folders = {**self.folders, "/job": str(script.parent)}
        command = ("/env/bin/python", "-u", f"/job/{script.name}")
        return replace(self, command=command, folders=folders)


def recipe_of(engine: Engine, container: str) -> Recipe:
    """How the platform made a container that is there now."""
    inspect = engine.api.inspect_container(container)
    config = inspect["Config"]
    return Recipe(
        image=config["Image"],
        command=tuple(config["Cmd"]),
        user=config["User"],
        variables=dict(entry.split("=", 1) for entry in config["Env"]),
        folders={
            mount["Destination"]: mount["Source"]
            for mount in inspect["Mounts"]
            if mount["Type"] == "bind"
        },
        network=inspect["HostConfig"]["NetworkMode"],
    )


@contextmanager
def started(engine: Engine, recipe: Recipe, *, installation_id: str) -> Iterator[str]:
    """A container made and started; gone at the end of the block."""
    made = engine.api.create_container_from_config(
        _arguments(recipe, installation_id), f"mlops-{installation_id}-bench-{secrets.token_hex(3)}"
    )
    container = str(made["Id"])
    try:
        engine.start(container)
        yield container
    finally:
        engine.remove(container)


def _arguments(recipe: Recipe, installation_id: str) -> dict[str, Any]:
    variables = {**recipe.variables, "HOME": HOME}
    return {
        "Image": recipe.image,
        "Cmd": list(recipe.command),
        "Entrypoint": [],
        "User": recipe.user,
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "WorkingDir": HOME,
        "Labels": {"mlops.installation": installation_id, "mlops.kind": KIND},
        "HostConfig": {
            "NetworkMode": recipe.network,
            "Binds": [f"{source}:{target}:ro" for target, source in recipe.folders.items()],
        },
    }

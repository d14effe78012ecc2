"""The steps of a build, one container each; where the operator allows it, sources become wheels.

A source's own code runs in a container that has nothing but itself, and what comes of it is
installed with a cache that no environment of wheels only is linked with.
"""

import json
import shutil
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from sandbox.build_container import BuildContainers, Output, give_to_builder, hand_in
from sandbox.environment_failures import EnvironmentFailed, source_failure
from sandbox.source_builds import SOURCES_MAX, Source, needs_of, newest_source, take_wheel
from sandbox.store_folders import BUILT_WHEELS, CACHE, SOURCE_CACHE

# Kept equal to `sandbox/image/build_wheel.py` by a test.
NEEDS_MORE = 9


class BuildSteps:
    """What one store asks its build containers for."""

    def __init__(self, containers: BuildContainers) -> None:
        self._containers = containers
        self._rules = containers.rules

    @cached_property
    def base(self) -> str:
        """What the image was made from: environments of one base do not fit another."""
        return self._containers.base()

    def run(
        self,
        step: str,
        building: Path,
        *,
        output: Output,
        stop: threading.Event,
        cache: str = CACHE,
    ) -> None:
        """Raises EnvironmentFailed, and BuildStopped when `stop` is set meanwhile."""
        self._containers.run(step, building, base=self.base, cache=cache, output=output, stop=stop)

    def run_for(
        self,
        step: str,
        requirements: Sequence[str],
        building: Path,
        *,
        output: Output,
        stop: threading.Event,
    ) -> None:
        """The same; what has no wheel is built from its source, where the operator allows it.

        Each wheel is made first, then the step begins again.
        """
        made: list[str] = []
        while True:
            cache = SOURCE_CACHE if made else CACHE
            try:
                return self.run(step, building, cache=cache, output=output, stop=stop)
            except EnvironmentFailed as failed:
                source = self._source_for(failed, requirements)
                if source is None or source.package in made or len(made) == SOURCES_MAX:
                    raise
            self._make_wheel(source, building, output=output, stop=stop)
            made.append(source.package)

    def _source_for(self, failed: EnvironmentFailed, requirements: Sequence[str]) -> Source | None:
        if not failed.sources or not self._rules.allow_sources:
            return None
        if failed.package in self._rules.denied:
            return None
        return newest_source(failed.package, failed.sources, requirements)

    def _make_wheel(
        self, source: Source, building: Path, *, output: Output, stop: threading.Event
    ) -> None:
        output(f"Building {source.file} from its source\n".encode())
        folder = self._fetch(source, building, needs=(), output=output, stop=stop)
        code, told = self._containers.run_source("ask", building, folder, output=output, stop=stop)
        if code == NEEDS_MORE:
            needs = needs_of(source, folder)
            output(f"To be built it needs {', '.join(needs)}\n".encode())
            # Anew: its code ran in that folder, and what is fetched is written with more rights.
            folder = self._fetch(source, building, needs=needs, output=output, stop=stop)
            code, told = self._containers.run_source(
                "build", building, folder, output=output, stop=stop
            )
        if code != 0:
            raise source_failure(told, file=source.file, package=source.package)
        take_wheel(source, folder / "out", building / BUILT_WHEELS)

    def _fetch(
        self,
        source: Source,
        building: Path,
        *,
        needs: Sequence[str],
        output: Output,
        stop: threading.Event,
    ) -> Path:
        """The folder with the source, and with what must be there to build it."""
        folder = building / "source"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        give_to_builder(folder)
        wanted = {"package": source.package, "file": source.file, "needs": list(needs)}
        hand_in(building / "source.json", json.dumps(wanted))
        self.run("fetch", building, output=output, stop=stop)
        return folder

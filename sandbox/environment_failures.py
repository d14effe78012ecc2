"""What goes wrong with environments, in words for whoever asked; no path and no password in them.

uv tells its reasons apart by text only, so this is the one place that reads what it says.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from packaging.version import InvalidVersion, Version

# Kept equal to `sandbox/image/build_environment.py` by a test.
TOO_LARGE, DENIED, NO_HASH = 5, 6, 7
VERSIONS_SHOWN = 8
DETAIL_CHARACTERS = 1500

# What a build says that finds no compiler, no tool, no header of the system.
TOOL = (
    r"(?:[\w/]+[-/])*(?:gcc|g\+\+|cc|c\+\+|clang|gfortran|make|cmake|ninja|cargo|rustc|pkg-config|swig"
    r"|git|[a-z]+_config)(?:-[\d.]+)?"
)
MISSING_TOOLS = (
    re.compile(rf"command '({TOOL})' failed: No such file"),
    re.compile(rf"unable to execute '({TOOL})'"),
    re.compile(rf"No such file or directory: '({TOOL})'"),
    re.compile(rf"(?:^|\s)({TOOL}): (?:command )?not found"),
    re.compile(rf"Unknown compiler\(s\): \[\['({TOOL})'"),
    re.compile(r"fatal error: (\S+): No such file or directory"),
)


class EnvironmentFailed(Exception):
    """The requirements cannot be installed; `reason` is a code, `detail` one sentence.

    `package` is the one that it is about, where it is about one, and `sources` the files of its
    that would have to be built.
    """

    def __init__(
        self,
        *,
        reason: str,
        detail: str,
        hint: str,
        package: str = "",
        sources: Sequence[str] = (),
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint
        self.package = package
        self.sources = tuple(sources)


class BuildStopped(Exception):
    """Whoever asked for the environment does not want it any more."""


class EnvironmentInUse(Exception):
    """A container has the environment mounted, or is about to."""


def failure_of(
    code: int | None, text: str, about: Mapping[str, Any], *, max_mb: int = 0
) -> EnvironmentFailed:
    """Puts a refusal of the build container into our words; uv tells reasons apart by text only.

    `about` is what the container found out of it: a package, and the versions that there are.
    """
    package = str(about.get("package", ""))
    if code == TOO_LARGE:
        return EnvironmentFailed(
            reason="environment_too_large",
            detail=f"The environment has at least {about.get('mb', 0)} MB, and may have {max_mb}.",
            hint="Ask for fewer or smaller packages, such as a build for CPUs only.",
        )
    if code == DENIED:
        return denied(
            f"The requirements bring the package {package}, which the operator does not allow.",
            package,
        )
    if code == NO_HASH:
        return EnvironmentFailed(
            reason="environment_build_failed",
            detail=f"The package index gives no SHA-256 for {package}, so it cannot be locked.",
            hint="Ask the operator for an index that gives hashes.",
            package=package,
        )
    if code is not None and code > 128:
        return EnvironmentFailed(
            reason="environment_build_failed",
            detail="Installing the requirements was ended by the system, most likely for memory.",
            hint="Ask for fewer or smaller packages.",
        )
    return _uv_failure(text, package, about)


def _uv_failure(text: str, package: str, about: Mapping[str, Any]) -> EnvironmentFailed:
    told = " ".join(text.replace("│", " ").replace("╰─▶", " ").split())
    lowered = told.lower()
    if any(mark in lowered for mark in ("failed to fetch", "error sending request", "dns error")):
        return EnvironmentFailed(
            reason="package_index_unreachable",
            detail="The package index cannot be reached from the build container.",
            hint="This is not your script's fault: it is tried again. If that does not help, the "
            "operator has to check network, proxy and certificates of the builds.",
        )
    if any(mark in lowered for mark in ("401 unauthorized", "403 forbidden")):
        return EnvironmentFailed(
            reason="package_index_unreachable",
            detail="The package index does not let the platform in.",
            hint="The operator has to check the names and passwords of the package indexes.",
        )
    if "failed to parse" in lowered or "couldn't parse requirement" in lowered:
        return EnvironmentFailed(
            reason="requirements_invalid", detail=_tail(told), hint="Mend the requirement."
        )
    missing = ("not found in the p", "there are no versions", "there is no version")
    if any(mark in lowered for mark in missing) or "no wheels" in lowered or "usable wheel" in told:
        return EnvironmentFailed(
            reason="requirements_not_found",
            detail=_tail(told),
            hint=_versions_hint(package, about),
            package=package,
            sources=[str(name) for name in about.get("sources", [])],
        )
    if "no solution found" in lowered:
        return EnvironmentFailed(
            reason="requirements_conflict",
            detail=_tail(told),
            hint="Loosen the versions that exclude each other.",
        )
    return EnvironmentFailed(
        reason="environment_build_failed",
        detail=_tail(told) or "Installing the requirements failed.",
        hint="The job's log has the whole output of the installer.",
    )


def source_failure(told: str, *, file: str, package: str) -> EnvironmentFailed:
    """Why a source could not be made a wheel, from what its build printed."""
    missing = next((found for mark in MISSING_TOOLS if (found := mark.search(told))), None)
    if missing is not None:
        what = re.sub(r"\w+-linux-gnu-", "", missing[1].rpartition("/")[2])
        return EnvironmentFailed(
            reason="environment_build_failed",
            detail=f"{file} cannot be built here: it needs {what}, which the base image lacks.",
            hint="Ask for a version that has a wheel, or ask the operator to add what is missing "
            "to the base image (MLOPS_BASE_IMAGE_PACKAGES).",
            package=package,
        )
    return EnvironmentFailed(
        reason="environment_build_failed",
        detail=f"{file} cannot be built here.",
        hint="The job's log has the build's output. A build has no network, and no more than the "
        "base image and what the source says that it needs.",
        package=package,
    )


def denied(sentence: str, package: str) -> EnvironmentFailed:
    return EnvironmentFailed(
        reason="requirements_denied",
        detail=sentence,
        hint="Use another package, or ask the operator to allow this one.",
        package=package,
    )


def _versions_hint(package: str, about: Mapping[str, Any]) -> str:
    """The newest versions that there are for this Python, where the index said so."""
    versions = sorted(_readable(about.get("versions", [])), reverse=True)
    if versions:
        shown = ", ".join(str(version) for version in versions[:VERSIONS_SHOWN])
        more = f" and {len(versions) - VERSIONS_SHOWN} older" if versions[VERSIONS_SHOWN:] else ""
        return f"For {_python(about)} {package} comes in {shown}{more}."
    if about.get("only_sources"):
        return f"{package} comes as source only; packages with a wheel for this Python install."
    others = [f"3.{minor}" for minor in about.get("pythons", [])]
    if others:
        return (
            f"{package} has wheels for Python {', '.join(others)}, and none for {_python(about)}. "
            "Ask for another python_version, if it is offered."
        )
    return "Check name and version; only packages with a wheel for this Python install."


def _python(about: Mapping[str, Any]) -> str:
    return f"Python {about['python']}" if about.get("python") else "this Python"


def _readable(versions: Iterable[object]) -> Iterator[Version]:
    for text in versions:
        with contextlib.suppress(InvalidVersion):
            yield Version(str(text))


def _tail(told: str) -> str:
    """What follows the last "Because" or "error:", which is where uv says why; without its hints,
    which speak of options that a user here does not have."""
    _, _, after = told.rpartition("error:")
    start = told.find("Because")
    sentence = told[start:] if start >= 0 else after.strip()
    sentence = sentence.partition(" hint: ")[0]
    if len(sentence) > DETAIL_CHARACTERS:
        return f"{sentence[:DETAIL_CHARACTERS]} …"
    return sentence

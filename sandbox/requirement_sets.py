"""The sets of requirements that environments are made of: normalised, with what every job needs."""

from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from sandbox.environment_failures import EnvironmentFailed

BASELINE = ("mlflow-skinny==3.13.*", "pandas", "psutil")
# From 3.14 the default format of scikit-learn models refuses most tree ensembles.
CONSTRAINTS = ("mlflow<3.14", "mlflow-skinny<3.14")
BASELINE_NAMES = frozenset(Requirement(line).name for line in BASELINE)
# Without what they depend on: numpy and SciPy are the environment's own, and treelite is a library.
PLATFORM = ("httptools>=0.6,<1", "uvloop>=0.21,<1", "orjson>=3.10,<4", "treelite>=4.4,<5")


def whole_set(requirements: Sequence[str]) -> list[str]:
    """What is asked to be installed for these: normalised, sorted, with what every job needs.

    Raises EnvironmentFailed.
    """
    return sorted(with_baseline(requirements)[0])


def with_baseline(requirements: Sequence[str]) -> tuple[list[str], list[str]]:
    """The requirements, normalised, with what every job needs; and the constraints on them.

    A user who pins an MLflow himself gets it: then neither our pin nor our constraint applies.
    """
    own = [normalised(requirement) for requirement in requirements]
    pinned = any(
        requirement.name in ("mlflow", "mlflow-skinny") and requirement.specifier
        for requirement in own
    )
    names = {requirement.name for requirement in own}
    baseline = [Requirement(line) for line in BASELINE]
    added = [
        Requirement("mlflow-skinny") if pinned and line.name == "mlflow-skinny" else line
        for line in baseline
        if line.name not in names
    ]
    return [str(line) for line in [*own, *added]], [] if pinned else list(CONSTRAINTS)


def normalised(requirement: str) -> Requirement:
    """Raises EnvironmentFailed for what is not a PEP 508 requirement."""
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement as error:
        raise EnvironmentFailed(
            reason="requirements_invalid",
            detail=f"{requirement!r} is not a requirement.",
            hint="Write a package name with an optional version, such as scikit-learn==1.5.2.",
        ) from error
    parsed.name = canonicalize_name(parsed.name)
    return parsed

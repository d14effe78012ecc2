"""What a job may ask for: a default and a maximum of each limit, and the ones that a job has.

The operator sets both; more than the engine has in all is never allowed, since such a job would
wait for ever.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from django.conf import settings

from training.models import EngineCapacity, Gpu, Job
from training.services.claim import LOCAL_ENGINE

# The least that is worth asking for; an operator's default may be less.
LEAST = {"memory_mb": 64, "cpus": 0.1, "pids": 16, "scratch_mb": 1, "gpus": 0}
UNITS = {
    "memory_mb": "MiB",
    "cpus": "CPUs",
    "pids": "processes and threads",
    "scratch_mb": "MiB",
    "gpus": "GPUs",
}


@dataclass(frozen=True)
class Bound:
    """From `minimum` to `maximum`; `default` where nothing is asked for. `whole`: no fractions."""

    minimum: float
    default: float
    maximum: float
    whole: bool = True
    unit: str = ""

    def at_most(self, value: Any) -> Any:
        """Never more than the maximum, as it is by now."""
        return min(value, self.maximum)


@dataclass(frozen=True)
class JobLimits:
    """What one job may use; scratch counts as memory. Fixed once the job is accepted."""

    memory_mb: int
    cpus: float
    pids: int
    scratch_mb: int
    gpus: int = 0

    @classmethod
    def of(cls, job: Job) -> "JobLimits":
        """The ones that the job was accepted with."""
        return cls(**{field.name: getattr(job, field.name) for field in fields(cls)})

    @classmethod
    def default(cls, bounds: Mapping[str, Bound]) -> "JobLimits":
        """The ones of a job that asks for nothing."""
        return cls(**{name: _number(bound, bound.default) for name, bound in bounds.items()})

    def within(self, bounds: Mapping[str, Bound]) -> "JobLimits":
        """The same as far as it is allowed by now."""
        mine: dict[str, Any] = asdict(self)
        allowed = {name: bounds[name].at_most(value) for name, value in mine.items()}
        return replace(self, **allowed)


def job_bounds() -> dict[str, Bound]:
    """What jobs may ask for now, by the field of the upload."""
    engine = EngineCapacity.objects.filter(engine=LOCAL_ENGINE).first()
    there = {"gpus": Gpu.objects.filter(engine=LOCAL_ENGINE).count()}
    if engine is not None:
        memory = engine.memory_mb - settings.RESERVED_MEMORY_MB
        there |= {"memory_mb": memory, "cpus": engine.cpus}
    return {name: _bound(name, there.get(name)) for name in UNITS}


def _bound(name: str, there: float | None) -> Bound:
    """Never less than the default, but for GPUs: without one, no job has any."""
    setting = f"JOB_{name.upper()}"
    default, maximum = getattr(settings, setting), getattr(settings, f"{setting}_MAX")
    if there is not None:
        maximum = min(maximum, there if name == "gpus" else max(there, default))
    return Bound(
        minimum=min(LEAST[name], default),
        default=min(default, maximum),
        maximum=maximum,
        whole=name != "cpus",
        unit=UNITS[name],
    )


def _number(bound: Bound, value: float) -> Any:
    return int(value) if bound.whole else value

"""How many servers a model may have and with which limits: defaults, and what users set."""

from dataclasses import dataclass, replace

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from inference.models import ModelPolicy
from registry import audit
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL


@dataclass(frozen=True)
class Policy:
    """What holds for every version of a model. `idle_seconds` 0: a server never stops for that."""

    min_servers: int
    max_servers: int
    pinned: bool
    idle_seconds: int
    memory_mb: int
    cpus: float


def policy_of(model_name: str) -> Policy:
    row = ModelPolicy.objects.filter(model_name=model_name).first()
    return _policy(row)


def policies() -> dict[str, Policy]:
    """Of the models for which somebody set one."""
    return {row.model_name: _policy(row) for row in ModelPolicy.objects.all()}


def default_policy() -> Policy:
    return _policy(None)


def set_policy(model_name: str, policy: Policy, *, actor: str) -> Policy:
    """Running servers whose limits differ are replaced, each after its successor is ready."""
    with transaction.atomic():
        ModelPolicy.objects.update_or_create(
            model_name=model_name,
            defaults={
                "min_servers": policy.min_servers,
                "max_servers": policy.max_servers,
                "pinned": policy.pinned,
                "idle_seconds": policy.idle_seconds,
                "memory_mb": policy.memory_mb,
                "cpus": policy.cpus,
                "changed_at": timezone.now(),
                "changed_by": actor,
            },
        )
        audit.record(Act.SERVING_POLICY, Kind.MODEL, model_name, detail=_words(policy), actor=actor)
        SUPERVISOR_BELL.ring_on_commit()
    return policy


def pin(model_name: str, *, pinned: bool, actor: str) -> Policy:
    """Whether running servers of the model stay, however long nobody asks them; all else stays."""
    return set_policy(model_name, replace(policy_of(model_name), pinned=pinned), actor=actor)


def _words(policy: Policy) -> str:
    """As the record of who changed it tells it."""
    pinned = ", pinned" if policy.pinned else ""
    return (
        f"{policy.min_servers} to {policy.max_servers} servers{pinned}, idle after "
        f"{policy.idle_seconds} s, {policy.memory_mb} MB and {policy.cpus:g} CPUs each"
    )


def _policy(row: ModelPolicy | None) -> Policy:
    default = Policy(
        min_servers=0,
        max_servers=1,
        pinned=False,
        idle_seconds=settings.SERVER_IDLE_SECONDS,
        memory_mb=settings.SERVER_MEMORY_MB,
        cpus=settings.SERVER_CPUS,
    )
    if row is None:
        return default
    return Policy(
        min_servers=row.min_servers,
        max_servers=row.max_servers,
        pinned=row.pinned,
        idle_seconds=default.idle_seconds if row.idle_seconds is None else row.idle_seconds,
        memory_mb=row.memory_mb or default.memory_mb,
        cpus=row.cpus or default.cpus,
    )

"""Writes down who did what to what, when and from where: `record` is the one way in.

A service calls it where it does what a person asked for, in the same transaction: an act that
cannot be written down does not happen. What the platform does by itself is none, but for what
takes away from this record.
"""

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import TextChoices
from django.utils import timezone

from registry.models import (
    ACTOR_CHARACTERS,
    ADDRESS_CHARACTERS,
    NAME_CHARACTERS,
    AuditEntry,
)
from registry.sources import current_source

log = logging.getLogger(__name__)

DETAIL_CHARACTERS = 1000
FORGOTTEN_AT_ONCE = 1000
# Whoever guesses passwords does not get to fill the record, nor the disk.
FAILED_LOGINS_A_MINUTE = 60
UNKNOWN = "unknown"


class Act(TextChoices):
    """What a person can do; a new one needs a line here and no migration."""

    JOB_UPLOAD = "job.upload", "sent a job"
    JOB_RERUN = "job.rerun", "ran a job again"
    JOB_CANCEL = "job.cancel", "cancelled a job"
    JOB_PRIORITY = "job.priority", "moved a job in the queue"
    ENVIRONMENT_REBUILD = "environment.rebuild", "had an environment built again"
    ENVIRONMENT_DELETE = "environment.delete", "deleted an environment"
    ALIAS_SET = "alias.set", "set an alias"
    ALIAS_ROLLED_BACK = "alias.rolled_back", "rolled an alias back"
    ALIAS_DELETED = "alias.deleted", "took an alias away"
    SERVER_START = "server.start", "started a model server"
    SERVER_STOP = "server.stop", "stopped a model server"
    SERVING_POLICY = "serving.policy", "changed how a model is served"
    BATCH_SUBMIT = "batch.submit", "sent a batch prediction"
    BATCH_CANCEL = "batch.cancel", "cancelled a batch prediction"
    FEATURES_MATERIALISE = "features.materialise", "had features materialised"
    PAUSE = "platform.pause", "paused admission"
    RESUME = "platform.resume", "resumed admission"
    DRAIN = "platform.drain", "drained a worker"
    UNDRAIN = "platform.undrain", "let a worker take work again"
    RETENTION = "platform.retention", "cleared away what is old"
    LOGIN = "login", "logged in"
    LOGIN_FAILED = "login.failed", "failed to log in"
    LOGOUT = "logout", "logged out"
    USER_ADD = "user.add", "made an account"
    USER_CHANGE = "user.change", "changed an account"
    USER_DELETE = "user.delete", "deleted an account"
    GROUP_ADD = "group.add", "made a group"
    GROUP_CHANGE = "group.change", "changed a group"
    GROUP_DELETE = "group.delete", "deleted a group"
    AUDIT_EXPORT = "audit.export", "exported the audit"
    AUDIT_FORGET = "audit.forget", "forgot old lines of the audit"


class Kind(TextChoices):
    """What an act is done to; `key` is what a row of that kind is found by."""

    JOB = "job", "Job"
    ENVIRONMENT = "environment", "Environment"
    # By its name; which version or alias is in the detail.
    MODEL = "model", "Model"
    SERVER = "server", "Model server"
    BATCH = "batch", "Batch prediction"
    FEATURES = "features", "Feature view"
    PLATFORM = "platform", "Platform"
    USER = "user", "User"
    GROUP = "group", "Group"


def record(
    act: Act,
    kind: Kind,
    key: object,
    *,
    name: str = "",
    detail: str = "",
    actor: str = "",
) -> None:
    """One act, with where it came from. Without `actor` it is the person who asked.

    `name` is what people call the thing, where its key says nothing to them. No secret belongs in
    here.
    """
    source = current_source()
    AuditEntry.objects.create(
        actor=_within(actor or source.person() or source.address, ACTOR_CHARACTERS),
        channel=source.channel,
        address=_within(source.address, ADDRESS_CHARACTERS),
        act=act,
        kind=kind,
        key=_within(str(key), NAME_CHARACTERS),
        name=_within(name, NAME_CHARACTERS),
        detail=_within(detail, DETAIL_CHARACTERS),
    )


def record_failed_login(name: str) -> None:
    """`name` is that of an account, or empty: what a stranger typed may be a password.

    More than so many a minute are counted in the log alone.
    """
    lately = timezone.now() - timedelta(minutes=1)
    failed = AuditEntry.objects.filter(act=Act.LOGIN_FAILED, at__gte=lately)
    if failed[:FAILED_LOGINS_A_MINUTE].count() >= FAILED_LOGINS_A_MINUTE:
        log.warning("audit.login_failed_not_recorded address=%s", current_source().address)
        return
    told = "" if name else "No account has the name that was given."
    # Not whoever is logged in there already.
    actor = name or current_source().address or UNKNOWN
    record(Act.LOGIN_FAILED, Kind.USER, name or UNKNOWN, detail=told, actor=actor)


def oldest_kept() -> datetime | None:
    """What is older than this goes; None: nothing does."""
    if not settings.KEEP_AUDIT_DAYS:
        return None
    return timezone.now() - timedelta(days=settings.KEEP_AUDIT_DAYS)


def old_entries() -> int:
    """How many the next `forget_old` takes."""
    oldest = oldest_kept()
    return AuditEntry.objects.filter(at__lt=oldest).count() if oldest else 0


def forget_old() -> int:
    """Takes away what is too old, in small transactions, and writes down that it did."""
    oldest = oldest_kept()
    if oldest is None:
        return 0
    gone = 0
    old = AuditEntry.objects.filter(at__lt=oldest).order_by("at", "id")
    while keys := list(old.values_list("pk", flat=True)[:FORGOTTEN_AT_ONCE]):
        gone += AuditEntry.objects.filter(pk__in=keys).forget()
    if gone:
        detail = f"{gone} from before {oldest:%Y-%m-%d %H:%M} UTC"
        record(Act.AUDIT_FORGET, Kind.PLATFORM, "audit", detail=detail)
    return gone


def _within(text: str, characters: int) -> str:
    """As much as the column holds, without what a database refuses."""
    return text.replace("\x00", "")[:characters]

"""The feature store as rows: described for whoever asks, its online part filled on order.

The web process writes what is wanted, the supervisor queues a task for it, and a worker has a child
do it, one at a time. Nothing here imports Feast.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django_q.tasks import async_task
from rest_framework.exceptions import APIException, NotFound

from registry import audit
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL
from registry.feature_store.child import WorkFailed, work
from registry.feature_store.description import Description, View
from registry.feature_store.marks import is_configured, mark_of
from registry.models import FeatureCatalog, Materialization

log = logging.getLogger(__name__)

DESCRIBE_TASK = "registry.feature_store.tasks.describe"
MATERIALIZE_TASK = "registry.feature_store.tasks.materialize"
DESCRIBE_SECONDS = 120.0
# A registry that is no file of this host does not say when it changed.
OLD = timedelta(minutes=5)
# What could not be described is not tried again at once.
TRY_AGAIN = timedelta(minutes=1)
# A task that was queued and never began was lost, or its worker was.
QUEUE_AGAIN = timedelta(seconds=60)
# A worker says that it is alive every few seconds.
LOST = timedelta(seconds=60)
ATTEMPTS_MAX = 2
WAITING_MAX = 20
KEPT = 200
SHOWN = 20
State = Materialization.State


class FeatureStoreMissing(APIException):
    status_code = HTTPStatus.CONFLICT
    default_code = "no_feature_store"
    default_detail = "There is no feature store: its feature_store.yaml is missing."
    hint = "MLOPS_FEAST_REPO names its folder; manage.py prepare_feature_store makes an example."


class FeatureStoreUnknown(APIException):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = "features_not_described"
    default_detail = "The feature store was not described yet: a worker reads it now."
    hint = "Ask again in some seconds."
    wait = 10


class FeatureViewsRejected(APIException):
    """Some of the views cannot be materialised; each is named with the reason."""

    status_code = HTTPStatus.BAD_REQUEST
    default_code = "feature_views_rejected"

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("Nothing is materialised. " + " ".join(one["detail"] for one in errors))
        self.errors = errors


class TooManyMaterializations(APIException):
    status_code = HTTPStatus.CONFLICT
    default_code = "too_many_materializations"
    hint = "Wait until some of them have ended."

    def __init__(self) -> None:
        super().__init__(f"{WAITING_MAX} materialisations wait already, and no more are taken.")


class MaterializationNotFound(NotFound):
    default_code = "materialization_not_found"

    def __init__(self, number: int) -> None:
        super().__init__(f"Materialisation {number} not found")


class _Superseded(Exception):
    """Somebody else has the order now."""


@dataclass(frozen=True)
class Look:
    """What is known of the feature store: nothing where there is none, or none was described yet.

    `asked_at` is when a newer description was asked for; `error` says why the last try failed.
    """

    is_configured: bool
    description: Description | None = None
    described_at: datetime | None = None
    asked_at: datetime | None = None
    error: str = ""


# -- for the web process ---------------------------------------------------------------------------
def look() -> Look:
    """One query; one more where a new description has to be asked for."""
    repo = settings.FEAST_REPO_DIR
    if not is_configured(repo):
        return Look(is_configured=False)
    row = FeatureCatalog.objects.filter(pk=FeatureCatalog.THE_ONE).first()
    asked_at = row.asked_at if row else None
    if asked_at is None and (row is None or _is_old(row)):
        asked_at = ask_description()
    if row is None:
        return Look(is_configured=True, asked_at=asked_at)
    return Look(
        is_configured=True,
        description=_read(row),
        described_at=row.described_at,
        asked_at=asked_at,
        error=row.error,
    )


def ask_description() -> datetime:
    """A worker describes the store anew; the moment of the order."""
    now = timezone.now()
    asked = {"asked_at": now, "queued_at": None}
    FeatureCatalog.objects.update_or_create(pk=FeatureCatalog.THE_ONE, defaults=asked)
    SUPERVISOR_BELL.ring_on_commit()
    return now


def ask_materialization(names: Sequence[str], *, actor: str) -> Materialization:
    """Brings what is new of these views into the online store; of all that can be, without names.

    Whoever wants the same as somebody who still waits gets that order. Raises FeatureStoreMissing,
    FeatureStoreUnknown, FeatureViewsRejected and TooManyMaterializations.
    """
    seen = look()
    if not seen.is_configured:
        raise FeatureStoreMissing
    if seen.description is None:
        raise FeatureStoreUnknown
    wanted = sorted(set(names)) or seen.description.fillable
    _check_fillable(wanted, seen.description)
    with transaction.atomic():
        waiting = list(Materialization.objects.filter(state=State.WAITING))
        same = next((one for one in waiting if one.feature_views == wanted), None)
        if same is not None:
            return same
        if len(waiting) >= WAITING_MAX:
            raise TooManyMaterializations
        made = Materialization.objects.create(
            feature_views=wanted, asked_by=actor, asked_at=timezone.now()
        )
        told = {"detail": ", ".join(wanted), "actor": actor}
        audit.record(Act.FEATURES_MATERIALISE, Kind.FEATURES, made.pk, **told)
    _forget_old(made.pk)
    SUPERVISOR_BELL.ring_on_commit()
    return made


def materialization_of(number: int) -> Materialization:
    """Raises MaterializationNotFound."""
    found = Materialization.objects.filter(pk=number).first()
    if found is None:
        raise MaterializationNotFound(number)
    return found


def newest_materializations() -> list[Materialization]:
    """The newest first."""
    return list(Materialization.objects.order_by("-id")[:SHOWN])


def why_not_fillable(view: View | None, name: str) -> str:
    """Why a view cannot be materialised; empty when it can."""
    if view is None:
        return f"There is no feature view {name}."
    if view.is_fillable:
        return ""
    if not view.enabled:
        return f"The feature view {name} is disabled."
    if not view.online:
        return f"The feature view {name} is not served online."
    return f"The feature view {name} is not filled from a batch source."


def _check_fillable(wanted: Sequence[str], description: Description) -> None:
    """Raises FeatureViewsRejected."""
    reasons = [why_not_fillable(description.views.get(name), name) for name in wanted]
    errors = [{"field": "feature_views", "detail": why} for why in reasons if why]
    if not wanted:
        told = "No feature view can be materialised."
        errors = [{"field": "feature_views", "detail": told}]
    if errors:
        raise FeatureViewsRejected(errors)


def _is_old(row: FeatureCatalog) -> bool:
    now = timezone.now()
    if row.error and row.tried_at is not None:
        return now - row.tried_at >= TRY_AGAIN
    if row.described_at is None:
        return True
    if not row.registry_file and now - row.described_at >= OLD:
        return True
    return row.mark != mark_of(settings.FEAST_REPO_DIR, row.registry_file)


def _read(row: FeatureCatalog) -> Description | None:
    """None for what another version of the platform wrote: it is described anew."""
    try:
        return Description.read(row.document) if row.document else None
    except (KeyError, TypeError, ValueError):
        log.warning("features.description_unreadable", exc_info=True)
        return None


def _forget_old(newest: int) -> None:
    old = Materialization.objects.filter(pk__lte=newest - KEPT)
    old.exclude(state__in=[State.WAITING, State.RUNNING]).delete()


# -- for the supervisor ----------------------------------------------------------------------------
def dispatch(*, may_begin: Callable[[], bool]) -> None:
    """Queues a task for what is wanted, one at a time; `may_begin`: a worker is left for it."""
    now = timezone.now()
    late = now - QUEUE_AGAIN
    open_rows = list(Materialization.objects.filter(state__in=[State.WAITING, State.RUNNING]))
    for one in open_rows:
        if one.state == State.RUNNING and not _is_since(one.seen_at, now - LOST):
            _take_up_lost(one)
    if any(one.state == State.RUNNING or _is_since(one.queued_at, late) for one in open_rows):
        return
    wanted = FeatureCatalog.objects.filter(asked_at__isnull=False).only("queued_at").first()
    being_described = now - timedelta(seconds=DESCRIBE_SECONDS)
    if wanted is not None and _is_since(wanted.queued_at, being_described):
        return
    if not (open_rows or wanted) or not may_begin():
        return
    if open_rows:
        oldest = min(open_rows, key=lambda one: one.pk)
        Materialization.objects.filter(pk=oldest.pk).update(queued_at=now)
        async_task(MATERIALIZE_TASK, oldest.pk, save=False)
        return
    FeatureCatalog.objects.filter(asked_at__isnull=False).update(queued_at=now)
    async_task(DESCRIBE_TASK, save=False)


def ask_again() -> None:
    """The queue has lost its tasks; one that runs has its worker."""
    Materialization.objects.filter(state=State.WAITING).update(queued_at=None)
    FeatureCatalog.objects.filter(asked_at__isnull=False).update(queued_at=None)


def rows_with_worker() -> tuple[QuerySet[Any], QuerySet[Any]]:
    """What a worker is at now, or will be in a moment: for whoever counts which are left."""
    now = timezone.now()
    queued = Q(state=State.WAITING, queued_at__gte=now - QUEUE_AGAIN)
    filled = Materialization.objects.order_by().filter(Q(state=State.RUNNING) | queued)
    since = now - timedelta(seconds=DESCRIBE_SECONDS)
    described = FeatureCatalog.objects.filter(asked_at__isnull=False, queued_at__gte=since)
    return filled, described


def _is_since(moment: datetime | None, since: datetime) -> bool:
    return moment is not None and moment >= since


def _take_up_lost(lost: Materialization) -> None:
    """Its worker is gone: what it did is in the store, and doing it once more does no harm."""
    held = Materialization.objects.filter(pk=lost.pk, claim=lost.claim)
    if lost.attempts < ATTEMPTS_MAX:
        held.update(state=State.WAITING, claim=None, queued_at=None, outcome=[])
        return
    held.update(
        state=State.FAILED,
        claim=None,
        ended_at=timezone.now(),
        error="The worker ended while it did so, more than once.",
    )


# -- for the worker --------------------------------------------------------------------------------
def describe() -> None:
    """Answers whoever asked before this began; a second delivery finds nobody who waits."""
    asked = FeatureCatalog.objects.filter(asked_at__isnull=False).only("pk").first()
    if asked is None:
        return
    began = timezone.now()
    try:
        for message in work(settings.FEAST_REPO_DIR, {}, seconds=DESCRIBE_SECONDS):
            if message is not None and "description" in message:
                _note_description(message, asked_before=began)
    except WorkFailed as failed:
        log.warning("features.not_described: %s", failed)
        FeatureCatalog.objects.update(error=str(failed), tried_at=timezone.now())
        _answered(asked_before=began)


def materialize(number: int) -> None:
    """Does what an order says; a second delivery finds that somebody has it, or had it."""
    claim = uuid.uuid4()
    row = _claimed(number, claim)
    if row is None:
        return
    held = Materialization.objects.filter(pk=number, claim=claim)
    outcome: list[dict[str, Any]] = []
    try:
        for message in _done_by_child(row.feature_views):
            outcome = _noted(outcome, message)
            if not held.update(seen_at=timezone.now(), outcome=outcome):
                raise _Superseded
    except _Superseded:
        log.warning("features.materialization_superseded", extra={"materialization": number})
        return
    except WorkFailed as failed:
        log.warning("features.not_materialized: %s", failed)
        _end(held, State.FAILED, error=str(failed))
        return
    failures = sum(bool(one["detail"]) for one in outcome)
    if failures:
        told = f"{failures} of {len(row.feature_views)} feature views could not be materialised."
        _end(held, State.FAILED, error=told)
        return
    _end(held, State.COMPLETED)


def _claimed(number: int, claim: uuid.UUID) -> Materialization | None:
    now = timezone.now()
    waiting = Materialization.objects.filter(pk=number, state=State.WAITING)
    try:
        with transaction.atomic():
            taken = waiting.update(
                state=State.RUNNING,
                claim=claim,
                started_at=now,
                seen_at=now,
                attempts=F("attempts") + 1,
            )
    except IntegrityError:
        # Another one runs: it waits.
        return None
    return Materialization.objects.get(pk=number) if taken else None


def _done_by_child(views: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What it says of each view, and nothing at times; the description goes where it belongs."""
    began, seconds = timezone.now(), settings.MATERIALIZE_SECONDS
    for message in work(settings.FEAST_REPO_DIR, {"materialize": list(views)}, seconds=seconds):
        if message is not None and "description" in message:
            _note_description(message, asked_before=began)
        yield message or {}


def _noted(outcome: Sequence[dict[str, Any]], message: dict[str, Any]) -> list[dict[str, Any]]:
    """The outcome with what the child says of a view, if it does."""
    return [*outcome, message["view"]] if "view" in message else [*outcome]


def _end(held: Any, state: State, *, error: str = "") -> None:
    held.update(state=state, error=error, claim=None, ended_at=timezone.now())
    log.info("features.materialization_ended", extra={"state": state})


def _note_description(message: dict[str, Any], *, asked_before: datetime) -> None:
    now = timezone.now()
    FeatureCatalog.objects.update_or_create(
        pk=FeatureCatalog.THE_ONE,
        defaults={
            "document": message["description"],
            "mark": message["mark"],
            "registry_file": message["registry_file"],
            "described_at": now,
            "tried_at": now,
            "error": "",
        },
    )
    _answered(asked_before=asked_before)


def _answered(*, asked_before: datetime) -> None:
    """Whoever asked since wants what is newer."""
    rows = FeatureCatalog.objects.filter(asked_at__lte=asked_before)
    rows.update(asked_at=None, queued_at=None)

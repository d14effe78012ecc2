"""Which attempt has which GPU: rows, so that no two can have the same one."""

from collections.abc import Sequence
from typing import Any, TypeVar

from django.db import transaction
from django.db.models import Count, Model, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from training.models import Attempt, Gpu

Row = TypeVar("Row", bound=Model)
FREE = Q(attempt=None) | Q(attempt__finished_at__isnull=False)


def note_devices(engine: str, devices: Sequence[str]) -> None:
    """What the engine has now. One that is gone goes, unless an attempt has it still."""
    known = Gpu.objects.filter(engine=engine)
    if sorted(known.values_list("device", flat=True)) == sorted(devices):
        return
    with transaction.atomic():
        known.filter(FREE).exclude(device__in=devices).delete()
        missing = set(devices) - set(known.values_list("device", flat=True))
        Gpu.objects.bulk_create(Gpu(engine=engine, device=name) for name in sorted(missing))


def free_devices(engine: str) -> int:
    """How many a job could have now."""
    return Gpu.objects.filter(FREE, engine=engine).count()


def with_free_devices(rows: QuerySet[Row], engine: str) -> QuerySet[Any]:
    """The same beside rows of something else, without a query of its own: `free_beside`."""
    free = Gpu.objects.filter(FREE, engine=engine).order_by().values("engine")
    counted = free.annotate(count=Count("pk")).values("count")
    return rows.annotate(free_gpus=Coalesce(Subquery(counted), 0))


def free_beside(row: Any) -> int:
    """Of a row that `with_free_devices` found."""
    return int(row.free_gpus)


def take(attempt: Attempt) -> None:
    """Gives the attempt what its job asked for. In the transaction that claims it, where one that
    counts waits for the other; the caller has seen that there are as many."""
    free = Gpu.objects.filter(FREE, engine=attempt.engine).values_list("pk", flat=True)
    chosen = list(free[: attempt.job.gpus])
    Gpu.objects.filter(pk__in=chosen).update(attempt=attempt)


def devices_of(attempt: Attempt) -> tuple[str, ...]:
    """Those that the attempt has to itself, as the engine names them."""
    return tuple(attempt.gpus.values_list("device", flat=True))

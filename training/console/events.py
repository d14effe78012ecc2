"""Lists of what happened to jobs, as fast at a million jobs as at a thousand."""

import uuid
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import ModelAdmin
from django.db.models import QuerySet
from django.http import HttpRequest

from training.models import JobEvent

# So far back are names and words looked for: all events of a year are millions.
LOOKED_AT = 10_000
SEARCH_HELP = f"A job's whole id, or words of the newest {LOOKED_AT:,} events."


def newest() -> QuerySet[JobEvent]:
    """As many as are looked at, the newest first."""
    return JobEvent.objects.order_by("-id")[:LOOKED_AT]


class NameFilter(admin.SimpleListFilter):
    """What happened, of that which happened lately."""

    title = "name"
    parameter_name = "name"

    def lookups(
        self, request: HttpRequest, model_admin: "ModelAdmin[Any]"
    ) -> list[tuple[str, str]]:
        names = {*newest().values_list("name", flat=True)}
        if self.value():
            names.add(str(self.value()))
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[JobEvent]) -> QuerySet[JobEvent]:
        wanted = self.value()
        return queryset if wanted is None else queryset.filter(name=wanted)


def of_job(queryset: QuerySet[Any], term: str) -> QuerySet[Any] | None:
    """What belongs to the job with that id; None where the term is no id."""
    try:
        return queryset.filter(job=uuid.UUID(term.strip()))
    except ValueError:
        return None

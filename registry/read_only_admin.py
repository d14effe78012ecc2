"""How the admin of every room shows rows: to be read; what changes them are services' actions."""

from typing import Any, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property


class BoundedPaginator(Paginator):
    """Counts no further than anybody turns pages: counting a million rows takes seconds."""

    most = 10_000

    @cached_property
    def count(self) -> int:
        counted: QuerySet[Any] = cast(Any, self.object_list)[: self.most]
        return counted.count()

    @property
    def is_cut(self) -> bool:
        """Whether there may be more than are counted."""
        return self.count == self.most


class ReadOnlyAdmin(admin.ModelAdmin):
    """State belongs to the services: nothing is added, changed or deleted by hand."""

    # Counting all rows is what a long list costs most.
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    # What an empty list says: what comes there, and by what.
    empty_words = ""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

"""How the admin of every room shows rows: to be read; what changes them are services' actions."""

from collections.abc import Sequence
from typing import Any, cast

from django.contrib import admin
from django.core.exceptions import PermissionDenied
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

    # Of one row: each with its heading and the fields below it; none: all fields as they are.
    groups: Sequence[tuple[str | None, Sequence[str]]] = ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What is not known of a row has no line on its page."""
        if not self.groups or obj is None:
            return super().get_fieldsets(request, obj)
        said = [
            (title, [name for name in names if self._says(name, obj)])
            for title, names in self.groups
        ]
        return [(title, {"fields": names}) for title, names in said if names]

    def _says(self, name: str, row: Any) -> bool:
        method = getattr(self, name, None)
        value = getattr(row, name) if method is None else method(row)
        return value not in (None, "", [], {})

    def _check_may_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _check_only_reads(self, request: HttpRequest) -> None:
        """For a page of our own in the place of Django's form."""
        self._check_may_view(request)
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

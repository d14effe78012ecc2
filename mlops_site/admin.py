"""Heartbeats for operators, to be read only; users and groups, whose choices are plain lists."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Field, ManyToManyField, QuerySet
from django.forms import CheckboxSelectMultiple, ModelMultipleChoiceField, SelectMultiple
from django.forms import Field as FormField
from django.http import HttpRequest
from django.utils.safestring import SafeString

from mlops_site.models import Heartbeat
from registry import console
from registry.read_only_admin import ReadOnlyAdmin

PERMISSIONS_SHOWN = 14


@admin.register(Heartbeat)
class HeartbeatAdmin(ReadOnlyAdmin):
    list_display = ["name", "beaten_at", "age"]

    @admin.display(description="Age")
    def age(self, beat: Heartbeat) -> str:
        return f"{beat.age_seconds:.0f} s"


class PlainChoices(admin.ModelAdmin):
    """Without the two lists between which Django's script moves words: what it writes into the page
    has names that nobody hears. Nor with a button that opens a window of its own."""

    show_facets = admin.ShowFacets.NEVER

    def formfield_for_dbfield(
        self, db_field: Field, request: Any, **options: Any
    ) -> FormField | None:
        field = super().formfield_for_dbfield(db_field, request, **options)
        if field is not None and isinstance(field.widget, RelatedFieldWidgetWrapper):
            field.widget = field.widget.widget
        return field

    def formfield_for_manytomany(
        self, db_field: ManyToManyField, request: Any = None, **options: Any
    ) -> ModelMultipleChoiceField | None:
        long = SelectMultiple(attrs={"size": PERMISSIONS_SHOWN})
        options["widget"] = CheckboxSelectMultiple() if db_field.name == "groups" else long
        return super().formfield_for_manytomany(db_field, request, **options)


admin.site.unregister([User, Group])


@admin.register(User)
class PersonAdmin(PlainChoices, UserAdmin):
    filter_horizontal = ()
    # Facts, not choices.
    readonly_fields = ("last_login", "date_joined")
    # Whoever is in a group may open the console: what Django calls staff says nothing here.
    list_display = ("username", "role", "full_name", "email", "active", "last_login")
    list_filter = ("groups", "is_active")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Access", {"fields": ("is_active", "groups")}),
        (
            "Beyond the groups",
            {
                "classes": ("collapse",),
                "fields": ("is_staff", "is_superuser", "user_permissions"),
            },
        ),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="Groups")
    def role(self, user: User) -> str:
        names = [group.name for group in user.groups.all()]
        return ", ".join(["superuser", *names] if user.is_superuser else names) or "–"

    @admin.display(description="Name")
    def full_name(self, user: User) -> str:
        return user.get_full_name() or "–"

    @admin.display(description="Account", ordering="is_active")
    def active(self, user: User) -> SafeString:
        """One that is closed cannot log in."""
        if user.is_active:
            return console.status("completed", "open")
        return console.status("cancelled", "closed")


@admin.register(Group)
class RoleAdmin(PlainChoices, GroupAdmin):
    filter_horizontal = ()

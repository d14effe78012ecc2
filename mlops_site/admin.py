"""Heartbeats for operators: to be read only."""

from django.contrib import admin

from mlops_site.models import Heartbeat
from registry.read_only_admin import ReadOnlyAdmin


@admin.register(Heartbeat)
class HeartbeatAdmin(ReadOnlyAdmin):
    list_display = ["name", "beaten_at", "age"]

    @admin.display(description="Age")
    def age(self, beat: Heartbeat) -> str:
        return f"{beat.age_seconds:.0f} s"

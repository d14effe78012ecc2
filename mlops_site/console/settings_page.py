"""The settings in force, to be read: what each is, who gave it, and no secret."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from mlops_site.models import Report
from mlops_site.reports import SETTINGS
from mlops_site.rights import SEES_SETTINGS, has_right
from mlops_site.settings_table import Setting, settings_in_force

SHOWN = {"all": "All", "changed": "Changed"}


def settings_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """`context` is the frame's. The list alone is asked for while somebody types."""
    if not has_right(request.user, SEES_SETTINGS):
        raise PermissionDenied
    told = Report.objects.filter(name=SETTINGS).first()
    groups = settings_in_force(told.told if told else None)
    every = [setting for found in groups.values() for setting in found]
    text, shown = request.GET.get("text", ""), request.GET.get("shown", "all")
    fitting = {
        group: [one for one in found if _fits(one, text=text, shown=shown)]
        for group, found in groups.items()
    }
    page = {
        "title": "Settings in force",
        "groups": {group: found for group, found in fitting.items() if found},
        "count": sum(len(found) for found in fitting.values()),
        "all_count": len(every),
        "changed_count": sum(one.is_changed for one in every),
        "text": text,
        "shown": shown,
        "tabs": SHOWN,
        "told_at": told.told_at if told else None,
    }
    inside = "HX-Request" in request.headers
    template = "console/settings_rows.html" if inside else "console/settings.html"
    return render(request, template, {**context, **page})


def _fits(setting: Setting, *, text: str, shown: str) -> bool:
    """Every word is somewhere in its name, its value or what is said of it."""
    if shown == "changed" and not setting.is_changed:
        return False
    told = " ".join((setting.name, setting.value, setting.default, setting.what)).lower()
    return all(word in told for word in text.lower().split())

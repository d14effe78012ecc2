"""What stands in the console's navigation, and who sees which of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import HttpRequest
from django.urls import reverse


@dataclass(frozen=True)
class Place:
    """One entry: `page` is the name of a URL, `right` what one must have to see it, `key` what one
    types after `g` to go there."""

    words: str
    icon: str
    page: str
    right: str = ""
    key: str = ""


@dataclass(frozen=True)
class Entry:
    """A place as one page shows it."""

    words: str
    icon: str
    address: str
    current: bool
    key: str


PLACES: dict[str, tuple[Place, ...]] = {
    "Operate": (
        Place("Home", "home", "admin:index", key="h"),
        Place("Jobs", "jobs", "admin:training_job_changelist", "training.view_job", "j"),
        Place(
            "Waiting containers",
            "queue",
            "admin:training_waitingcontainer_changelist",
            "training.view_waitingcontainer",
        ),
        Place(
            "Sandbox proofs",
            "shield",
            "admin:training_sandboxproof_changelist",
            "training.view_sandboxproof",
        ),
        Place(
            "Heartbeats",
            "server",
            "admin:mlops_site_heartbeat_changelist",
            "mlops_site.view_heartbeat",
        ),
    ),
    "Models": (
        Place(
            "Model servers",
            "model",
            "admin:inference_modelserver_changelist",
            "inference.view_modelserver",
            "m",
        ),
        Place(
            "Batch predictions",
            "table",
            "admin:inference_batchprediction_changelist",
            "inference.view_batchprediction",
        ),
        Place(
            "Serving policies",
            "settings",
            "admin:inference_modelpolicy_changelist",
            "inference.view_modelpolicy",
        ),
        Place(
            "Environments",
            "env",
            "admin:training_builtenvironment_changelist",
            "training.view_builtenvironment",
            "e",
        ),
    ),
    "History": (
        Place(
            "Job events", "audit", "admin:training_jobevent_changelist", "training.view_jobevent"
        ),
        Place("Attempts", "rerun", "admin:training_attempt_changelist", "training.view_attempt"),
        Place(
            "Alias changes",
            "audit",
            "admin:inference_aliaschange_changelist",
            "inference.view_aliaschange",
        ),
    ),
    "Administration": (
        Place("Users", "people", "admin:auth_user_changelist", "auth.view_user"),
        Place("Groups", "key", "admin:auth_group_changelist", "auth.view_group"),
        Place("API docs", "docs", "docs"),
    ),
}


def nav_of(request: HttpRequest) -> dict[str, list[Entry]]:
    """By section, what this person may open; a section without any is left out."""
    shown = {
        section: list(_entries(places, request.user, request.path))
        for section, places in PLACES.items()
    }
    return {section: entries for section, entries in shown.items() if entries}


def _entries(
    places: tuple[Place, ...], user: AbstractBaseUser | AnonymousUser, path: str
) -> Iterator[Entry]:
    for place in places:
        if place.right and not user.has_perm(place.right):  # type: ignore[union-attr]
            continue
        address = reverse(place.page)
        current = path == address or (place.page != "admin:index" and path.startswith(address))
        yield Entry(place.words, place.icon, address, current, place.key)

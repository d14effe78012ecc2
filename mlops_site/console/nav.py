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
        Place("New job", "plus", "admin:job_new", "training.add_job", "n"),
        Place("Queue and workers", "queue", "admin:queue", "training.view_job", "q"),
        Place(
            "Sandbox proofs",
            "shield",
            "admin:training_sandboxproof_changelist",
            "training.view_sandboxproof",
        ),
    ),
    "Models": (
        Place("Models", "model", "admin:models", "inference.view_modelserver", "m"),
        Place(
            "Batch predictions",
            "table",
            "admin:inference_batchprediction_changelist",
            "inference.view_batchprediction",
        ),
        Place("Features", "feature", "admin:features", "registry.view_featurecatalog", "f"),
        Place(
            "Environments",
            "env",
            "admin:training_builtenvironment_changelist",
            "training.view_builtenvironment",
            "e",
        ),
    ),
    "Administration": (
        Place("Users", "people", "admin:auth_user_changelist", "auth.view_user"),
        Place("Groups", "key", "admin:auth_group_changelist", "auth.view_group"),
        Place("Audit", "audit", "admin:audit", "registry.view_auditentry", "a"),
        Place("Settings", "settings", "admin:settings", "mlops_site.view_settings"),
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

"""Somebody of each group, for pictures and tests: only where whoever seeds says the password."""

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, User

from training.models import SavedList

PEOPLE = {
    "viewer": "vera",
    "data scientist": "dana",
    "operator": "otto",
    "administrator": "ada",
}


# Lists of jobs that somebody keeps.
KEPT_LISTS = {
    "otto": {"Risk, failed": "status=failed&tag=team%3Drisk", "Nightly": "owner=nightly"},
    "dana": {"Churn": "experiment=churn"},
}


def make_people(password: str) -> None:
    """In one go, so that nobody is written down to have made them."""
    hashed = make_password(password)
    User.objects.bulk_create(
        [User(username=name, password=hashed) for name in PEOPLE.values()],
        update_conflicts=True,
        unique_fields=["username"],
        update_fields=["password"],
    )
    users = {user.username: user for user in User.objects.filter(username__in=PEOPLE.values())}
    groups = {group.name: group for group in Group.objects.filter(name__in=PEOPLE)}
    User.groups.through.objects.bulk_create(
        [
            User.groups.through(user=users[name], group=groups[group])
            for group, name in PEOPLE.items()
        ],
        ignore_conflicts=True,
    )
    SavedList.objects.bulk_create(
        [
            SavedList(person=users[name], name=list_name, query=query)
            for name, lists in KEPT_LISTS.items()
            for list_name, query in lists.items()
        ],
        ignore_conflicts=True,
    )

"""What a person in the console may do to jobs. The services ask nobody: whoever calls them does."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin

from training.models import Job

SEND, CHANGE = "training.add_job", "training.change_job"
Person = AbstractBaseUser | AnonymousUser


def may_send(person: Person) -> bool:
    """New jobs, and old ones again."""
    return _may(person, SEND)


def may_cancel(person: Person, job: Job) -> bool:
    """Anybody's with the right to change jobs; one's own with the right to send them."""
    if _may(person, CHANGE):
        return True
    return _may(person, SEND) and job.owner == person.get_username()


def may_prioritize(person: Person) -> bool:
    """It lets one's job overtake those of others."""
    return _may(person, CHANGE)


def _may(person: Person, right: str) -> bool:
    return isinstance(person, PermissionsMixin) and person.has_perm(right)

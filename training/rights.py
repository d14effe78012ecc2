"""What a person in the console may do to jobs and environments.

The services ask nobody: whoever calls them does.
"""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin

from training.models import Job

SEE, SEND, CHANGE = "training.view_job", "training.add_job", "training.change_job"
CHANGE_ENVIRONMENT = "training.change_builtenvironment"
Person = AbstractBaseUser | AnonymousUser


def may_see(person: Person) -> bool:
    return _may(person, SEE)


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


def may_use_values(person: Person, job: Job) -> bool:
    """Whether the values of a job's variables may go to another script than its own.

    Nobody is ever shown them. A script of one's own could print them, so that they are the owner's
    of the job that had them first, and the operators'; running the very same job again needs no
    more than the right to send jobs.
    """
    return _may(person, CHANGE) or (job.values_owner or job.owner) == person.get_username()


def may_change_environments(person: Person) -> bool:
    """Build them again and delete them."""
    return _may(person, CHANGE_ENVIRONMENT)


def _may(person: Person, right: str) -> bool:
    return isinstance(person, PermissionsMixin) and person.has_perm(right)

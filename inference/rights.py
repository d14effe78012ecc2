"""What a person in the console may do to models. Services ask nobody: whoever calls them does."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin

SEE, TRY, OPERATE = (
    "inference.view_modelserver",
    "inference.add_modelserver",
    "inference.change_modelserver",
)
Person = AbstractBaseUser | AnonymousUser


def may_see(person: Person) -> bool:
    """Models, their versions, and what serves them."""
    return _may(person, SEE)


def may_try(person: Person) -> bool:
    """Ask a model for a prediction, which starts a server of it where none runs."""
    return _may(person, TRY)


def may_operate(person: Person) -> bool:
    """Say which version an alias names, start and stop servers, and how many a model may have."""
    return _may(person, OPERATE)


def _may(person: Person, right: str) -> bool:
    return isinstance(person, PermissionsMixin) and person.has_perm(right)

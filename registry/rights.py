"""What a person in the console may do with features. The services ask nobody: their callers do."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin

SEE, LOOK_UP = "registry.view_featurecatalog", "registry.look_up_features"
MATERIALIZE = "registry.add_materialization"
Person = AbstractBaseUser | AnonymousUser


def may_see_features(person: Person) -> bool:
    """What there is, and what was materialised when."""
    return _may(person, SEE)


def may_look_up(person: Person) -> bool:
    """The values of an entity, which may be those of a person."""
    return _may(person, LOOK_UP)


def may_materialize(person: Person) -> bool:
    """It costs the stores, and changes what predictions find."""
    return _may(person, MATERIALIZE)


def _may(person: Person, right: str) -> bool:
    return isinstance(person, PermissionsMixin) and person.has_perm(right)

"""Who may what, asked for in one query: every page asks, and Django's own backend needs two."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, Permission, User
from django.db.models import Q


class Accounts(ModelBackend):
    """Accounts in the database; rights of their own and of their groups count the same."""

    def get_all_permissions(
        self, user_obj: AbstractBaseUser | AnonymousUser, obj: Any = None
    ) -> set[str]:
        """As `app.codename`; none of an account that is closed, none of one object alone."""
        if not isinstance(user_obj, User) or not user_obj.is_active or obj is not None:
            return set()
        known: set[str] | None = getattr(user_obj, "_known_rights", None)
        if known is None:
            known = _rights_of(user_obj)
            user_obj._known_rights = known  # type: ignore[attr-defined]
        return known


def _rights_of(user: User) -> set[str]:
    rights = Permission.objects.order_by()
    if not user.is_superuser:
        rights = rights.filter(Q(user=user) | Q(group__user=user)).distinct()
    names = rights.values_list("content_type__app_label", "codename")
    return {f"{app}.{codename}" for app, codename in names}

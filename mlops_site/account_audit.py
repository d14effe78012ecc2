"""Writes down who came in, who was refused, and whatever changes accounts and groups.

By Django's signals, so that the console's forms, `createsuperuser` and `changepassword` are all
seen. What a password is or was is no part of it.
"""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.dispatch import receiver

from registry import audit
from registry.audit import Act, Kind
from registry.console import visible

# What is told with its value before and after.
TOLD = ("username", "first_name", "last_name", "email", "is_active", "is_staff", "is_superuser")
NOTED = "_changed_for_audit"
# What Django writes by itself at a login: its moment, and the same password under a newer hash.
AT_LOGIN = (frozenset({"last_login"}), frozenset({"password"}))


@receiver(user_logged_in)
def logged_in(*, user: User, **_: Any) -> None:
    audit.record(Act.LOGIN, Kind.USER, user.get_username(), actor=user.get_username())


@receiver(user_logged_out)
def logged_out(*, user: User | None, **_: Any) -> None:
    """Nobody when the session was over already."""
    if user is not None:
        audit.record(Act.LOGOUT, Kind.USER, user.get_username(), actor=user.get_username())


@receiver(user_login_failed)
def login_failed(*, credentials: dict[str, Any], **_: Any) -> None:
    given = str(credentials.get("username", ""))
    known = "\x00" not in given and User.objects.filter(username=given).exists()
    audit.record_failed_login(given if known else "")


# -- accounts -------------------------------------------------------------------------------------
@receiver(pre_save, sender=get_user_model())
def look_at_user(*, instance: User, update_fields: Iterable[str] | None, **_: Any) -> None:
    """What is about to change, while the row still says what it was."""
    changes: list[str] = []
    if frozenset(update_fields or ()) not in AT_LOGIN:
        before = User.objects.filter(pk=instance.pk).first()
        changes = _changes(before, instance) if before else []
    setattr(instance, NOTED, changes)


@receiver(post_save, sender=get_user_model())
def user_saved(*, instance: User, created: bool, **_: Any) -> None:
    changes = getattr(instance, NOTED, [])
    if created:
        _record_user(Act.USER_ADD, instance, "superuser" if instance.is_superuser else "")
    elif changes:
        _record_user(Act.USER_CHANGE, instance, "; ".join(changes))


@receiver(post_delete, sender=get_user_model())
def user_deleted(*, instance: User, **_: Any) -> None:
    _record_user(Act.USER_DELETE, instance)


@receiver(m2m_changed, sender=User.groups.through)
@receiver(m2m_changed, sender=User.user_permissions.through)
@receiver(m2m_changed, sender=Group.permissions.through)
def belongs_changed(
    *,
    instance: Model,
    action: str,
    model: type[Model],
    pk_set: set[Any] | None,
    **_: Any,
) -> None:
    """Who belongs to which group, and what each may do."""
    if action not in ("post_add", "post_remove", "pre_clear"):
        return
    others = _names(model, pk_set) if pk_set is not None else ["all"]
    if not others:
        return
    detail = f"{'with' if action == 'post_add' else 'without'} {', '.join(others)}"
    if isinstance(instance, Group):
        _record_group(Act.GROUP_CHANGE, instance, detail)
    elif isinstance(instance, User):
        _record_user(Act.USER_CHANGE, instance, detail)


# -- groups ---------------------------------------------------------------------------------------
@receiver(pre_save, sender=Group)
def look_at_group(*, instance: Group, **_: Any) -> None:
    before = Group.objects.filter(pk=instance.pk).values_list("name", flat=True).first()
    setattr(instance, NOTED, before or "")


@receiver(post_save, sender=Group)
def group_saved(*, instance: Group, created: bool, **_: Any) -> None:
    before = getattr(instance, NOTED, "")
    if created:
        _record_group(Act.GROUP_ADD, instance)
    elif before != instance.name:
        _record_group(Act.GROUP_CHANGE, instance, f"name: {before} to {instance.name}")


@receiver(post_delete, sender=Group)
def group_deleted(*, instance: Group, **_: Any) -> None:
    _record_group(Act.GROUP_DELETE, instance)


def _changes(before: User, after: User) -> list[str]:
    told = [
        f"{name}: {_told(getattr(before, name))} to {_told(getattr(after, name))}"
        for name in TOLD
        if getattr(before, name) != getattr(after, name)
    ]
    return [*told, "password"] if before.password != after.password else told


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return visible(str(value)) or "nothing"


def _names(model: type[Model], keys: Iterable[Any]) -> list[str]:
    chosen = model._default_manager.filter(pk__in=keys)
    if model is Permission:
        labels = chosen.values_list("content_type__app_label", "codename")
        return sorted(f"{app}.{codename}" for app, codename in labels)
    return sorted(str(one) for one in chosen)


def _record_user(act: Act, user: User, detail: str = "") -> None:
    audit.record(act, Kind.USER, user.get_username(), detail=detail)


def _record_group(act: Act, group: Group, detail: str = "") -> None:
    audit.record(act, Kind.GROUP, group.name, detail=detail)

"""Who may do what in the console: four groups, each with the rights of the one before.

Rights are Django's permissions of models. Nobody but the services changes a row, so `add_job` means
"may send jobs and run them again", `change_job` "may end anybody's job and move it in the queue",
`add_modelserver` "may ask a model, which starts its server", `change_modelserver` "may say which
version answers, and how".
A migration makes the groups. `is_staff` is not needed to open the console, and the groups do not
give it: it opens the requests that were written down, which hold what customers sent.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin

OPENS_CONSOLE = "training.view_job"
# To pause admission, to drain a worker, and to let both take work again.
HOLDS = "registry.change_hold"
SEES_AUDIT = "registry.view_auditentry"
SEES_SETTINGS = "mlops_site.view_settings"


@dataclass(frozen=True)
class Role:
    """A group: what it may do, in words and in permissions."""

    name: str
    may: str
    permissions: frozenset[str]


def _each(app: str, action: str, models: Iterable[str]) -> frozenset[str]:
    return frozenset(f"{app}.{action}_{model}" for model in models)


_SEES = frozenset(
    {
        *_each(
            "training",
            "view",
            ["job", "jobevent", "attempt", "sandboxproof", "builtenvironment", "waitingcontainer"],
        ),
        *_each(
            "inference", "view", ["modelserver", "aliaschange", "modelpolicy", "batchprediction"]
        ),
        "mlops_site.view_heartbeat",
        *_each("registry", "view", ["featurecatalog", "materialization"]),
    }
)
_SENDS = _SEES | {
    "training.add_job",
    "inference.add_modelserver",
    "registry.look_up_features",
}
_OPERATES = _SENDS | {
    "training.change_job",
    "training.change_builtenvironment",
    "inference.change_modelserver",
    "registry.add_materialization",
    HOLDS,
    SEES_AUDIT,
    SEES_SETTINGS,
}
_ADMINISTERS = _OPERATES.union(
    *(_each("auth", action, ["user", "group"]) for action in ("view", "add", "change", "delete"))
)

ROLES: tuple[Role, ...] = (
    Role("viewer", "sees everything and changes nothing", _SEES),
    Role(
        "data scientist",
        "also sends jobs, runs any again, cancels his or her own, tries models, and looks up "
        "features",
        _SENDS,
    ),
    Role(
        "operator",
        "also cancels anybody's jobs, sets their priority, says which version of a model an alias "
        "names, starts, stops and scales model servers, builds or deletes environments, "
        "materialises features, pauses and drains, and sees the settings and the audit",
        _OPERATES,
    ),
    Role("administrator", "also makes users and says who belongs to which group", _ADMINISTERS),
)


def may_open_console(user: AbstractBaseUser | AnonymousUser) -> bool:
    """Whoever is in one of the groups, and staff."""
    if not isinstance(user, PermissionsMixin) or not user.is_active:
        return False
    return bool(getattr(user, "is_staff", False)) or user.has_perm(OPENS_CONSOLE)


def has_right(user: AbstractBaseUser | AnonymousUser, right: str) -> bool:
    """Whether somebody who is logged in has a permission, such as `training.view_job`."""
    return isinstance(user, PermissionsMixin) and user.has_perm(right)


def role_of(user: AbstractBaseUser | AnonymousUser) -> str:
    """The most that somebody may do, by the name of its group; empty where that is none of them."""
    if not isinstance(user, PermissionsMixin):
        return ""
    if user.is_superuser:
        return "superuser"
    held = user.get_all_permissions()
    fitting = [role.name for role in ROLES if role.permissions <= held]
    return fitting[-1] if fitting else ""

"""What may be done to a model, and the question that is asked before: what would happen to what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.utils import timezone

from inference.console import lookup
from inference.models import ModelServer
from inference.services import aliases, policy
from inference.services.rows import Status
from registry.compared import compare, told_in_short
from registry.console import age, visible

# What a first alias is called.
USUAL_ALIAS = "champion"
MOVED = (
    "Who asks for the alias is answered by that version from the next request on. Its server is "
    "started; while the alias is in use, the version before goes on answering until then."
)


class Action(StrEnum):
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    TAKE_AWAY = "take_away"
    START = "start"
    STOP = "stop"
    PIN = "pin"
    UNPIN = "unpin"
    SCALE = "scale"


@dataclass(frozen=True)
class Target:
    """What an act is about: a model, and of it a version, an alias or one server, as sent."""

    name: str
    version: str = ""
    alias: str = ""
    # What a roll back was said to lead to.
    to: str = ""
    replica: int | None = None


@dataclass(frozen=True)
class Choice:
    """An alias that can be moved; `why_not` is empty for one that can."""

    alias: str
    says: str
    why_not: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Blank:
    """A field of the form that scales; `value` is what stands in it."""

    name: str
    words: str
    value: str
    help: str
    unit: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Question:
    """What would happen, before it does. Without a `button` nothing can be done."""

    action: Action
    target: Target
    title: str
    lines: Sequence[str] = ()
    explanation: str = ""
    button: str = ""
    keep: str = "Not now"
    destroys: bool = False
    choices: Sequence[Choice] = ()
    blanks: Sequence[Blank] = ()
    takes_note: bool = False
    new_alias: str = ""


def question(action: Action, target: Target) -> Question:
    """Raises what the services and MLflow raise."""
    asks: dict[Action, Callable[[Target], Question]] = {
        Action.PROMOTE: _ask_promote,
        Action.ROLL_BACK: _ask_roll_back,
        Action.TAKE_AWAY: _ask_take_away,
        Action.STOP: _ask_stop,
        Action.SCALE: _ask_scale,
    }
    return asks[action](target)


ASKED_FIRST = frozenset(
    {Action.PROMOTE, Action.ROLL_BACK, Action.TAKE_AWAY, Action.STOP, Action.SCALE}
)


def cannot(action: Action, target: Target, why: str) -> Question:
    """In the place of a question that cannot be asked now."""
    return Question(action, target, "Nothing can be done now", [visible(why)], keep="Close")


def _ask_promote(target: Target) -> Question:
    named = aliases.all_aliases(target.name)
    free = [alias for alias, version in named.items() if version != target.version]
    usual = USUAL_ALIAS if USUAL_ALIAS in free else next(iter(sorted(free)), "")
    choices = [
        _choice(alias, version, target, chosen=alias == usual)
        for alias, version in sorted(named.items())
    ]
    return Question(
        Action.PROMOTE,
        target,
        f"Which alias names version {target.version} from now on?",
        explanation=MOVED,
        button=f"Promote version {target.version}",
        choices=choices,
        takes_note=True,
        new_alias="" if named else USUAL_ALIAS,
    )


def _choice(alias: str, version: str, target: Target, *, chosen: bool) -> Choice:
    if version == target.version:
        return Choice(alias, f"names version {version}", why_not="already")
    return Choice(alias, f"names version {version} now, then {target.version}", chosen=chosen)


def _ask_roll_back(target: Target) -> Question:
    current = aliases.all_aliases(target.name)
    found = next(
        (one for one in aliases.named_now(target.name, current) if one.alias == target.alias), None
    )
    if found is None or not found.before:
        raise aliases.NothingToRollBackTo(target.name, target.alias)
    return Question(
        Action.ROLL_BACK,
        replace(target, to=found.before),
        f"Roll {visible(target.alias)} back to version {found.before}?",
        [
            f"The alias {visible(target.alias)} of {visible(target.name)} names version "
            f"{found.version} now, and version {found.before} again from then on.",
            *_difference(target.name, found.before, found.version),
        ],
        explanation=MOVED,
        button=f"Roll back to {found.before}",
        keep=f"Stay with {found.version}",
        destroys=True,
        takes_note=True,
    )


def _difference(name: str, number: str, current: str) -> list[str]:
    """The metrics of one version against another's, as far as both are known."""
    found = lookup.version(name, number, beside=current)
    if found is None or found.run is None or found.beside_run is None:
        return []
    told = told_in_short(compare(found.run.metrics, found.beside_run.metrics))
    return [f"Metrics: {visible(told)} against version {current}."] if told else []


def _ask_take_away(target: Target) -> Question:
    version = aliases.all_aliases(target.name).get(target.alias, "")
    if not version:
        return cannot(Action.TAKE_AWAY, target, "There is no such alias any more.")
    return Question(
        Action.TAKE_AWAY,
        target,
        f"Remove the alias {visible(target.alias)}?",
        [f"It names version {version} of {visible(target.name)} now."],
        explanation="Predictions with this alias are refused from then on. Its history stays.",
        button="Remove alias",
        keep="Keep it",
        destroys=True,
    )


def _ask_stop(target: Target) -> Question:
    servers = servers_to_stop(target)
    if not servers:
        return cannot(Action.STOP, target, "No server of this version runs any more.")
    one = len(servers) == 1
    what = "the server" if one else f"{len(servers)} servers"
    return Question(
        Action.STOP,
        target,
        f"Stop {what} of version {target.version}?",
        [_stop_line(server) for server in servers],
        explanation=_after_stop(target),
        button="Stop server" if one else f"Stop {len(servers)} servers",
        keep="Keep it running" if one else "Keep them running",
        destroys=True,
    )


def servers_to_stop(target: Target) -> list[ModelServer]:
    """Those of the version, or the one that the target names."""
    rows = ModelServer.objects.filter(
        model_name=target.name,
        version=target.version,
        status__in=[Status.STARTING, Status.READY],
    )
    if target.replica is not None:
        rows = rows.filter(replica=target.replica)
    return list(rows.defer("description", "log_tail").order_by("replica"))


def _stop_line(server: ModelServer) -> str:
    used = "never used"
    if server.last_used_at is not None:
        seconds = (timezone.now() - server.last_used_at).total_seconds()
        used = f"last used {age(seconds)} ago"
    return f"Server {server.replica} of version {server.version} is {server.status}, {used}."


def _after_stop(target: Target) -> str:
    told = "It starts again with the next request, which waits until the model is loaded."
    wanted = policy.policy_of(target.name).min_servers
    if wanted:
        told += (
            f" The newest version, and each with an alias, keeps at least {wanted} of them, "
            "whatever is stopped: scale to 0 first where it should stay stopped."
        )
    return told


def _ask_scale(target: Target) -> Question:
    return scale_question(target, asdict(policy.policy_of(target.name)), {})


def scale_question(
    target: Target, values: Mapping[str, Any], problems: Mapping[str, str]
) -> Question:
    """With what stands in its fields, and what is wrong with that."""
    return Question(
        Action.SCALE,
        target,
        f"How is {visible(target.name)} served?",
        explanation=(
            "This holds for every version of it. Servers that run with other memory or CPUs are "
            "replaced one by one, each after its successor is ready."
        ),
        button="Scale",
        blanks=[
            replace(blank, value=_plain(values.get(blank.name)), problem=problems.get(name, ""))
            for blank in blanks()
            for name in [blank.name]
        ],
    )


def blanks() -> list[Blank]:
    """The fields of a policy that are set by hand; pinning has a button of its own."""
    most = settings.SERVERS_MEMORY_MB
    return [
        Blank(
            "min_servers",
            "At least",
            "",
            "of the newest version and of those with an alias, asked or not",
            "servers",
        ),
        Blank("max_servers", "At most", "", "of a version; one more starts while all are busy"),
        Blank("idle_seconds", "Stops when idle for", "", "0: never", "s"),
        Blank("memory_mb", "Memory of each", "", f"all models together have {most} MB", "MB"),
        Blank("cpus", "CPUs of each", "", "0.1 to 64"),
    ]


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value if value is not None else "")

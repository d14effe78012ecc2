"""What is done to a model, each act through the service that the API calls, and told afterwards.

Nothing here writes a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.http import QueryDict
from rest_framework.exceptions import APIException, ValidationError

from inference.api.pool_views import ServingSerializer
from inference.console import lookup
from inference.console.questions import (
    Action,
    Question,
    Target,
    blanks,
    scale_question,
    servers_to_stop,
)
from inference.services import aliases, policy, pool
from inference.services.aliases import NOTE_CHARACTERS
from inference.services.policy import Policy
from inference.services.rows import Status
from registry.mlflow_client import RegistryUnavailable, model_registry


@dataclass(frozen=True)
class Outcome:
    """What was done, or why it was not; `again` is the question once more, with its problems."""

    told: str = ""
    refused: str = ""
    again: Question | None = None


def carry_out(action: Action, target: Target, sent: QueryDict, *, actor: str) -> Outcome:
    """Does it. What a service or MLflow refuses is told as that, and nothing is raised for it."""
    does: dict[Action, Callable[[Target, QueryDict, str], Outcome]] = {
        Action.PROMOTE: _promote,
        Action.ROLL_BACK: _roll_back,
        Action.TAKE_AWAY: _take_away,
        Action.START: _start,
        Action.STOP: _stop,
        Action.PIN: _pin,
        Action.UNPIN: _unpin,
        Action.SCALE: _scale,
    }
    try:
        return does[action](target, sent, actor)
    except APIException as error:
        return Outcome(refused=str(error.detail))


def _promote(target: Target, sent: QueryDict, actor: str) -> Outcome:
    alias = sent.get("alias", "").strip() or sent.get("new_alias", "").strip()
    if not alias:
        return Outcome(refused="No alias was chosen: nothing was changed.")
    problem = aliases.alias_problem(alias)
    if problem:
        return Outcome(refused=f"{alias[:80]} cannot be an alias. {problem}")
    before = aliases.all_aliases(target.name).get(alias, "")
    aliases.point(target.name, alias, target.version, actor=actor, note=_note(sent))
    if before == target.version:
        return Outcome(told=f"The alias {alias} named version {before} already.")
    was = f"version {before}" if before else "nothing"
    return Outcome(
        told=f"The alias {alias} names version {target.version} now; before it named {was}."
    )


def _roll_back(target: Target, sent: QueryDict, actor: str) -> Outcome:
    done = aliases.roll_back(
        target.name, target.alias, actor=actor, note=_note(sent), expected=target.to
    )
    return Outcome(told=f"The alias {target.alias} names version {done.version} again.")


def _take_away(target: Target, sent: QueryDict, actor: str) -> Outcome:
    aliases.take_away(target.name, target.alias, actor=actor)
    return Outcome(told=f"The alias {target.alias} is gone.")


def _start(target: Target, sent: QueryDict, actor: str) -> Outcome:
    source = source_of(target.name, target.version)
    started = pool.start(target.name, target.version, source=source)
    if started.status == Status.READY:
        return Outcome(told=f"Version {target.version} has a server that is ready.")
    return Outcome(told=f"A server of version {target.version} starts.")


def _stop(target: Target, sent: QueryDict, actor: str) -> Outcome:
    stopped = sum(pool.stop(server.pk) for server in servers_to_stop(target))
    if not stopped:
        return Outcome(refused="No server of this version runs any more: nothing was stopped.")
    servers = "1 server is" if stopped == 1 else f"{stopped} servers are"
    return Outcome(told=f"{servers} being stopped; the next request starts one again.")


def _pin(target: Target, sent: QueryDict, actor: str) -> Outcome:
    _check_model(target.name)
    policy.pin(target.name, pinned=True, actor=actor)
    return Outcome(told="Pinned: what runs of this model stays, asked or not.")


def _unpin(target: Target, sent: QueryDict, actor: str) -> Outcome:
    _check_model(target.name)
    policy.pin(target.name, pinned=False, actor=actor)
    return Outcome(told="Not pinned any more: what nobody asks for a while stops.")


def _scale(target: Target, sent: QueryDict, actor: str) -> Outcome:
    _check_model(target.name)
    before = policy.policy_of(target.name)
    values = {blank.name: sent.get(blank.name, "").strip() for blank in blanks()}
    wanted = ServingSerializer(data={**values, "pinned": before.pinned})
    try:
        wanted.is_valid(raise_exception=True)
    except ValidationError as wrong:
        problems = {name: str(told[0]) for name, told in dict(wrong.detail).items()}  # type: ignore[arg-type, index]
        return Outcome(again=scale_question(target, values, problems))
    policy.set_policy(target.name, Policy(**wanted.validated_data), actor=actor)
    fewest, most = wanted.validated_data["min_servers"], wanted.validated_data["max_servers"]
    told = f"From now on at most {most} of each version, and at least {fewest} of the newest."
    return Outcome(told=told)


def source_of(name: str, version: str) -> str:
    """Of which files a server is; empty while MLflow does not answer, which is asked again then.

    Raises ModelVersionNotFound, and RegistryUnavailable for what nobody has ever served.
    """
    try:
        return model_registry().version(name, version).source
    except RegistryUnavailable:
        if not lookup.is_known_here(name, version):
            raise
        return ""


def _check_model(name: str) -> None:
    """Raises ModelNotFound: nothing is kept for a model that there is none of."""
    if not lookup.is_known_here(name):
        model_registry().model(name)


def _note(sent: QueryDict) -> str:
    return sent.get("note", "").strip()[:NOTE_CHARACTERS]

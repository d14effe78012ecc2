"""Keeps what jobs may reach to what the settings say, and knows whether that was proved lately.

Rules are written before a start when nobody wrote them lately, and every few seconds while jobs
run or containers wait for one: whoever flushed the host's firewall has opened it for that long at
most.
"""

import hashlib
import json
import logging
import time
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.utils import timezone
from django_q.tasks import async_task

from sandbox import firewall
from sandbox.container import Limits, SandboxSpec
from sandbox.engine import Engine, EngineError, EngineUnavailable, SandboxMismatch
from sandbox.firewall import AddressInvalid, Policy, RulesNotInstalled
from sandbox.holders import HOLDER_LABEL, me
from sandbox.network import Networks, find_networks
from sandbox.probe import Result, Subjects, probe
from sandbox.spec import build_spec, job_spec, server_spec
from training.models import Attempt, EngineCapacity, SandboxProof, WaitingContainer
from training.network_policy import docker_network, policy, resolvers
from training.services.claim import LOCAL_ENGINE, note_short_of
from training.states import Network

log = logging.getLogger(__name__)

NETWORK = "network"
KEEP_TASK = "training.tasks.keep_network"
PROVE_TASK = "training.tasks.prove_network"
# Rules that were written so lately are taken to be there.
RULES_FRESH_SECONDS = 30
KEEP_SECONDS = 20.0
PROVE_SECONDS = 900.0
PROVE_AGAIN_SECONDS = 30.0
# A proof that is older says nothing any more.
PROOF_FRESH_SECONDS = 3600
PROBE_LIMITS = Limits(memory_mb=128, cpus=1.0, pids=64, scratch_mb=8)


class NetworkNotHeld(Exception):
    """No job may run: the message says what is wrong with the host's firewall."""


def problem() -> str:
    """Why the network does not hold, in words; empty while it was proved to."""
    return problem_in(SandboxProof.objects.filter(engine=LOCAL_ENGINE).first())


def problem_in(proof: SandboxProof | None) -> str:
    """The same, of a proof that was read already."""
    if proof is None or proof.checked_at is None:
        return "What jobs may reach was not proved yet"
    if proof.problem:
        return proof.problem
    if proof.age_seconds > PROOF_FRESH_SECONDS:
        return f"What jobs may reach was last proved {proof.age_seconds / 60:.0f} minutes ago"
    return ""


def short_of() -> str:
    """`network` when that stops new jobs; in development it is only told, again and again."""
    found = problem()
    if not found:
        return ""
    if settings.DEBUG:
        log.warning("network.not_held: jobs run all the same, since MLOPS_DEBUG=1. %s.", found)
        return ""
    return NETWORK


def ensure_kept(engine: Engine) -> None:
    """Before a start: the rules are there. Raises NetworkNotHeld, and what the engine raises."""
    if short_of():
        note_short_of(NETWORK)
        raise NetworkNotHeld(problem())
    ensure_rules(engine)


def problem_of_servers(engine: Engine) -> str:
    """Before the start of a model server, as before a job's; empty when it may start."""
    try:
        ensure_kept(engine)
    except NetworkNotHeld as error:
        return str(error)
    return ""


def ensure_for_builds(engine: Engine) -> None:
    """Before a build: the rules are there; it runs nobody's code, so that it need not be proved.

    Raises EngineUnavailable: the same build may be allowed later.
    """
    try:
        ensure_rules(engine)
    except NetworkNotHeld as error:
        raise EngineUnavailable(f"The network is not held: {error}") from error


def ensure_rules(engine: Engine) -> None:
    """Writes them unless that was lately. Raises as `keep` does."""
    oldest = timezone.now() - timedelta(seconds=RULES_FRESH_SECONDS)
    if not SandboxProof.objects.filter(engine=LOCAL_ENGINE, rules_at__gte=oldest).exists():
        keep(engine)


def keep(engine: Engine) -> None:
    """Writes the rules. Raises NetworkNotHeld outside development, and what the engine raises."""
    try:
        write_rules(engine, policy(), networks(engine))
    except (RulesNotInstalled, AddressInvalid) as error:
        _note_failure(f"The host's firewall did not take the rules: {error}")
        if not settings.DEBUG:
            note_short_of(NETWORK)
            raise NetworkNotHeld(str(error)) from error


def prove(engine: Engine) -> SandboxProof:
    """Writes the rules and tries from inside what must fail and what must work."""
    try:
        wanted, bridges = policy(), networks(engine)
        write_rules(engine, wanted, bridges)
        results = probe(engine, subjects(), policy=wanted, networks=bridges)
    except (RulesNotInstalled, AddressInvalid) as error:
        return _note_failure(f"The host's firewall did not take the rules: {error}")
    except (EngineError, SandboxMismatch) as error:
        return _note_failure(f"The network could not be tried: {error}")
    return _note_results(results)


def forget_rules() -> None:
    """They may be those of bridges that are gone: the next start writes them first."""
    SandboxProof.objects.filter(engine=LOCAL_ENGINE).update(rules_at=None)


def forget_proof() -> None:
    """The platform starts: what an earlier life proved says nothing of the host as it is now."""
    SandboxProof.objects.filter(engine=LOCAL_ENGINE).update(
        rules_at=None, checked_at=None, problem=""
    )


class NetworkWatch:
    """For the supervisor, which calls `look` every few seconds; workers do what it asks for."""

    def __init__(self) -> None:
        self._proof_asked_at: float | None = None
        self._rules_asked_at = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if self._proof_due(now):
            self._proof_asked_at = self._rules_asked_at = now
            async_task(PROVE_TASK, save=False)
        elif now - self._rules_asked_at >= KEEP_SECONDS and _jobs_run_or_may_in_a_moment():
            self._rules_asked_at = now
            async_task(KEEP_TASK, save=False)

    def ask_again(self) -> None:
        """The queue has lost its tasks; the last proof holds as long as it would have."""
        self._rules_asked_at = 0.0
        if problem():
            self._proof_asked_at = None

    def _proof_due(self, now: float) -> bool:
        """At the start, whatever an earlier life found; soon again after a failure."""
        if self._proof_asked_at is None:
            forget_rules()
            return True
        patience = PROVE_AGAIN_SECONDS if problem() else PROVE_SECONDS
        return now - self._proof_asked_at >= patience


def _jobs_run_or_may_in_a_moment() -> bool:
    """What waits for a job is to save it time, which writing the rules would cost it again."""
    running = Attempt.objects.filter(finished_at=None)
    return running.exists() or WaitingContainer.objects.exists()


def networks(engine: Engine) -> Networks:
    """Those of this installation. Raises EngineError when one is missing."""
    return find_networks(
        engine,
        jobs=settings.JOBS_NETWORK,
        offline=settings.OFFLINE_NETWORK,
        servers=settings.SERVERS_NETWORK,
        builds=settings.BUILDS_NETWORK,
    )


def write_rules(engine: Engine, wanted: Policy, bridges: Networks) -> None:
    """Raises RulesNotInstalled, AddressInvalid, and what the engine raises."""
    was_missing = firewall.install(
        engine, image=settings.RUNNER_IMAGE, policy=wanted, networks=bridges
    )
    rules = hashlib.sha256(firewall.ruleset(wanted, bridges).encode()).hexdigest()
    known = SandboxProof.objects.filter(engine=LOCAL_ENGINE, rules_at__isnull=False)
    if was_missing and known.exists():
        log.error("network.rules_were_missing: somebody removed them; they are there again")
    note(rules_at=timezone.now(), rules_hash=rules)


def subjects() -> Subjects:
    """A container of each network, as it is made for work; nothing of anybody is in them."""
    empty = _empty_folder()
    return Subjects(
        internet=_job(Network.INTERNET, empty),
        none=_job(Network.NONE, empty),
        server=server_spec(
            name=f"mlops-{settings.INSTALLATION_ID}-probe-server",
            image=settings.RUNNER_IMAGE,
            model_folder=empty,
            environment_folder=empty,
            platform_folder=empty,
            variables={},
            network=settings.SERVERS_NETWORK,
            limits=PROBE_LIMITS,
            runtime=settings.SANDBOX_RUNTIME,
            labels=_labels(),
        ),
        build=_build(empty),
    )


def _build(empty: Path) -> SandboxSpec:
    return build_spec(
        name=f"mlops-{settings.INSTALLATION_ID}-probe-build",
        image=settings.RUNNER_IMAGE,
        command=(),
        store_folder=empty,
        user="builder",
        variables={},
        network=settings.BUILDS_NETWORK,
        limits=PROBE_LIMITS,
        labels=_labels(),
    )


def _labels() -> dict[str, str]:
    return {"mlops.installation": settings.INSTALLATION_ID, HOLDER_LABEL: me()}


def _empty_folder() -> Path:
    empty = Path(settings.JOBS_DIR) / "probe"
    empty.mkdir(parents=True, exist_ok=True)
    empty.chmod(0o755)
    return empty


def _job(network: Network, empty: Path) -> SandboxSpec:
    return job_spec(
        name=f"mlops-{settings.INSTALLATION_ID}-probe-{network}",
        image=settings.RUNNER_IMAGE,
        script_folder=empty,
        script_name="none.py",
        environment_folder=empty,
        platform_folder=empty,
        data_folder=empty,
        variables={},
        network=docker_network(network),
        resolvers=resolvers(network),
        limits=PROBE_LIMITS,
        runtime=settings.SANDBOX_RUNTIME,
        deadline_seconds=60,
        grace_seconds=1,
        log_bytes=settings.JOB_LOG_MAX_BYTES,
        log_hard_bytes=settings.JOB_LOG_HARD_BYTES,
        labels=_labels(),
    )


def _note_results(results: tuple[Result, ...]) -> SandboxProof:
    failed = [result.sentence for result in results if not result.passed]
    for sentence in failed:
        log.error("network.not_held: %s", sentence)
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    words = f"What jobs may reach is not held: {failed[0]}{more}" if failed else ""
    if not failed:
        # At once, and not with the next measurement: jobs may wait for this alone.
        EngineCapacity.objects.filter(short_of=NETWORK).update(short_of="")
    told = [{**asdict(result), "passed": result.passed} for result in results]
    return note(checked_at=timezone.now(), problem=words, results=json.loads(json.dumps(told)))


def _note_failure(words: str) -> SandboxProof:
    log.error("network.not_held: %s", words)
    return note(checked_at=timezone.now(), problem=words, results=[])


def note(**values: datetime | str | list[dict[str, object]]) -> SandboxProof:
    """Keeps what was found of the sandbox of this engine's host."""
    proof, _ = SandboxProof.objects.update_or_create(engine=LOCAL_ENGINE, defaults=values)
    return proof

"""From a claimed attempt to a running container; every failure on the way ends the attempt."""

import logging
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from django.utils import timezone

from registry.job_tokens import new_token
from registry.mlflow_client import RegistryRefused, RegistryUnavailable, model_registry
from sandbox.container import SandboxSpec
from sandbox.container_input import ContainerInput
from sandbox.engine import ContainerState, EngineError, EngineUnavailable, SandboxMismatch
from sandbox.environments import (
    BuildStopped,
    Environment,
    EnvironmentFailed,
    EnvironmentStore,
)
from sandbox.order import Order, began_in
from sandbox.output import began_at
from training import containers, engine_room, logs
from training.models import Attempt, LogChunk
from training.python_versions import image_of
from training.script_check import TooBusy, read_script
from training.services import claim, environments, network, resolve, rows, waiting
from training.services.finish import clean_up, end
from training.states import EndReason, Phase, Reason

log = logging.getLogger(__name__)

# For the launcher to come up and take its order, on a host that is busy.
ORDER_SECONDS = 60.0
Variables = Future[dict[str, str]]

NETWORK_NOT_HELD = "The host's firewall does not hold what jobs may reach, so none is started."


class Cancelled(Exception):
    """Somebody cancelled the job while it was made ready."""


class NotPython(Exception):
    """The script cannot be run by any environment; the message is what Python says."""


def launch(attempt: Attempt) -> None:
    """Raises LeaseLost; whatever else fails becomes the attempt's end."""
    stop = threading.Event()
    with rows.lease_kept(attempt, unwanted=stop.set):
        try:
            reason = _launch_or_reason(attempt, stop)
            if reason is not None:
                clean_up(attempt)
                end(attempt, reason)
        except rows.LeaseLost:
            _remember_user(attempt)
            raise


def hand_over(attempt: Attempt, *, started_at: datetime) -> None:
    """The container runs: from here on the supervisor holds the lease."""
    deadline = started_at + timedelta(seconds=attempt.job.timeout_seconds)
    rows.enter_phase(attempt, Phase.TRAINING)
    rows.update_attempt(
        attempt,
        lease_owner=rows.SUPERVISOR,
        lease_expires_at=timezone.now() + timedelta(seconds=rows.LEASE_SECONDS),
        container_started_at=started_at,
        deadline_at=deadline,
    )


def script_began(attempt: Attempt, state: ContainerState | None) -> datetime | None:
    """When the script of an attempt began, by what its container says; None when it did not.

    For whoever finds an attempt whose worker is gone: the container may run without an order.
    Raises EngineUnavailable.
    """
    if state is None or state.started_at is None:
        return None
    began = began_at(engine_room.engine().recorded_logs(state.id))
    return None if began is None else datetime.fromtimestamp(began, UTC)


def _launch_or_reason(attempt: Attempt, stop: threading.Event) -> EndReason | None:
    try:
        _launch(attempt, stop)
    except (Cancelled, BuildStopped):
        return EndReason.of(Reason.CANCELLED)
    except NotPython as error:
        return EndReason.of(Reason.SYNTAX_ERROR, sentence=str(error))
    except EnvironmentFailed as error:
        return resolve.reason_of(error)
    except SandboxMismatch as error:
        log.error("job.sandbox_refused", extra={"differences": error.differences})
        rows.record(attempt.job, "sandbox_refused", str(error), actor=rows.WORKER, attempt=attempt)
        return EndReason.of(Reason.SANDBOX_REFUSED)
    except (EngineError, EngineUnavailable) as error:
        log.exception("job.engine_failed", extra={"job": str(attempt.job_id)})
        if isinstance(error, EngineUnavailable):
            claim.note_short_of("engine")
        return EndReason.of(Reason.ENGINE_UNAVAILABLE)
    except network.NetworkNotHeld as error:
        rows.record(attempt.job, "network_not_held", actor=rows.WORKER, attempt=attempt)
        log.error("job.network_not_held: %s", error, extra={"job": str(attempt.job_id)})
        return EndReason.of(Reason.ENGINE_UNAVAILABLE, sentence=NETWORK_NOT_HELD)
    except RegistryUnavailable:
        log.exception("job.tracking_unavailable", extra={"job": str(attempt.job_id)})
        claim.note_short_of("mlflow")
        return EndReason.of(Reason.TRACKING_UNAVAILABLE)
    except RegistryRefused as error:
        return EndReason.of(Reason.EXPERIMENT_REFUSED, sentence=str(error.detail))
    except OSError:
        log.exception("job.host_failed", extra={"job": str(attempt.job_id)})
        return EndReason.of(Reason.INTERNAL_ERROR)
    return None


def _remember_user(attempt: Attempt) -> None:
    """Whoever took the attempt over may have looked for its MLflow user before we made it."""
    if attempt.mlflow_username:
        lost = Attempt.objects.filter(pk=attempt.pk)
        lost.update(mlflow_username=attempt.mlflow_username)


def _launch(attempt: Attempt, stop: threading.Event) -> None:
    store = engine_room.environments(image_of(attempt.job.python_version))
    environment = _environment_for(attempt, store, stop)
    environments.note_used(environment, new_jobs=1 if attempt.number == 1 else 0)
    rows.enter_phase(
        attempt,
        Phase.STARTING,
        environment_key=environment.key,
        environment_lock=environment.lock,
    )
    # Before the user exists: a user that nobody remembers would never be deleted.
    rows.update_attempt(attempt, mlflow_username=containers.user_name(attempt))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracking") as beside:
        variables = beside.submit(_open_tracking, attempt)
        network.ensure_kept(engine_room.engine())
        started_at = _start(attempt, environment, variables, stop, beside)
    hand_over(attempt, started_at=started_at)


def _start(
    attempt: Attempt,
    environment: Environment,
    variables: Variables,
    stop: threading.Event,
    beside: Executor,
) -> datetime:
    """When the script began, in a container that waited for it or in one of its own.

    MLflow's part is done beside, and waited for as late as possible: half of a start is the
    engine's.
    """
    began = waiting.start_in_waiting(attempt, environment=environment, variables=variables.result)
    if began is not None:
        return began
    containers.write_script(attempt)
    spec = containers.spec_of(
        attempt,
        environment=environment,
        platform_folder=engine_room.environments(environment.image).platform_folder(),
    )
    if variables.done():
        variables.result()  # a failure needs no container
    if stop.is_set():
        raise Cancelled
    return _start_own(attempt, spec, variables, beside)


def _environment_for(
    attempt: Attempt, store: EnvironmentStore, stop: threading.Event
) -> Environment:
    """The environment that is there, or a new one whose build shows in the job's log."""
    requirements = attempt.job.requirements
    found = store.find(requirements)
    if found is not None:
        return found
    _refuse_what_is_not_python(attempt, store)
    rows.record(attempt.job, "environment_build_started", actor=rows.WORKER, attempt=attempt)
    output, said = logs.BufferedLog(attempt, LogChunk.Part.BUILD), bytearray()
    started = time.monotonic()

    def write(data: bytes) -> None:
        output.write(data)
        said.extend(data)

    try:
        environment = store.build(requirements, output=write, stop=stop)
    finally:
        output.flush()
    seconds = time.monotonic() - started
    environments.note_built(environment, build_log=said.decode(errors="replace"), seconds=seconds)
    resolve.note_installed(environment.key)
    return environment


def _refuse_what_is_not_python(attempt: Attempt, store: EnvironmentStore) -> None:
    """Before a build of minutes; where there is none, the script itself tells as fast.

    Only where the containers' Python has our grammar. What cannot be decided here (too large, too
    deep, too slow) goes on: its own Python decides. Raises NotPython.
    """
    if store.python_tag() != sys.implementation.cache_tag:
        return
    try:
        problem = read_script(attempt.job.script).problem
    except TooBusy:
        return
    if problem is None:
        return
    output = logs.BufferedLog(attempt, LogChunk.Part.RUN)
    output.write(problem.as_python_prints_it(f"/job/{attempt.job.script_name}").encode())
    output.flush()
    raise NotPython(problem.detail)


def _open_tracking(attempt: Attempt) -> dict[str, str]:
    """The attempt's own MLflow user, who may write to its experiment and to nothing else.

    Runs in a thread of its own: it asks MLflow, and no row.
    """
    registry = model_registry()
    username, password = attempt.mlflow_username, new_token()
    experiment_id = registry.open_job_user(username, password, attempt.job.experiment_name)
    return containers.job_variables(
        attempt, experiment_id=experiment_id, username=username, password=password
    )


def _start_own(
    attempt: Attempt, spec: SandboxSpec, variables: Variables, beside: Executor
) -> datetime:
    """The order is given while the engine is at the start: the launcher finds it there."""
    engine = engine_room.engine()
    container = engine.make(spec)
    try:
        rows.update_attempt(attempt, container_id=container.id, readback=container.readback)
        with engine.attach(container.id) as given:
            # Behind MLflow's part in the same thread, which it needs.
            order_given = beside.submit(_give_order, given, variables)
            engine.start(container.id)
            order_given.result()
            began = began_in(given, timeout_seconds=ORDER_SECONDS)
        if began is None:
            raise EngineError("The container ended before it was told what to run.")
    except (rows.LeaseLost, EngineError, EngineUnavailable, RegistryUnavailable, RegistryRefused):
        engine.remove(container.id)
        raise
    return began


def _give_order(given: ContainerInput, variables: Variables) -> None:
    given.give(Order(variables.result()).encoded())

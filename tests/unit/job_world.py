"""The services of a job over real rows, with an engine and an MLflow that fail when they are told.

Both only inject faults: what a container or a user is stands in one dictionary each. Time passes
by moving what is in the rows, never by waiting.
"""

import base64
import contextlib
import functools
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from django.test import override_settings
from django.utils import timezone

from registry.mlflow_client import LoggedModel, ModelVersion, RegistryRefused, RegistryUnavailable
from sandbox.engine import (
    Capacity,
    ContainerState,
    EngineError,
    EngineUnavailable,
    FoundContainer,
    MadeContainer,
    Usage,
)
from sandbox.environments import BuildStopped, Environment, EnvironmentFailed
from training import supervisor as supervising
from training import tasks
from training.api.submission import Submission
from training.limits import JobLimits, job_bounds
from training.models import Attempt, EngineCapacity, Job, SandboxProof
from training.services import claim, finish, launch, observe, rows, submit, waiting
from training.services.cancel import cancel
from training.services.submit import Client, Edits
from training.states import Network, Priority, Status

MAX_ATTEMPTS = 3
LONG_AGO = timedelta(hours=1)
ENVIRONMENT = Environment(key="e" * 20, path=Path("/nowhere"), lock="mlflow-skinny==3.13.0\n")


class Died(BaseException):
    """The process was killed here: no code of it runs after this."""


@dataclass(frozen=True)
class Fault:
    """At which call something happens, and what: an error, a death, or something else meanwhile."""

    call: str
    error: BaseException | None = None
    after: bool = False
    meanwhile: Callable[[], None] | None = None


@dataclass
class Faults:
    """What the next calls run into; each fault happens once."""

    planned: list[Fault] = field(default_factory=list)

    @contextlib.contextmanager
    def around(self, call: str) -> Iterator[None]:
        fault = next((fault for fault in self.planned if fault.call == call), None)
        if fault is None:
            yield
            return
        self.planned.remove(fault)
        if fault.after:
            yield
        if fault.meanwhile:
            fault.meanwhile()
        if fault.error:
            raise fault.error
        if not fault.after:
            yield


class FaultyInput:
    """The input of one container, which reads it as soon as it runs."""

    def __init__(self, engine: "FaultyEngine", faults: Faults, container_id: str) -> None:
        self._engine = engine
        self._faults = faults
        self._id = container_id

    def __enter__(self) -> "FaultyInput":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def give(self, data: bytes) -> None:
        with self._faults.around("give"):
            if self._id not in self._engine.containers:
                raise EngineUnavailable("nobody reads any more")
            self._engine.given[self._id] = data
            self._engine.read_input(self._id)

    def answer(self, mark: bytes, *, timeout_seconds: float) -> bytes | None:
        with self._faults.around("answer"):
            self._engine.usage(self._id)
            return str(datetime.now(UTC).timestamp()).encode()


class FaultyEngine:
    """Containers by id, and how often a script was begun for each attempt in one of its own."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.away = False
        self.containers: dict[str, ContainerState] = {}
        self.starts: Counter[str] = Counter()
        # By the container, what it was told to run, and how often.
        self.orders: dict[str, list[str]] = {}
        # What was written to an input and not read yet.
        self.given: dict[str, bytes] = {}
        self.image = "image"
        self.asked_to_end: list[str] = []
        self.printed: dict[str, bytes] = {}

    def capacity(self) -> Capacity:
        self._answer()
        return Capacity(memory_mb=64_000, cpus=64)

    def make(self, spec: Any) -> MadeContainer:
        with self._faults.around("create"):
            self._answer()
            container = ContainerState(
                id=uuid.uuid4().hex,
                name=spec.name,
                status="created",
                running=False,
                exit_code=None,
                oom_killed=False,
                created_at=None,
                started_at=None,
                finished_at=None,
                labels=dict(spec.labels),
                ip_address=None,
            )
            self.containers[container.id] = container
            return MadeContainer(container.id, {})

    def create(self, spec: Any) -> str:
        return self.make(spec).id

    def image_id(self, tag: str) -> str:
        self._answer()
        return self.image

    def change_limits(self, container_id: str, spec: Any) -> None:
        with self._faults.around("change_limits"):
            self._there(container_id)

    def checked_readback(self, container_id: str, spec: Any) -> dict[str, Any]:
        with self._faults.around("readback"):
            self._there(container_id)
            return {}

    def attach(self, container_id: str) -> "FaultyInput":
        with self._faults.around("attach"):
            self._answer()
            if container_id not in self.containers:
                raise EngineError("no such container")
            return FaultyInput(self, self._faults, container_id)

    def read_input(self, container_id: str) -> None:
        """As a launcher that runs does, when there is an order."""
        data = self.given.get(container_id)
        if data is None or not self.containers[container_id].running:
            return
        del self.given[container_id]
        told = dict(pair.split("=", 1) for pair in data[4:].decode().split("\0"))
        job_attempt = json.loads(told["MLFLOW_RUN_CONTEXT"])["job_attempt"]
        self.orders.setdefault(container_id, []).append(job_attempt)
        attempt = self.containers[container_id].labels.get("mlops.attempt")
        if attempt is not None:
            self.starts[attempt] += 1

    def usage(self, container_id: str) -> Usage:
        self._there(container_id)
        return Usage(memory_bytes=150 * 1024**2, cpu_seconds=2.0)

    def follow_logs(self, container_id: str) -> Iterator[bytes]:
        with self._faults.around("ready"):
            self._there(container_id)
            yield b"!ready\n"

    def _there(self, container_id: str) -> None:
        self._answer()
        if container_id not in self.containers or not self.containers[container_id].running:
            raise EngineError("no such container")

    def start(self, container_id: str) -> None:
        with self._faults.around("start"):
            self._answer()
            if container_id not in self.containers:
                raise EngineError("no such container")
            now = datetime.now(UTC)
            self._change(container_id, status="running", running=True, started_at=now)
            self.read_input(container_id)

    def state(self, container_id: str) -> ContainerState | None:
        with self._faults.around("state"):
            self._answer()
            assert container_id, "the engine was asked for a container without a name"
            return self.containers.get(container_id)

    def find(self, labels: dict[str, str]) -> list[FoundContainer]:
        self._answer()
        return [
            FoundContainer(
                id=state.id,
                name=state.name,
                running=state.running,
                created_at=state.created_at or datetime.now(UTC),
                labels=state.labels,
            )
            for state in self.containers.values()
            if labels.items() <= state.labels.items()
        ]

    def recorded_logs(self, container_id: str) -> Iterator[bytes]:
        with self._faults.around("logs"):
            self._answer()
            if container_id in self.orders:
                yield b"!ready\n!began 1700000000.5\n"
            printed = self.printed.get(container_id, b"line\n")
            yield b"@0 %b\n@%d \n" % (base64.b64encode(printed), len(printed))

    def terminate(self, container_id: str) -> None:
        self._answer()
        self.asked_to_end.append(container_id)

    def kill(self, container_id: str) -> None:
        with self._faults.around("kill"):
            self._answer()
            if container_id in self.containers and self.containers[container_id].running:
                self.ends(container_id, exit_code=137)

    def wait(self, container_id: str, *, timeout_seconds: float) -> int:
        self._answer()
        return 137

    def remove(self, container_id: str) -> None:
        with self._faults.around("remove"):
            self._answer()
            self.containers.pop(container_id, None)

    def ends(self, container_id: str, *, exit_code: int, oom: bool = False) -> None:
        now = datetime.now(UTC)
        self._change(
            container_id,
            status="exited",
            running=False,
            exit_code=exit_code,
            oom_killed=oom,
            finished_at=now,
        )

    def running(self) -> list[str]:
        return sorted(one for one, state in self.containers.items() if state.running)

    def _change(self, container_id: str, **values: Any) -> None:
        self.containers[container_id] = replace(self.containers[container_id], **values)

    def _answer(self) -> None:
        if self.away:
            raise EngineUnavailable("the engine is away")


class FaultyRegistry:
    """Users, logged models by attempt, and versions: one for each model at most."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.away = False
        self.users: set[str] = set()
        self.refused: dict[str, str] = {}
        self.logged: dict[str, list[LoggedModel]] = {}
        self.versions: dict[str, ModelVersion] = {}
        self.registers_twice = False
        self.experiments = frozenset({"1"})

    def available(self, *, timeout_seconds: float = 1.0) -> bool:
        return not self.away

    def open_job_user(self, username: str, password: str, experiment_name: str) -> str:
        with self._faults.around("experiment"):
            self._answer()
        with self._faults.around("user"):
            self._answer()
            self.users.add(username)
        return "1"

    def delete_job_user(self, username: str) -> None:
        with self._faults.around("delete_user"):
            self._answer()
            self.users.discard(username)

    def end_runs(self, attempt: str, *, succeeded: bool) -> None:
        with self._faults.around("end_runs"):
            self._answer()

    def runs_of_attempt(self, attempt: str) -> list[str]:
        self._answer()
        return []

    def experiments_of(self, username: str) -> frozenset[str] | None:
        self._answer()
        return self.experiments

    def refused_upload(self, username: str) -> str:
        self._answer()
        return self.refused.get(username, "")

    def logged_models(self, attempt: str) -> list[LoggedModel]:
        with self._faults.around("logged_models"):
            self._answer()
            return self.logged.get(attempt, [])

    def version_of_logged_model(self, name: str, model: LoggedModel) -> ModelVersion | None:
        self._answer()
        return self.versions.get(model.model_id)

    def register_logged_model(self, name: str, model: LoggedModel, *, tags: Any) -> ModelVersion:
        with self._faults.around("register"):
            self._answer()
            if model.model_id in self.versions:
                assert self.registers_twice, "one model became two versions"
                return self.versions[model.model_id]
            now = datetime.now(UTC)
            self.versions[model.model_id] = ModelVersion(
                name=name,
                version=str(len(self.versions) + 1),
                run_id=model.run_id,
                model_id=model.model_id,
                status="READY",
                description="",
                source=f"models:/{model.model_id}",
                created_at=now,
                updated_at=now,
            )
            return self.versions[model.model_id]

    def log_model(self, attempt: str) -> None:
        """What the script does."""
        model = LoggedModel(
            model_id=f"m-{uuid.uuid4().hex}",
            run_id=uuid.uuid4().hex,
            experiment_id="1",
            artifact_uri="mlflow-artifacts:/1",
            ready=True,
            created_at=datetime.now(UTC),
        )
        self.logged.setdefault(attempt, []).append(model)

    def _answer(self) -> None:
        if self.away:
            raise RegistryUnavailable


class FaultyStore:
    """One environment, which is found, or built with the fault that is planned."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def find(self, requirements: list[str]) -> Environment | None:
        return None if requirements else ENVIRONMENT

    def get(self, key: str) -> Environment | None:
        return ENVIRONMENT if key == ENVIRONMENT.key else None

    def build(self, requirements: list[str], *, output: Any, stop: Any) -> Environment:
        with self._faults.around("build"):
            if stop.is_set():
                raise BuildStopped
            return ENVIRONMENT

    def python_tag(self) -> str:
        """A Python of its own: its grammar is not ours."""
        return "cpython-0"

    def platform_folder(self) -> Path:
        return Path("/nowhere")


class StillFollower:
    """Stands where a thread would read the log: its container's output ends with the container."""

    def __init__(self, *, engine: FaultyEngine, attempt: Attempt, wake: Any) -> None:
        self._engine = engine
        self._container_id = attempt.container_id
        self.printed = 0

    @property
    def ended(self) -> bool:
        state = self._engine.containers.get(self._container_id)
        return state is None or not state.running

    def store(self, attempt: Attempt) -> None:
        return


class StillSampler:
    """Stands where a thread would ask what the containers use."""

    def __init__(self, engine: FaultyEngine) -> None:
        return

    def watch(self, containers: dict[int, str]) -> None:
        return

    def take(self) -> dict[int, Any]:
        return {}


class Beside:
    """Stands where a thread asks MLflow: that is done first here, before the engine is asked."""

    def __init__(self, **_: Any) -> None:
        return

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, *_: Any) -> None:
        return

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Any:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:  # noqa: BLE001 - as a pool of threads does
            future.set_exception(error)
        return future


class BesideAtLast(Beside):
    """The thread comes to it when its answer is waited for, and not before."""

    def submit(self, call: Callable[..., Any], *arguments: Any) -> "Late":
        return Late(call, arguments)


class Late:
    """Done once, when it is asked for."""

    def __init__(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._result = functools.cache(lambda: call(*arguments))

    def done(self) -> bool:
        return False

    def result(self) -> Any:
        return self._result()


class World:
    """A platform of rows: submit, let things happen, look."""

    def __init__(self, *, waiting: int = 0, beside: type[Beside] = Beside) -> None:
        self._waiting = waiting
        self._beside = beside
        self.faults = Faults()
        self.engine = FaultyEngine(self.faults)
        self.registry = FaultyRegistry(self.faults)
        self.queue: list[tuple[Any, ...]] = []
        self._dying = False
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> "World":
        def queue(*task: Any, **_: Any) -> None:
            self.queue.append(task)

        replaced = [
            ("training.engine_room.engine", lambda: self.engine),
            ("training.engine_room.environments", lambda *_: FaultyStore(self.faults)),
            ("training.services.claim.async_task", queue),
            ("training.services.finish.async_task", queue),
            ("training.services.waiting.async_task", queue),
            ("training.services.launch.ThreadPoolExecutor", self._beside),
            ("training.services.finish.model_registry", lambda: self.registry),
            ("training.services.launch.model_registry", lambda: self.registry),
            ("training.supervisor.model_registry", lambda: self.registry),
            ("training.supervisor.LogFollower", StillFollower),
            ("training.supervisor.UsageSampler", StillSampler),
            ("training.supervisor.EngineEvents", lambda *_, **__: mock.MagicMock()),
            ("training.services.network.keep", self._write_rules),
            ("training.containers.write_script", lambda attempt: None),
            ("training.services.rows._release", self._release),
        ]
        self._really_release = rows._release
        folder = Path(self._patches.enter_context(tempfile.TemporaryDirectory()))
        self._patches.enter_context(
            override_settings(
                MLOPS_HOME=folder,
                JOBS_DIR=folder / "jobs",
                JOB_MAX_ATTEMPTS=MAX_ATTEMPTS,
                LONG_TASKS=50,
                DISK_FREE_MB=0,
                MEMORY_FREE_MB=0,
                WAITING_CONTAINERS=self._waiting,
            )
        )
        for name, stand_in in replaced:
            self._patches.enter_context(mock.patch(name, stand_in))
        now = timezone.now()
        SandboxProof.objects.update_or_create(
            engine=claim.LOCAL_ENGINE, defaults={"checked_at": now, "problem": ""}
        )
        self.new_supervisor()
        self.supervisor.measure()
        return self

    def __exit__(self, *_: Any) -> None:
        self._patches.close()

    def _write_rules(self, engine: FaultyEngine) -> None:
        with self.faults.around("rules"):
            return

    # -- what clients do -----------------------------------------------------------------------
    def submit(self, **changed: Any) -> Job:
        wanted = {
            "script_name": "train.py",
            "script": "print(1)\n",
            "experiment_name": "e",
            "model_name": "m",
            "requirements": (),
            "environment": (),
            "timeout": 300,
            "tags": (),
            "network": Network.INTERNET,
            "limits": JobLimits.default(job_bounds()),
            "priority": Priority.NORMAL,
            **changed,
        }
        return submit.submit(Submission(**wanted), client=Client(owner="me")).job

    def cancel(self, job: Job) -> bool:
        """Whether the answer was that it is over."""
        return cancel(job.pk, actor="me").final

    def rerun(self, job: Job) -> Job:
        return submit.rerun(job, Edits(), client=Client(owner="me")).job

    # -- what the platform does ----------------------------------------------------------------
    def fill_pool(self, *faults: Fault) -> None:
        """As the supervisor asks for it and a worker does it."""
        key = waiting.missing()
        if key is not None:
            self._as_a_worker(lambda: tasks.fill_pool(key), *faults)

    def launch(self, *faults: Fault) -> None:
        self._as_a_worker(tasks.launch, *faults)

    def finish(self, attempt: Attempt, *faults: Fault) -> None:
        self._as_a_worker(lambda: tasks.finish(attempt.pk), *faults)

    def tick(self) -> None:
        self._as_the_supervisor(self.supervisor.tick)

    def reconcile(self) -> None:
        self._as_the_supervisor(self.supervisor.reconcile)

    def measure(self) -> None:
        self._as_the_supervisor(self.supervisor.measure)

    def new_supervisor(self) -> None:
        """The old one was killed; all that it knew is gone."""
        self.supervisor = supervising.JobSupervisor(engine=self.engine)  # type: ignore[arg-type]

    def stop_everything(self) -> None:
        observe.stop_everything()

    def work_off(self) -> None:
        """The queue's tasks, as workers would."""
        tasks_now, self.queue = self.queue, []
        for name, *arguments in tasks_now:
            if name == claim.LAUNCH_TASK:
                self.launch()
            elif name == waiting.FILL_TASK:
                self._as_a_worker(lambda key=arguments[0]: tasks.fill_pool(key))
            else:
                self._as_a_worker(lambda pk=arguments[0]: tasks.finish(pk))

    def _as_a_worker(self, task: Callable[[], None], *faults: Fault) -> None:
        """The queue keeps what a task raises away from the next one; a kill says nothing at all."""
        self.faults.planned = list(faults)
        try:
            task()
        except Died:
            pass
        except (EngineError, EngineUnavailable, RegistryUnavailable, RegistryRefused, KeyError):
            pass
        finally:
            self.faults.planned = []
            self._dying = False

    def _as_the_supervisor(self, look: Callable[[], None]) -> None:
        try:
            look()
        except EngineUnavailable:
            return

    def _release(self, attempt: Attempt) -> None:
        """What a killed process does not come to."""
        if not self._dying:
            self._really_release(attempt)

    # -- what happens --------------------------------------------------------------------------
    def registry_is_away(self) -> RegistryUnavailable:
        return RegistryUnavailable()

    def dies(self, call: str, *, after: bool = False) -> Fault:
        def killed() -> None:
            self._dying = True

        return Fault(call, error=Died(), after=after, meanwhile=killed)

    def loses_its_lease(self, call: str) -> Fault:
        """The worker sleeps through its lease in this call; the supervisor takes over."""

        def meanwhile() -> None:
            self.leases_run_out()
            self.reconcile()

        return Fault(call, meanwhile=meanwhile)

    def leases_run_out(self) -> None:
        past = timezone.now() - LONG_AGO
        Attempt.objects.filter(finished_at=None).update(lease_expires_at=past)

    def deadlines_pass(self) -> None:
        past = timezone.now() - LONG_AGO
        open_attempts = Attempt.objects.filter(finished_at=None, deadline_at__isnull=False)
        open_attempts.update(deadline_at=past)

    def patience_ends(self) -> None:
        past = timezone.now() - LONG_AGO
        ended = Attempt.objects.filter(finished_at=None, container_ended_at__isnull=False)
        ended.update(container_ended_at=past)

    def waits_are_over(self) -> None:
        Job.objects.filter(not_before__isnull=False).update(not_before=None)

    def script_ends(
        self, attempt: Attempt, *, exit_code: int, logs_model: bool = False, prints: str = ""
    ) -> None:
        if prints:
            self.engine.printed[attempt.container_id] = prints.encode()
        if logs_model:
            self.registry.log_model(f"{attempt.job_id}/{attempt.number}")
        self.engine.ends(attempt.container_id, exit_code=exit_code)

    def engine_dies(self) -> None:
        """Started again, a daemon ends what ran under the one before."""
        for container_id in self.engine.running():
            self.engine.ends(container_id, exit_code=255)

    def all_becomes_well(self, *, rounds: int = 60) -> None:
        """Everything answers again, and time passes: after this every job has its end."""
        self.engine.away = self.registry.away = False
        for _ in range(rounds):
            for container_id in self.engine.running():
                self.engine.ends(container_id, exit_code=3)
            self.waits_are_over()
            self.leases_run_out()
            self.new_supervisor()
            for look in (self.measure, self.reconcile, self.tick, self.work_off):
                look()
            if not self.alive():
                break
        self.reconcile()

    # -- looking -------------------------------------------------------------------------------
    def alive(self) -> list[Job]:
        return list(Job.objects.filter(status__in=[Status.QUEUED, Status.RUNNING]))

    def attempt_of(self, job: Job) -> Attempt:
        return job.attempts.order_by("number").last()

    def room(self) -> EngineCapacity:
        return EngineCapacity.objects.get()


__all__ = ["Died", "EnvironmentFailed", "Fault", "World", "claim", "finish", "launch"]

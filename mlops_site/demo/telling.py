"""One job of the demo as rows: its own, and those of its attempts, its timeline and its words."""

import random
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mlops_site.demo.environments import key_of, lock_of, pins_of
from mlops_site.demo.fates import Fate
from mlops_site.demo.output import build_output, run_output
from mlops_site.demo.processes import FINISHING, LAUNCHING, STARTING
from mlops_site.demo.projects import Project
from mlops_site.demo.scripts import long_script, short_script
from registry.audit import Act, Kind
from registry.models import AuditEntry
from registry.sources import Channel
from training.models import Attempt, Job, JobEvent, JobTerm, LogChunk, UsageSeries
from training.services.rows import SUPERVISOR
from training.services.submit import terms_of
from training.states import ENDINGS, Phase, Priority, Reason, Status

# How far a job comes that ends for such a reason.
BEFORE_CONTAINER = frozenset(
    {
        *(Reason.PYTHON_NOT_OFFERED, Reason.REQUIREMENTS_INVALID, Reason.REQUIREMENTS_NOT_FOUND),
        *(Reason.REQUIREMENTS_CONFLICT, Reason.REQUIREMENTS_DENIED, Reason.ENVIRONMENT_TOO_LARGE),
        *(Reason.PACKAGE_INDEX_UNREACHABLE, Reason.ENVIRONMENT_BUILD_FAILED, Reason.SYNTAX_ERROR),
        *(Reason.ENVIRONMENT_BUILD_TIMEOUT, Reason.EXPERIMENT_REFUSED, Reason.SANDBOX_REFUSED),
    }
)
AFTER_SCRIPT = frozenset(
    {
        *(Reason.SUCCEEDED, Reason.NO_MODEL_LOGGED, Reason.MODEL_NOT_READY),
        *(Reason.MODEL_REFUSED, Reason.REGISTRY_UNAVAILABLE),
    }
)
WAY = (Phase.BUILDING_ENVIRONMENT, Phase.STARTING, Phase.TRAINING, Phase.REGISTERING)
ACTORS = {Phase.STOPPING: SUPERVISOR}
# Who holds the lease of a job that runs; nobody but the supervisor while its container does.
HOLDERS = {
    Phase.BUILDING_ENVIRONMENT: LAUNCHING,
    Phase.STARTING: STARTING,
    Phase.REGISTERING: FINISHING,
}
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SAYS = re.compile(r"^\w*(?:Error|NotFoundError): .+", re.MULTILINE)
MIB = 1024 * 1024
POINTS = 60
ADDRESSES = {"nightly": "10.4.1.3", "dana": "10.4.7.31", "otto": "10.4.7.12"}
READBACK = {
    "User": "10001:10001",
    "CapDrop": ["ALL"],
    "CapAdd": None,
    "SecurityOpt": ["no-new-privileges", "seccomp=ours:e277c6b65b00"],
    "ReadonlyRootfs": True,
    "Privileged": False,
    "NetworkMode": "mlops-demo-jobs",
    "IpcMode": "private",
    "PidMode": "",
    "UTSMode": "",
    "UsernsMode": "",
    "CpuPeriod": 100_000,
    "Devices": None,
    "DeviceRequests": None,
    "Runtime": "runc",
    "Mounts": [
        {"target": "/env", "read_only": True},
        {"target": "/job", "read_only": True},
        {"target": "/data", "read_only": True},
    ],
}


@dataclass(frozen=True)
class Course:
    """What is known of a job before its rows are made; `again` is the job that it is a rerun of."""

    project: Project
    fate: Fate
    created_at: datetime
    now: datetime
    is_detailed: bool
    again: Job | None = None


@dataclass
class Story:
    """A job and every row that hangs on it; `output` is what its last attempt printed, by part."""

    job: Job
    attempts: list[Attempt] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)
    terms: list[JobTerm] = field(default_factory=list)
    output: list[tuple[str, bytes]] = field(default_factory=list)
    usage: list[UsageSeries] = field(default_factory=list)
    audit: list[AuditEntry] = field(default_factory=list)


def told(rng: random.Random, course: Course, *, job_id: uuid.UUID) -> Story:
    """The job with all its rows, none of them saved."""
    story = Story(_job(rng, course, job_id))
    _Teller(rng, course, story).tell()
    story.terms = [
        JobTerm(job=story.job, term=term, created_at=story.job.created_at)
        for term in sorted(terms_of(story.job))
    ]
    return story


def _job(rng: random.Random, course: Course, job_id: uuid.UUID) -> Job:
    project, fate = course.project, course.fate
    seed, depth = rng.randrange(1, 99), rng.choice((4, 6, 8, 12))
    write = long_script if course.is_detailed else short_script
    tags = {"team": project.team, "commit": f"{rng.getrandbits(28):07x}"}
    if rng.random() < 0.3:
        tags["sweep"] = f"depth-{depth}"
    return Job(
        id=job_id,
        script_name=course.again.script_name if course.again else rng.choice(project.scripts),
        script=write(project, seed=seed, depth=depth),
        experiment_name=project.experiment,
        model_name=project.model,
        requirements=list(project.requirements),
        environment={"N_ROWS": str(20_000 + 1000 * depth)} if rng.random() < 0.5 else {},
        tags=tags,
        timeout_seconds=min(3600, max(300, round(project.seconds / 15) * 60)),
        memory_mb=project.memory_mb,
        cpus=2.0 if project.memory_mb > 4000 else 1.0,
        gpus=fate.gpus,
        python_version="3.11",
        owner=rng.choice(project.owners),
        priority=fate.priority if fate.priority != Priority.NORMAL else _priority(rng),
        rerun_of=course.again,
        environment_key=key_of(project.requirements),
        environment_lock=lock_of(project.requirements) if course.is_detailed else "",
        status=fate.status,
        phase=fate.phase,
        created_at=course.created_at,
    )


def _priority(rng: random.Random) -> Priority:
    return rng.choices((Priority.NORMAL, Priority.LOW, Priority.HIGH), weights=(90, 6, 4))[0]


def _way(reason: Reason) -> Sequence[Phase]:
    """The phases that an attempt with this end goes through."""
    if reason in BEFORE_CONTAINER:
        return WAY[:1]
    return WAY if reason in AFTER_SCRIPT else WAY[:3]


def _usage(rng: random.Random, attempt: Attempt, seconds: float) -> UsageSeries:
    """Memory that rises to its peak, and CPUs that sway below what they may be."""
    step = max(5, 5 * round(seconds / 5 / POINTS))
    count = max(2, int(seconds // step) + 1)
    peak, most = attempt.peak_memory_bytes, attempt.cpu_seconds / max(seconds, 1)
    memory = [
        int(peak * min(1.0, 0.25 + 0.9 * number / count) * rng.uniform(0.94, 1.0))
        for number in range(count)
    ]
    memory[-1] = peak
    cpus = [round(most * rng.uniform(0.75, 1.15), 2) for _ in range(count)]
    return UsageSeries(
        attempt=attempt, step_seconds=step, memory_bytes=memory, cpus=[None, *cpus[1:]]
    )


def _audit(job: Job, act: Act, at: datetime, *, actor: str, detail: str = "") -> AuditEntry:
    """As the services write it down."""
    return AuditEntry(
        at=at,
        actor=actor,
        channel=Channel.API if actor == "nightly" else Channel.CONSOLE,
        address=ADDRESSES.get(actor, "10.4.7.20"),
        act=act,
        kind=Kind.JOB,
        key=str(job.pk),
        name=job.script_name,
        detail=detail,
    )


class _Teller:
    """Goes through a job's life with a clock of its own, and writes down what happens."""

    def __init__(self, rng: random.Random, course: Course, story: Story) -> None:
        self._rng = rng
        self._course = course
        self._story = story
        self._job = story.job
        self._at = course.created_at
        self._attempt: Attempt | None = None

    def tell(self) -> None:
        again = self._course.again
        detail = f"again, after {again.pk}" if again else ""
        self._record("accepted", Status.QUEUED, Phase.WAITING, detail, actor=self._job.owner)
        self._act(Act.JOB_RERUN if again else Act.JOB_UPLOAD, detail)
        for reason in self._course.fate.earlier:
            self._try(reason)
            self._give_up_for_now(reason)
        status = self._course.fate.status
        if status == Status.QUEUED:
            self._wait()
        elif status == Status.RUNNING:
            self._go_on()
        else:
            self._end()

    # -- the three ways that it may be now ---------------------------------------------------------
    def _wait(self) -> None:
        if self._course.fate.retry_seconds:
            self._job.not_before = self._course.now + timedelta(
                seconds=self._course.fate.retry_seconds
            )

    def _go_on(self) -> None:
        """Until now: the last phase is the one that lasts."""
        phase = self._course.fate.phase
        is_stopping = phase == Phase.STOPPING
        self._claim()
        last = Phase.TRAINING if is_stopping else phase
        for entered in WAY[: WAY.index(last) + 1]:
            self._enter(entered, seconds=self._seconds_left(entered, last=last))
        if is_stopping:
            self._job.cancel_requested_at = self._at
            self._record("cancel_requested", Status.RUNNING, Phase.TRAINING, actor="dana")
            self._enter(Phase.STOPPING, seconds=1)
        self._print(steps=6)
        self._measure()
        if self._attempt is not None:
            self._attempt.lease_owner = HOLDERS.get(phase, SUPERVISOR)

    def _end(self) -> None:
        fate, job = self._course.fate, self._job
        reason = Reason(fate.reason)
        was_taken = not (reason == Reason.CANCELLED and self._rng.random() < 0.4)
        if was_taken:
            self._try(reason)
            self._print()
            self._close(reason)
        else:
            self._pass(self._rng.uniform(3, 40))
            self._act(Act.JOB_CANCEL, "It was waiting.")
        job.reason, job.completed_at = reason, self._at
        ending = ENDINGS[reason]
        if fate.status != Status.COMPLETED:
            job.error = self._sentence(ending.sentence)
            job.hint = ending.hint.replace("{job_id}", str(job.pk))
        if reason in AFTER_SCRIPT:
            job.run_id = f"{self._rng.getrandbits(128):032x}"
        self._record(str(fate.status), fate.status, Phase.ENDED, actor="worker", reason=reason)

    # -- one attempt -------------------------------------------------------------------------------
    def _try(self, reason: Reason) -> None:
        """As far as it comes with this end."""
        self._claim()
        for phase in _way(reason):
            self._enter(phase, seconds=self._seconds_in(phase, reason))
        if reason == Reason.CANCELLED:
            self._job.cancel_requested_at = self._at
            actor = self._job.owner
            self._record("cancel_requested", Status.RUNNING, Phase.TRAINING, actor=actor)
            self._act(Act.JOB_CANCEL, "It was training.")
            self._enter(Phase.STOPPING, seconds=self._rng.uniform(0.4, 9))

    def _claim(self) -> None:
        self._pass(min(self._rng.expovariate(1 / 4), 90))
        job, number = self._job, len(self._story.attempts) + 1
        job.started_at = job.started_at or self._at
        self._attempt = Attempt(
            job=job,
            number=number,
            lease_owner=LAUNCHING,
            lease_token=uuid.UUID(int=self._rng.getrandbits(128), version=4),
            lease_expires_at=self._at + timedelta(seconds=60),
            created_at=self._at,
        )
        self._story.attempts.append(self._attempt)

    def _enter(self, phase: Phase, *, seconds: float) -> None:
        name = "claimed" if phase == Phase.BUILDING_ENVIRONMENT else str(phase)
        self._record(name, Status.RUNNING, phase, actor=ACTORS.get(phase, "worker"))
        if self._attempt and phase == Phase.TRAINING:
            self._attempt.container_id = f"{self._rng.getrandbits(256):064x}"
            self._attempt.container_started_at = self._at
            # A third of a second after the one, and never after the end of the script.
            before = min(0.3, seconds)
            self._attempt.first_output_at = self._at + timedelta(seconds=before)
            timeout = timedelta(seconds=self._job.timeout_seconds)
            self._attempt.deadline_at = self._at + timeout
            if self._course.is_detailed:
                self._attempt.readback = self._readback()
        self._pass(seconds)
        if self._attempt and phase == Phase.TRAINING:
            self._attempt.container_ended_at = self._at

    def _close(self, reason: Reason) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        self._measure()
        attempt.reason, attempt.finished_at = reason, self._at
        attempt.oom_killed = reason == Reason.OUT_OF_MEMORY
        if attempt.container_started_at:
            attempt.exit_code = 0 if reason in AFTER_SCRIPT else 1
        if attempt.oom_killed or reason in (Reason.TIMEOUT, Reason.CANCELLED):
            attempt.exit_code = 137

    def _give_up_for_now(self, reason: Reason) -> None:
        self._close(reason)
        wait = 2 * 4 ** (len(self._story.attempts) - 1)
        detail = f"{ENDINGS[reason].sentence} Tried again in {wait} s."
        self._record("retry", Status.QUEUED, Phase.WAITING, detail, actor="worker", reason=reason)
        self._pass(wait)

    def _measure(self) -> None:
        attempt, job = self._attempt, self._job
        if attempt is None or attempt.container_started_at is None:
            return
        ended = attempt.container_ended_at or self._course.now
        share = 1.0 if self._course.fate.reason == Reason.OUT_OF_MEMORY else None
        share = share or min(0.93, self._rng.betavariate(4, 5))
        attempt.peak_memory_bytes = int(job.memory_mb * MIB * share)
        seconds = (ended - attempt.container_started_at).total_seconds()
        attempt.cpu_seconds = round(seconds * job.cpus * self._rng.uniform(0.6, 0.98), 2)
        if self._course.fate.status == Status.RUNNING:
            attempt.container_ended_at = None
        if self._course.is_detailed:
            self._story.usage.append(_usage(self._rng, attempt, seconds))

    def _act(self, act: Act, detail: str) -> None:
        job = self._job
        entry = _audit(job, act, self._at, actor=job.owner, detail=detail)
        self._story.audit.append(entry)

    # -- what it prints ----------------------------------------------------------------------------
    def _print(self, *, steps: int = 10) -> None:
        if not self._course.is_detailed or self._attempt is None:
            return
        project, fate = self._course.project, self._course.fate
        told = list(self._parts(project, fate, steps=steps))
        self._story.output = [(part, text.encode()) for part, text in told]
        self._attempt.log_bytes = sum(len(data) for _, data in self._story.output)

    def _parts(self, project: Project, fate: Fate, *, steps: int) -> Iterator[tuple[str, str]]:
        if fate.reason in BEFORE_CONTAINER or self._rng.random() < 0.3:
            yield LogChunk.Part.BUILD, build_output(pins_of(project.requirements), 8)
        if self._attempt and self._attempt.container_started_at:
            yield LogChunk.Part.RUN, run_output(project, self._rng, reason=fate.reason, steps=steps)

    def _sentence(self, usual: str) -> str:
        """What the script said last, if it said why."""
        printed = "".join(data.decode() for _, data in self._story.output)
        said = SAYS.findall(COLOURS.sub("", printed))
        return said[-1] if said else usual

    def _readback(self) -> dict[str, object]:
        memory = self._job.memory_mb * MIB
        quota = int(self._job.cpus * 100_000)
        limits = {"Memory": memory, "MemorySwap": memory, "CpuQuota": quota}
        return {**READBACK, **limits, "PidsLimit": self._job.pids}

    # -- time --------------------------------------------------------------------------------------
    def _seconds_in(self, phase: Phase, reason: Reason) -> float:
        rng, usual = self._rng, self._course.project.seconds
        if phase == Phase.BUILDING_ENVIRONMENT:
            is_new = reason in BEFORE_CONTAINER or rng.random() < 0.03
            return rng.uniform(3, 40) if is_new else rng.uniform(0.05, 0.4)
        if phase == Phase.STARTING:
            return rng.uniform(0.12, 0.5)
        if phase == Phase.REGISTERING:
            return rng.uniform(0.4, 1.9)
        if reason == Reason.TIMEOUT:
            return float(self._job.timeout_seconds)
        took = usual * rng.lognormvariate(0, 0.18)
        return took if reason in AFTER_SCRIPT else took * rng.uniform(0.02, 0.9)

    def _seconds_left(self, phase: Phase, *, last: Phase) -> float:
        """In each phase before the last one a moment; in the last one all that has passed."""
        passed = (self._course.now - self._at).total_seconds()
        if phase == last:
            return max(0.0, passed - 1)
        return min(passed / 4, self._seconds_in(phase, Reason.SUCCEEDED))

    def _pass(self, seconds: float) -> None:
        """Never into the future: what ended has ended."""
        latest = self._course.now - timedelta(seconds=1)
        self._at = min(max(latest, self._at), self._at + timedelta(seconds=seconds))

    def _record(
        self,
        name: str,
        status: Status,
        phase: Phase,
        detail: str = "",
        *,
        actor: str,
        reason: str = "",
    ) -> None:
        self._story.events.append(
            JobEvent(
                job=self._job,
                at=self._at,
                name=name,
                status=status,
                phase=phase,
                attempt=self._attempt.number if self._attempt else None,
                actor=actor,
                reason=reason,
                detail=detail or (ENDINGS[Reason(reason)].sentence if reason else ""),
            )
        )
        self._job.revision = len(self._story.events)

"""What a job is: rows only, no rules. Only `services` changes a job's state."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from training.states import Intent, Network, Phase, Priority, Reason, Status


class Job(models.Model):
    """One script that somebody asked to be run, and what became of it.

    `revision` grows with every change that a client can see; whoever waits for a change waits for
    it. `not_before` holds back a job that is tried again. `values_owner` is whose values some of
    its variables hold, where that is not its owner: those of a job that it runs again.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    script_name = models.CharField(max_length=100)
    script = models.TextField()
    experiment_name = models.CharField(max_length=250)
    model_name = models.CharField(max_length=250)
    requirements = models.JSONField(default=list)
    environment = models.JSONField(default=dict)
    tags = models.JSONField(default=dict)
    timeout_seconds = models.PositiveIntegerField()
    memory_mb = models.PositiveIntegerField()
    cpus = models.FloatField()
    # The defaults are what jobs had that were accepted before they could ask for others.
    pids = models.PositiveIntegerField(default=256)
    scratch_mb = models.PositiveIntegerField(default=1024)
    gpus = models.PositiveSmallIntegerField(default=0)
    network = models.CharField(max_length=20, choices=Network, default=Network.INTERNET)
    # Empty for a job of before there was a choice: it had the default.
    python_version = models.CharField(max_length=10, blank=True, default="")
    owner = models.CharField(max_length=150, blank=True, default="")
    values_owner = models.CharField(max_length=150, blank=True, default="")
    priority = models.PositiveSmallIntegerField(choices=Priority, default=Priority.NORMAL)
    rerun_of = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, blank=True, related_name="reruns"
    )

    status = models.CharField(max_length=20, choices=Status, default=Status.QUEUED)
    phase = models.CharField(max_length=30, choices=Phase, default=Phase.WAITING)
    reason = models.CharField(max_length=40, choices=Reason, blank=True, default="")
    error = models.TextField(blank=True, default="")
    hint = models.TextField(blank=True, default="")
    environment_key = models.CharField(max_length=64, blank=True, default="")
    environment_lock = models.TextField(blank=True, default="")
    run_id = models.CharField(max_length=64, blank=True, default="")
    model_version = models.CharField(max_length=20, blank=True, default="")

    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    revision = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["-created_at", "-id"]
        # Each ends in what a list is sorted by, so that a filtered page of a million rows is read
        # from the index alone; the last one holds only what waits.
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="job_newest"),
            models.Index(fields=["status", "-created_at", "-id"], name="job_by_status"),
            models.Index(fields=["reason", "-created_at", "-id"], name="job_by_reason"),
            models.Index(
                fields=["experiment_name", "-created_at", "-id"], name="job_by_experiment"
            ),
            models.Index(fields=["model_name", "-created_at", "-id"], name="job_by_model"),
            models.Index(fields=["owner", "-created_at", "-id"], name="job_by_owner"),
            models.Index(
                fields=["environment_key", "-created_at", "-id"], name="job_by_environment"
            ),
            # What registered something lately.
            models.Index(
                fields=["-completed_at"], condition=~Q(model_version=""), name="job_with_model"
            ),
            models.Index(
                fields=["-priority", "owner", "created_at"],
                condition=Q(status="queued"),
                name="job_waiting",
            ),
            models.Index(
                fields=["owner"], condition=Q(status__in=["queued", "running"]), name="job_alive"
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=Status.values), name="job_status_known"),
            models.CheckConstraint(
                condition=Q(status__in=["queued", "running"], completed_at=None)
                | Q(status__in=["completed", "failed", "cancelled"], completed_at__isnull=False),
                name="job_ended_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(status="failed") | (~Q(reason="") & ~Q(error="")),
                name="job_failed_has_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.script_name} ({self.status})"

    @property
    def duration_seconds(self) -> float | None:
        """From the start of the work to its end; None while there is no end."""
        if self.started_at is None or self.completed_at is None:
            return None
        return round((self.completed_at - self.started_at).total_seconds(), 3)


class JobTerm(models.Model):
    """A word or a tag that a job is found by: an index of our own, flat at a million jobs.

    `term` is `word:churn` or `tag:team=growth`; `created_at` is the job's, so that a page of hits
    is read from the index in its order.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="terms")
    term = models.CharField(max_length=300)
    created_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["term", "-created_at", "-job"], name="term_newest")]

    def __str__(self) -> str:
        return self.term


class Attempt(models.Model):
    """One try to run a job: who holds it, in which container, and the facts of its end.

    `intent` is what we decided to do to it, before we did it. `log_bytes` counts what was printed,
    kept or not. Peak and CPU time are what the engine reported.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField(default=1)
    engine = models.CharField(max_length=60, default="local")
    lease_owner = models.CharField(max_length=120)
    lease_token = models.UUIDField(default=uuid.uuid4)
    lease_expires_at = models.DateTimeField()
    container_id = models.CharField(max_length=80, blank=True, default="")
    container_started_at = models.DateTimeField(null=True, blank=True)
    # When the first bytes that its script printed were stored.
    first_output_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    intent = models.CharField(max_length=20, choices=Intent, blank=True, default="")
    intent_at = models.DateTimeField(null=True, blank=True)
    exit_code = models.IntegerField(null=True, blank=True)
    # Not so when the engine was down as the script ended: then nobody has its last words.
    output_is_whole = models.BooleanField(default=True)
    oom_killed = models.BooleanField(default=False)
    container_ended_at = models.DateTimeField(null=True, blank=True)
    peak_memory_bytes = models.PositiveBigIntegerField(default=0)
    cpu_seconds = models.FloatField(default=0.0)
    log_bytes = models.PositiveBigIntegerField(default=0)
    reason = models.CharField(max_length=40, choices=Reason, blank=True, default="")
    mlflow_username = models.CharField(max_length=80, blank=True, default="")
    readback = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        # Not by "job": that would read every job there is, since jobs have an order of their own.
        ordering = ["id"]
        indexes = [
            models.Index(fields=["container_id"], name="attempt_by_container"),
            models.Index(fields=["id"], condition=Q(finished_at=None), name="attempt_under_way"),
            models.Index(
                fields=["lease_owner"], condition=Q(finished_at=None), name="attempt_open"
            ),
            # What an ended attempt may have left in MLflow.
            models.Index(
                fields=["id"],
                condition=Q(finished_at__isnull=False) & ~Q(mlflow_username=""),
                name="attempt_user_left",
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="attempt_once"),
            models.UniqueConstraint(
                fields=["job"], condition=Q(finished_at=None), name="attempt_one_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.job_id}"


class UsageSeries(models.Model):
    """What an attempt used over its time, in steps of `step_seconds` since its container's start.

    The highest memory in each, and the CPUs on average; null where nobody looked. Apart from the
    attempt, which every list reads.
    """

    attempt = models.OneToOneField(
        Attempt, on_delete=models.CASCADE, related_name="usage_series", primary_key=True
    )
    step_seconds = models.PositiveIntegerField()
    memory_bytes = models.JSONField(default=list)
    cpus = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"usage of {self.attempt_id}"


class WaitingContainer(models.Model):
    """A container that waits for a job, which it will run and no other.

    `shape` says what it was made as, `image` from what: one that differs from what a job would get
    now is given up. `attempt` is set before anything of a job goes into it, and never changed.
    `cpu_seconds` is what the wait has cost.
    """

    class State(models.TextChoices):
        STARTING = "starting"
        READY = "ready"
        TAKEN = "taken"

    engine = models.CharField(max_length=60)
    environment_key = models.CharField(max_length=64)
    shape = models.CharField(max_length=64)
    image = models.CharField(max_length=100)
    state = models.CharField(max_length=20, choices=State, default=State.STARTING)
    container_id = models.CharField(max_length=80, blank=True, default="")
    attempt = models.OneToOneField(
        Attempt, on_delete=models.SET_NULL, null=True, blank=True, related_name="waiting"
    )
    cpu_seconds = models.FloatField(default=0.0)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.state} for {self.environment_key}"


class LogChunk(models.Model):
    """A piece of output. `offset` counts bytes of the whole stream: a gap is what was cut."""

    class Part(models.TextChoices):
        BUILD = "build"
        RUN = "run"

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="log_chunks")
    part = models.CharField(max_length=10, choices=Part)
    offset = models.PositiveBigIntegerField()
    size = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        ordering = ["attempt_id", "part", "offset"]
        constraints = [
            models.UniqueConstraint(fields=["attempt", "part", "offset"], name="log_chunk_once")
        ]

    def __str__(self) -> str:
        return f"{self.part} {self.offset}+{self.size} of {self.attempt_id}"


class JobEvent(models.Model):
    """What happened to a job, one line each. Never changed, never deleted alone.

    `actor` is who did it: a user, `worker`, `supervisor`, or `clock`.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    name = models.CharField(max_length=60)
    status = models.CharField(max_length=20, choices=Status)
    phase = models.CharField(max_length=30, choices=Phase)
    attempt = models.PositiveIntegerField(null=True, blank=True)
    actor = models.CharField(max_length=150, blank=True, default="")
    reason = models.CharField(max_length=40, choices=Reason, blank=True, default="")
    detail = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["name", "-id"], name="job_event_by_name")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S}Z {self.name}"


class QueueTurn(models.Model):
    """When somebody's job was last taken from the queue: users take turns by it."""

    owner = models.CharField(max_length=150, primary_key=True)
    taken_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.owner} at {self.taken_at:%Y-%m-%d %H:%M:%S}Z"


class EngineCapacity(models.Model):
    """What an engine's host has, as its supervisor measured it; `short_of` stops new jobs."""

    engine = models.CharField(max_length=60, primary_key=True)
    memory_mb = models.PositiveIntegerField()
    memory_free_mb = models.PositiveIntegerField()
    cpus = models.PositiveIntegerField()
    disk_free_mb = models.PositiveIntegerField()
    short_of = models.CharField(max_length=40, blank=True, default="")
    measured_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.engine}: {self.memory_mb} MiB, {self.cpus} CPUs"


class Gpu(models.Model):
    """A GPU of an engine's host, and the attempt that has it to itself, or had it last.

    One row each, so that no two attempts can have the same. It is free when its attempt is over: by
    then the container is gone.
    """

    engine = models.CharField(max_length=60)
    device = models.CharField(max_length=120)
    attempt = models.ForeignKey(
        Attempt, on_delete=models.SET_NULL, null=True, blank=True, related_name="gpus"
    )

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["engine", "device"], name="gpu_once")]

    def __str__(self) -> str:
        return f"{self.device} of {self.engine}"


class SandboxProof(models.Model):
    """Whether what jobs may reach was held when it was last tried, on one engine's host.

    `problem` is empty when it was. `rules_at` is when the firewall's rules were last written;
    `results` has one entry for each address that was tried. `sandbox_…` is what `manage.py sandbox
    check` found last.
    """

    engine = models.CharField(max_length=60, primary_key=True)
    rules_at = models.DateTimeField(null=True, blank=True)
    rules_hash = models.CharField(max_length=64, blank=True, default="")
    checked_at = models.DateTimeField(null=True, blank=True)
    problem = models.TextField(blank=True, default="")
    results = models.JSONField(default=list, blank=True)
    sandbox_checked_at = models.DateTimeField(null=True, blank=True)
    sandbox_problem = models.TextField(blank=True, default="")
    sandbox_rows = models.JSONField(default=list, blank=True)

    def __str__(self) -> str:
        return f"{self.engine}: {self.problem or 'held'}"

    @property
    def age_seconds(self) -> float:
        """Since it was last tried; 0 when it never was."""
        if self.checked_at is None:
            return 0.0
        return max(0.0, (timezone.now() - self.checked_at).total_seconds())

    @property
    def sandbox_age_seconds(self) -> float | None:
        """Since an operator's last check; None when there was none."""
        if self.sandbox_checked_at is None:
            return None
        return max(0.0, (timezone.now() - self.sandbox_checked_at).total_seconds())


class SupervisorLease(models.Model):
    """Which supervisor acts for an engine; the others wait until its time is over."""

    engine = models.CharField(max_length=60, primary_key=True)
    holder = models.UUIDField()
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.engine} by {self.holder} until {self.expires_at:%H:%M:%S}Z"


class IdempotencyKey(models.Model):
    """A client's own name for one request, so that sending it twice makes one job.

    No job yet: the first request with this key is still being answered.
    """

    key = models.CharField(max_length=255)
    owner = models.CharField(max_length=150, blank=True, default="")
    body_hash = models.CharField(max_length=64)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, null=True, blank=True)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="idempotency_once")]

    def __str__(self) -> str:
        return self.key


class Resolution(models.Model):
    """What a set of requirements would install: asked by the web process, answered by a worker.

    `installed` says that an environment of this lock is there already.
    """

    class Status(models.TextChoices):
        RESOLVING = "resolving"
        RESOLVED = "resolved"
        FAILED = "failed"

    set_hash = models.CharField(max_length=64, unique=True)
    requirements = models.JSONField(default=list)
    python_version = models.CharField(max_length=10, blank=True, default="")
    status = models.CharField(max_length=20, choices=Status, default=Status.RESOLVING)
    lock = models.TextField(blank=True, default="")
    environment_key = models.CharField(max_length=64, blank=True, default="")
    installed = models.BooleanField(default=False)
    reason = models.CharField(max_length=40, choices=Reason, blank=True, default="")
    detail = models.TextField(blank=True, default="")
    hint = models.TextField(blank=True, default="")
    asked_at = models.DateTimeField(db_index=True)
    # When the supervisor asked a worker; none: nobody was asked yet.
    queued_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["asked_at"], condition=Q(status="resolving"), name="resolution_open"
            ),
            models.Index(fields=["environment_key"], name="resolution_by_key"),
        ]

    def __str__(self) -> str:
        return f"{len(self.requirements)} requirements ({self.status})"


class BuiltEnvironment(models.Model):
    """An environment that was built once: what is in it, and whether this host still has it.

    The web process cannot look into the store, so workers keep these rows. `asked` is what somebody
    wants to be done to it. A row outlives its folder: the lock in it builds the same one again.
    """

    class State(models.TextChoices):
        READY = "ready"
        BUILDING = "building"
        FAILED = "failed"
        GONE = "gone"

    class Asked(models.TextChoices):
        REBUILD = "rebuild"
        DELETE = "delete"

    key = models.CharField(max_length=64, primary_key=True)
    state = models.CharField(max_length=20, choices=State, default=State.READY)
    lock = models.TextField(blank=True, default="")
    pylock = models.TextField(blank=True, default="")
    # Empty while no base image that is offered has its Python.
    python_version = models.CharField(max_length=10, blank=True, default="")
    packages = models.PositiveIntegerField(default=0)
    # 0 when it is gone, and while nobody has counted.
    size_bytes = models.PositiveBigIntegerField(default=0)
    build_log = models.TextField(blank=True, default="")
    build_seconds = models.FloatField(null=True, blank=True)
    error = models.TextField(blank=True, default="")
    # Jobs whose environment it is; model versions made in it, as the last look found them.
    jobs = models.PositiveIntegerField(default=0)
    needed_by = models.JSONField(default=list, blank=True)
    asked = models.CharField(max_length=20, choices=Asked, blank=True, default="")
    asked_at = models.DateTimeField(null=True, blank=True)
    queued_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    built_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["-created_at", "-key"], name="environment_newest"),
            models.Index(fields=["asked_at"], condition=~Q(asked=""), name="environment_asked"),
            # Lists are sorted and sums are made of this alone: a row has two long locks in it.
            models.Index(
                fields=[
                    *("state", "last_used_at", "size_bytes", "python_version"),
                    *("created_at", "key"),
                ],
                name="environment_facts",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key} ({self.state})"

    @property
    def size_is_known(self) -> bool:
        return self.size_bytes > 0 or self.state == self.State.GONE


class EnvironmentPackage(models.Model):
    """One package of an environment: a lock as it is searched, and what a list shows of it.

    `version` is `@ …` for a package that was asked for by an address.
    """

    NAME_CHARACTERS, VERSION_CHARACTERS = 200, 100

    environment = models.ForeignKey(
        BuiltEnvironment, on_delete=models.CASCADE, related_name="contents"
    )
    name = models.CharField(max_length=NAME_CHARACTERS)
    version = models.CharField(max_length=VERSION_CHARACTERS)

    class Meta:
        indexes = [
            models.Index(fields=["name", "version", "environment"], name="environment_package"),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class JobTally(models.Model):
    """How the jobs that were accepted within one short span went, for charts over weeks.

    `waits`, `first_outputs` and `durations` count seconds by steps (`tallies.STEPS`). `open` is 0
    once all of them have ended: then the row is right for good.
    """

    begins_at = models.DateTimeField(primary_key=True)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    cancelled = models.PositiveIntegerField(default=0)
    open = models.PositiveIntegerField(default=0)
    waits = models.JSONField(default=list)
    first_outputs = models.JSONField(default=list)
    durations = models.JSONField(default=list)
    counted_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["counted_at"], condition=Q(open__gt=0), name="tally_unsettled")
        ]

    def __str__(self) -> str:
        return f"jobs accepted from {self.begins_at:%Y-%m-%d %H:%M}Z"


class JobTallied(models.Model):
    """Up to when jobs were counted: one row."""

    THE_ONE = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=THE_ONE, editable=False)
    through = models.DateTimeField()

    def __str__(self) -> str:
        return f"counted through {self.through:%Y-%m-%d %H:%M}Z"


class SavedList(models.Model):
    """A list of jobs that somebody keeps by a name: the filters, as the address has them."""

    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_lists"
    )
    name = models.CharField(max_length=60)
    query = models.CharField(max_length=2000)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["person", "name"], name="saved_list_once"),
        ]

    def __str__(self) -> str:
        return self.name

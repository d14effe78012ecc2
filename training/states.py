"""Statuses, phases and reasons of a job: the words for users stand here and nowhere else.

              ┌───────── retry (ours to mend, and attempts left) ─────────┐
              ▼                                                           │
 (accepted) queued ──claim──▶ running ──finish──▶ completed | failed | cancelled
              │
              └──cancel──▶ cancelled      (no attempt of it was alive)

phase while queued:   waiting
phase while running:  building_environment ─▶ starting ─▶ training ─▶ registering
                      stopping from any of them, once somebody or the clock asked for the end
"""

from dataclasses import dataclass
from enum import StrEnum

from django.db.models import IntegerChoices, TextChoices


class Status(TextChoices):
    """What the contract tells a user, and `cancelled`."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(TextChoices):
    """What a job is doing inside its status."""

    WAITING = "waiting"
    BUILDING_ENVIRONMENT = "building_environment"
    STARTING = "starting"
    TRAINING = "training"
    REGISTERING = "registering"
    STOPPING = "stopping"
    ENDED = "ended"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
    Status.RUNNING: TERMINAL | {Status.QUEUED},
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


PHASES: dict[Status, frozenset[Phase]] = {
    Status.QUEUED: frozenset({Phase.WAITING}),
    Status.RUNNING: frozenset(Phase) - {Phase.WAITING, Phase.ENDED},
    **{status: frozenset({Phase.ENDED}) for status in TERMINAL},
}


def may_become(status: Status, wanted: Status) -> bool:
    """Whether the diagram has an arrow from `status` to `wanted`."""
    return wanted in TRANSITIONS[status]


class Network(TextChoices):
    """What a job may reach beside MLflow, from the least to the most."""

    NONE = "none"
    INTERNET = "internet"

    def at_most(self, maximum: "Network") -> "Network":
        """The lesser of both."""
        order = list(Network)
        return order[min(order.index(self), order.index(maximum))]


class Priority(IntegerChoices):
    """Which job is taken first; within one priority users take turns."""

    LOW = 0
    NORMAL = 1
    HIGH = 2

    @property
    def word(self) -> str:
        return self.name.lower()


class Intent(TextChoices):
    """What we ourselves decided about a running attempt; recorded before anything is killed."""

    CANCEL = "cancel"
    DEADLINE = "deadline"
    LOG_QUOTA = "log_quota"


class Reason(TextChoices):
    """Why a job ended, for programs."""

    SUCCEEDED = "succeeded"
    SCRIPT_ERROR = "script_error"
    SYNTAX_ERROR = "syntax_error"
    MISSING_MODULE = "missing_module"
    NO_MODEL_LOGGED = "no_model_logged"
    MODEL_NOT_READY = "model_not_ready"
    SCRIPT_KILLED = "script_killed"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    LOG_QUOTA = "log_quota"
    ARTIFACT_LIMIT = "artifact_limit"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    PYTHON_NOT_OFFERED = "python_not_offered"
    REQUIREMENTS_INVALID = "requirements_invalid"
    REQUIREMENTS_NOT_FOUND = "requirements_not_found"
    REQUIREMENTS_CONFLICT = "requirements_conflict"
    REQUIREMENTS_DENIED = "requirements_denied"
    PACKAGE_INDEX_UNREACHABLE = "package_index_unreachable"
    ENVIRONMENT_BUILD_FAILED = "environment_build_failed"
    ENVIRONMENT_BUILD_TIMEOUT = "environment_build_timeout"
    ENVIRONMENT_TOO_LARGE = "environment_too_large"
    EXPERIMENT_REFUSED = "experiment_refused"
    MODEL_REFUSED = "model_refused"
    REGISTRY_UNAVAILABLE = "registry_unavailable"
    TRACKING_UNAVAILABLE = "tracking_unavailable"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    SANDBOX_REFUSED = "sandbox_refused"
    WORKER_LOST = "worker_lost"
    PLATFORM_STOPPED = "platform_stopped"
    INTERNAL_ERROR = "internal_error"


class Fault(StrEnum):
    """Whose it is to mend."""

    NOBODY = "nobody"
    USER = "user"
    PLATFORM = "platform"


@dataclass(frozen=True)
class Ending:
    """What a reason means: the status it leads to, whose fault, and the words shown.

    `retryable` says whether the same job may end differently when it is run again. The platform
    does so by itself only where the fault is its own.
    """

    status: Status
    fault: Fault
    retryable: bool
    sentence: str
    hint: str = ""

    @property
    def retried_by_us(self) -> bool:
        return self.retryable and self.fault is Fault.PLATFORM


def _users(sentence: str, hint: str, *, retryable: bool = False) -> Ending:
    return Ending(Status.FAILED, Fault.USER, retryable, sentence, hint)


def _ours(sentence: str, hint: str, *, retryable: bool = True) -> Ending:
    return Ending(Status.FAILED, Fault.PLATFORM, retryable, sentence, hint)


SEE_LOG = "The job's logs have the whole output."
OPERATOR = "This is not your script's fault: send it again, or tell the operator."

ENDINGS: dict[Reason, Ending] = {
    Reason.SUCCEEDED: Ending(Status.COMPLETED, Fault.NOBODY, False, "The model was registered."),
    Reason.CANCELLED: Ending(
        Status.CANCELLED,
        Fault.NOBODY,
        True,
        "The job was cancelled.",
        "Run it again with POST /mlops/training/jobs/{job_id}/rerun.",
    ),
    Reason.SCRIPT_ERROR: _users("The script ended with an error.", SEE_LOG),
    Reason.SYNTAX_ERROR: _users(
        "The script is not valid Python.",
        "Run `python -m py_compile` on it, or send it to POST /mlops/training/validate first.",
    ),
    Reason.MISSING_MODULE: _users(
        "The script imports a module that is not installed.",
        "Add the package to `requirements` and send the job again.",
    ),
    Reason.NO_MODEL_LOGGED: _users(
        "The script ended without logging a model.",
        'Call `mlflow.<flavour>.log_model(model, "model")` inside `with mlflow.start_run():`.',
    ),
    Reason.MODEL_NOT_READY: _users(
        "The script began to log a model, but it was never completely stored.",
        "Look for a warning of log_model in the job's logs.",
    ),
    Reason.SCRIPT_KILLED: _users("The script was ended by a signal.", SEE_LOG, retryable=True),
    Reason.OUT_OF_MEMORY: _users(
        "The script needed more memory than a job may have.",
        "Train on less data at a time, or ask the operator for a higher limit.",
    ),
    Reason.DISK_FULL: _users(
        "The script wrote more than its working directory holds.",
        "Write less to /scratch and /tmp, or ask the operator for a higher limit.",
    ),
    Reason.LOG_QUOTA: _users(
        "The script printed more than a job may print.",
        "Print less: a line for each epoch, not for each row.",
    ),
    Reason.ARTIFACT_LIMIT: _users(
        "The script sent more to MLflow than a job may.",
        "Log fewer or smaller files; GET /mlops/training/limits says how much a job may send "
        "(artifacts_mb, artifact_files).",
    ),
    Reason.TIMEOUT: _users(
        "The script was still running when its time was over.",
        "Raise `timeout` (at most 3600 seconds) or train on less data.",
    ),
    Reason.PYTHON_NOT_OFFERED: _users(
        "The Python version that was asked for is not offered any more.",
        "GET /mlops/training/limits lists those that are.",
    ),
    Reason.REQUIREMENTS_INVALID: _users(
        "A requirement cannot be read.",
        "Write a package name with an optional version, such as scikit-learn==1.5.2.",
    ),
    Reason.REQUIREMENTS_NOT_FOUND: _users(
        "A requirement does not exist.",
        "Check name and version; only packages with a wheel for this Python install.",
    ),
    Reason.REQUIREMENTS_CONFLICT: _users(
        "The requirements exclude each other.", "Loosen the versions that exclude each other."
    ),
    Reason.REQUIREMENTS_DENIED: _users(
        "The requirements bring a package that the operator does not allow.",
        "Use another package, or ask the operator to allow this one.",
    ),
    Reason.ENVIRONMENT_TOO_LARGE: _users(
        "The requirements need more disk than an environment may have.",
        "Ask for fewer or smaller packages, such as a build for CPUs only.",
    ),
    Reason.ENVIRONMENT_BUILD_FAILED: _users(
        "Installing the requirements failed.", SEE_LOG, retryable=True
    ),
    Reason.ENVIRONMENT_BUILD_TIMEOUT: _users(
        "Installing the requirements took too long.",
        "Ask for fewer or smaller packages.",
        retryable=True,
    ),
    Reason.EXPERIMENT_REFUSED: _users(
        "MLflow does not accept the experiment.",
        "Use another experiment name; one that was deleted in MLflow keeps its name.",
    ),
    Reason.MODEL_REFUSED: _users(
        "The script ended well, but MLflow did not accept its model.",
        "The model is in the run: register it with POST /mlops/registry under another name.",
    ),
    Reason.PACKAGE_INDEX_UNREACHABLE: _ours("The package index cannot be reached.", OPERATOR),
    Reason.REGISTRY_UNAVAILABLE: _ours(
        "The script ended well, but MLflow did not answer when its model was to be registered.",
        "The model is in the run: register it with POST /mlops/registry when MLflow is back.",
    ),
    Reason.TRACKING_UNAVAILABLE: _ours("MLflow did not answer.", OPERATOR),
    Reason.ENGINE_UNAVAILABLE: _ours(
        "The container engine did not answer, or ended the job's container.", OPERATOR
    ),
    Reason.SANDBOX_REFUSED: _ours(
        "The container was not as locked down as it must be, so the script was not started.",
        OPERATOR,
        retryable=False,
    ),
    Reason.WORKER_LOST: _ours("The process that worked on the job died.", OPERATOR),
    Reason.PLATFORM_STOPPED: _ours(
        "The platform was stopped while the job was running.", "Send the job again."
    ),
    Reason.INTERNAL_ERROR: _ours("Something went wrong on our side.", OPERATOR),
}


@dataclass(frozen=True)
class EndReason:
    """Why one job ended: the reason, and the sentence that fits this job best."""

    reason: Reason
    sentence: str
    hint: str

    @classmethod
    def of(cls, reason: Reason, *, sentence: str = "", hint: str = "") -> "EndReason":
        """The table's words, unless better ones are given."""
        ending = ENDINGS[reason]
        return cls(reason=reason, sentence=sentence or ending.sentence, hint=hint or ending.hint)

    @property
    def ending(self) -> Ending:
        return ENDINGS[self.reason]

    @property
    def status(self) -> Status:
        return self.ending.status

"""Statuses, phases and reasons of a job: the words for users stand here and nowhere else.

queued ──claim──▶ running ──finish──▶ completed
   ▲                │  │
   └──start_over────┘  └─────────────▶ failed
 (the script never ran)

phase while queued:   waiting
phase while running:  building_environment ─▶ starting ─▶ training ─▶ registering
"""

from dataclasses import dataclass
from enum import StrEnum

from django.db.models import TextChoices


class Status(TextChoices):
    """What the contract tells a user."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Phase(TextChoices):
    """What a job is doing inside its status."""

    WAITING = "waiting"
    BUILDING_ENVIRONMENT = "building_environment"
    STARTING = "starting"
    TRAINING = "training"
    REGISTERING = "registering"
    ENDED = "ended"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED})
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING}),
    Status.RUNNING: frozenset({Status.COMPLETED, Status.FAILED, Status.QUEUED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
}


def may_become(status: Status, wanted: Status) -> bool:
    """Whether the diagram has an arrow from `status` to `wanted`."""
    return wanted in TRANSITIONS[status]


class Reason(TextChoices):
    """Why a job ended, for programs."""

    MODEL_REGISTERED = "model_registered"
    REQUIREMENTS_NOT_FOUND = "requirements_not_found"
    REQUIREMENTS_CONFLICT = "requirements_conflict"
    REQUIREMENTS_INVALID = "requirements_invalid"
    PACKAGE_INDEX_UNREACHABLE = "package_index_unreachable"
    ENVIRONMENT_BUILD_FAILED = "environment_build_failed"
    ENVIRONMENT_BUILD_TIMEOUT = "environment_build_timeout"
    SYNTAX_ERROR = "syntax_error"
    MODULE_MISSING = "module_missing"
    SCRIPT_FAILED = "script_failed"
    NO_MODEL_LOGGED = "no_model_logged"
    MODEL_NOT_READY = "model_not_ready"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    REGISTRATION_FAILED = "registration_failed"
    EXPERIMENT_REFUSED = "experiment_refused"
    SANDBOX_REFUSED = "sandbox_refused"
    ENGINE_FAILED = "engine_failed"
    TRACKING_UNREACHABLE = "tracking_unreachable"
    PLATFORM_STOPPED = "platform_stopped"


class Fault(StrEnum):
    """Whose it is to mend."""

    NOBODY = "nobody"
    USER = "user"
    PLATFORM = "platform"


@dataclass(frozen=True)
class Ending:
    """What a reason means: the status it leads to, whose fault, and the words shown."""

    status: Status
    fault: Fault
    retryable: bool
    sentence: str
    hint: str = ""


SEE_LOG = "The job's logs have the whole output."
OPERATOR = "This is not your script's fault: send it again, or tell the operator."

ENDINGS: dict[Reason, Ending] = {
    Reason.MODEL_REGISTERED: Ending(
        Status.COMPLETED, Fault.NOBODY, False, "The model was registered."
    ),
    Reason.REQUIREMENTS_NOT_FOUND: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "A requirement does not exist.",
        "Check name and version; only packages with a wheel for this Python install.",
    ),
    Reason.REQUIREMENTS_CONFLICT: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "The requirements exclude each other.",
        "Loosen the versions that exclude each other.",
    ),
    Reason.REQUIREMENTS_INVALID: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "A requirement cannot be read.",
        "Write a package name with an optional version, such as scikit-learn==1.5.2.",
    ),
    Reason.PACKAGE_INDEX_UNREACHABLE: Ending(
        Status.FAILED,
        Fault.PLATFORM,
        True,
        "The package index cannot be reached.",
        OPERATOR,
    ),
    Reason.ENVIRONMENT_BUILD_FAILED: Ending(
        Status.FAILED,
        Fault.USER,
        True,
        "Installing the requirements failed.",
        SEE_LOG,
    ),
    Reason.ENVIRONMENT_BUILD_TIMEOUT: Ending(
        Status.FAILED,
        Fault.USER,
        True,
        "Installing the requirements took too long.",
        "Ask for fewer or smaller packages.",
    ),
    Reason.SYNTAX_ERROR: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "The script is not valid Python.",
        "Run it with `python -m py_compile` before sending it.",
    ),
    Reason.MODULE_MISSING: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "The script imports a module that is not installed.",
        "Add the package to `requirements` and send the job again.",
    ),
    Reason.SCRIPT_FAILED: Ending(
        Status.FAILED, Fault.USER, False, "The script ended with an error.", SEE_LOG
    ),
    Reason.NO_MODEL_LOGGED: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "The script ended without logging a model.",
        'Call `mlflow.<flavour>.log_model(model, "model")` inside `with mlflow.start_run():`.',
    ),
    Reason.MODEL_NOT_READY: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "The script began to log a model, but it was never completely stored.",
        "Look for a warning of log_model in the job's logs.",
    ),
    Reason.TIMEOUT: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "The script was still running when its time was over.",
        "Raise `timeout` (at most 3600 seconds) or train on less data.",
    ),
    Reason.OUT_OF_MEMORY: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "The script needed more memory than a job may have.",
        "Train on less data at a time, or ask the operator for a higher limit.",
    ),
    Reason.KILLED: Ending(
        Status.FAILED,
        Fault.USER,
        True,
        "The script was ended by a signal.",
        SEE_LOG,
    ),
    Reason.REGISTRATION_FAILED: Ending(
        Status.FAILED,
        Fault.PLATFORM,
        True,
        "The script ended well, but its model could not be registered.",
        "The model is in the run: register it with POST /mlops/registry.",
    ),
    Reason.EXPERIMENT_REFUSED: Ending(
        Status.FAILED,
        Fault.USER,
        False,
        "MLflow does not accept the experiment.",
        "Use another experiment name; one that was deleted in MLflow keeps its name.",
    ),
    Reason.SANDBOX_REFUSED: Ending(
        Status.FAILED,
        Fault.PLATFORM,
        False,
        "The container was not as locked down as it must be, so the script was not started.",
        OPERATOR,
    ),
    Reason.ENGINE_FAILED: Ending(
        Status.FAILED,
        Fault.PLATFORM,
        True,
        "The container engine failed to start the job.",
        OPERATOR,
    ),
    Reason.TRACKING_UNREACHABLE: Ending(
        Status.FAILED,
        Fault.PLATFORM,
        True,
        "MLflow did not answer.",
        OPERATOR,
    ),
    Reason.PLATFORM_STOPPED: Ending(
        Status.FAILED,
        Fault.PLATFORM,
        True,
        "The platform was stopped while the job was running.",
        "Send the job again.",
    ),
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
    def status(self) -> Status:
        return ENDINGS[self.reason].status

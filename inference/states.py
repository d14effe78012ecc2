"""Why a model's server does not run: the words for users stand here and nowhere else.

(none) ──▶ starting ──▶ ready ──▶ stopping ──▶ stopped
              ▲  │        │                       │
              │  └▶ failed └──(container gone)──▶ │
              └───────┴───────────────────────────┘

A server that ends on its own is started again, at once the first time, then after a pause that
doubles; CRASHES_MOST ends in a row are a crash loop.
"""

from dataclasses import dataclass
from enum import StrEnum

from django.db.models import TextChoices

RETRY_PASSING_SECONDS = 5
RETRY_PERMANENT_SECONDS = 60
BACKOFF_SECONDS = 2
BACKOFF_MOST_SECONDS = 300
CRASHES_MOST = 4


class Reason(TextChoices):
    """Why a server does not run, for programs."""

    MODEL_NOT_FOUND = "model_not_found"
    MODEL_FILES_MISSING = "model_files_missing"
    MODEL_NOT_LOADABLE = "model_not_loadable"
    WRONG_ENVIRONMENT = "wrong_environment"
    ENVIRONMENT_FAILED = "environment_failed"
    OUT_OF_MEMORY = "out_of_memory"
    START_TIMEOUT = "start_timeout"
    HANG = "hang"
    CRASHED = "crashed"
    CRASH_LOOP = "crash_loop"
    CONTAINER_GONE = "container_gone"
    NO_ROOM = "no_room"
    REGISTRY_UNAVAILABLE = "registry_unavailable"
    PACKAGE_INDEX_UNREACHABLE = "package_index_unreachable"
    ENGINE_FAILED = "engine_failed"
    HOST_FAILED = "host_failed"
    PLATFORM_INCOMPLETE = "platform_incomplete"
    SANDBOX_REFUSED = "sandbox_refused"
    NETWORK_NOT_HELD = "network_not_held"
    UNEXPECTED = "unexpected"
    IDLE = "idle"
    EVICTED = "evicted"
    REPLACED = "replaced"
    STOPPED_BY_HAND = "stopped_by_hand"
    PLATFORM_STOPPED = "platform_stopped"


class Fault(StrEnum):
    """Whose it is to mend."""

    NOBODY = "nobody"
    MODEL = "model"
    PLATFORM = "platform"


@dataclass(frozen=True)
class Meaning:
    """Whose fault it is, whether it passes by itself, and the words shown."""

    fault: Fault
    passing: bool
    sentence: str
    hint: str = ""

    @property
    def retry_seconds(self) -> int:
        """How long a start that ended so is not tried again."""
        return RETRY_PASSING_SECONDS if self.passing else RETRY_PERMANENT_SECONDS


def _models(sentence: str, hint: str, *, passing: bool = False) -> Meaning:
    return Meaning(Fault.MODEL, passing, sentence, hint)


def _ours(sentence: str, *, passing: bool = True) -> Meaning:
    return Meaning(Fault.PLATFORM, passing, sentence, OPERATOR)


def _nobodys(sentence: str) -> Meaning:
    return Meaning(Fault.NOBODY, True, sentence, "The next request starts it again.")


OPERATOR = "This is not the model's fault: ask again, or tell the operator."
SEE_LOG = "GET /mlops/models/{model_name}/versions/{version}/server has the last lines it printed."

MEANINGS: dict[Reason, Meaning] = {
    Reason.MODEL_NOT_FOUND: _models("MLflow does not have this version.", "Register it again."),
    Reason.MODEL_FILES_MISSING: _models(
        "The version has no MLmodel file.", "Log it with mlflow.<flavour>.log_model."
    ),
    Reason.MODEL_NOT_LOADABLE: _models("The model cannot be loaded.", SEE_LOG),
    Reason.WRONG_ENVIRONMENT: _models(
        "The model needs other packages, or other versions of them, than its environment has.",
        "Train it again with those packages in `requirements`, in the versions that it names.",
    ),
    Reason.ENVIRONMENT_FAILED: _models(
        "The environment that the model needs cannot be installed.",
        "Train it again, with requirements that can be installed now.",
    ),
    Reason.OUT_OF_MEMORY: _models(
        "The model needs more memory than its server may have.",
        "Raise `memory_mb` with PUT /mlops/models/{model_name}/serving, or send fewer rows.",
    ),
    Reason.START_TIMEOUT: _models("The model was not loaded in time.", SEE_LOG, passing=True),
    Reason.HANG: _models(
        "A prediction took so long that the server was ended.", "Send fewer rows at a time."
    ),
    Reason.CRASHED: _models("The model's process ended while it served.", SEE_LOG, passing=True),
    Reason.CRASH_LOOP: _models("The model's process ends again and again.", SEE_LOG),
    Reason.CONTAINER_GONE: _ours("The container was removed."),
    Reason.NO_ROOM: _ours("There is no room for another model server."),
    Reason.REGISTRY_UNAVAILABLE: _ours("MLflow does not answer."),
    Reason.PACKAGE_INDEX_UNREACHABLE: _ours("The package index cannot be reached."),
    Reason.ENGINE_FAILED: _ours("The container engine failed to start the model's server."),
    Reason.HOST_FAILED: _ours("The model's files cannot be stored on the platform's disk."),
    Reason.PLATFORM_INCOMPLETE: _ours("The platform's own packages are not installed."),
    Reason.SANDBOX_REFUSED: _ours(
        "The container was not as locked down as it must be, so it was not started.", passing=False
    ),
    Reason.NETWORK_NOT_HELD: _ours(
        "The host's firewall does not hold what model servers may reach, so none starts."
    ),
    Reason.UNEXPECTED: _ours("The model's server could not be started.", passing=False),
    Reason.IDLE: _nobodys("Nobody asked it for a while."),
    Reason.EVICTED: _nobodys("It yielded its memory to a model that was asked for."),
    Reason.REPLACED: _nobodys("Another server took its place."),
    Reason.STOPPED_BY_HAND: _nobodys("An operator stopped it."),
    Reason.PLATFORM_STOPPED: _nobodys("The platform was stopped."),
}


def meaning(reason: str) -> Meaning:
    """Of an environment that cannot be built the reasons are the builder's own."""
    known = MEANINGS.get(Reason(reason)) if reason in Reason.values else None
    return known or MEANINGS[Reason.ENVIRONMENT_FAILED]


def backoff_seconds(crashes: int) -> int:
    """How long a server that ended `crashes` times in a row is not started again."""
    if crashes <= 1:
        return 0
    return min(BACKOFF_MOST_SECONDS, BACKOFF_SECONDS * 2 ** (crashes - 2))

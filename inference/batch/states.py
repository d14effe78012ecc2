"""Where a batch is and why it ended: the words for users stand here and nowhere else.

            ┌──────── (again: what failed may pass) ────────┐
            ▼                                               │
(none) ──▶ queued ──▶ running: prepared ▶ predicting ▶ collected ──▶ completed
            │                                               ├──▶ failed
            └──▶ cancelled ◀────────────────────────────────┘

A worker prepares, with a claim; nobody holds a batch that is predicting, its container is looked
at; a worker collects, with a claim.
"""

from django.db.models import TextChoices

from inference.states import MEANINGS as SERVER_MEANINGS
from inference.states import Fault, Meaning, meaning
from inference.states import Reason as ServerReason

# The first pause; it doubles with each attempt.
RETRY_SECONDS = 5
ATTEMPTS_MOST = 5


class Status(TextChoices):
    """What a batch is; the last three are its ends."""

    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class Format(TextChoices):
    """What a file is, of inputs or of predictions."""

    CSV = "csv", "CSV"
    PARQUET = "parquet", "Parquet"


OPEN = (Status.QUEUED, Status.RUNNING)
ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Reason(TextChoices):
    """Why a batch ended, beside why its model could not be opened (`inference.states.Reason`)."""

    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FILE_REFUSED = "file_refused"
    PARQUET_NOT_POSSIBLE = "parquet_not_possible"
    MODEL_FAILED = "model_failed"
    MODEL_CHANGED = "model_changed"
    OUTPUT_TOO_LARGE = "output_too_large"
    OUTPUT_UNUSABLE = "output_unusable"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    INPUT_LOST = "input_lost"
    WORKER_LOST = "worker_lost"


LOG = "`log_tail` has the last lines that it printed."
OPERATOR = "This is not the file's fault: send it again, or tell the operator."


def _users(sentence: str, hint: str = "") -> Meaning:
    return Meaning(Fault.NOBODY, False, sentence, hint)


def _models(sentence: str, hint: str) -> Meaning:
    return Meaning(Fault.MODEL, False, sentence, hint)


def _ours(sentence: str, *, passing: bool) -> Meaning:
    return Meaning(Fault.PLATFORM, passing, sentence, OPERATOR)


_KNOWN: dict[TextChoices, Meaning] = {
    Reason.SUCCEEDED: _users("Every row has its prediction."),
    Reason.CANCELLED: _users("The batch was cancelled.", "Send the file again."),
    Reason.FILE_REFUSED: _users(
        "The file does not fit the model.",
        "`errors` names columns and rows; GET /mlops/models/{model_name}/versions/{version}/schema "
        "says what the model takes.",
    ),
    Reason.PARQUET_NOT_POSSIBLE: _users(
        "The environment of this model has no pyarrow, which reads Parquet.",
        "Send the rows as CSV, or train the model again with pyarrow in `requirements`.",
    ),
    Reason.MODEL_FAILED: _models("The model failed at these rows.", LOG),
    Reason.MODEL_CHANGED: _models(
        "The version was deleted, and its number given to another model, while the batch waited.",
        "Send the file again.",
    ),
    Reason.OUTPUT_TOO_LARGE: _models(
        "The predictions are larger than they may be.",
        "Send the file in parts, or without `include_inputs`.",
    ),
    Reason.OUTPUT_UNUSABLE: _models("What the model's process answered is no table.", LOG),
    Reason.TIMEOUT: _models(
        "The batch was not done when its time was over.", "Send the file in parts."
    ),
    Reason.OUT_OF_MEMORY: _models(
        "The model needs more memory than a batch may have.",
        "Raise `memory_mb` with PUT /mlops/models/{model_name}/serving.",
    ),
    Reason.CRASHED: _models("The model's process ended before it was done.", LOG),
    Reason.INTERRUPTED: _ours("The container was ended before it was done.", passing=True),
    Reason.INPUT_LOST: _ours("The file is not there any more.", passing=False),
    Reason.WORKER_LOST: _ours("The process that worked on the batch died.", passing=True),
    ServerReason.MODEL_NOT_LOADABLE: _models("The model cannot be loaded.", LOG),
}
MEANINGS: dict[str, Meaning] = {str(reason.value): known for reason, known in _KNOWN.items()}


def meaning_of(reason: str) -> Meaning:
    """Of a batch's own reasons, else of those for which no server of the model would run."""
    return MEANINGS.get(reason) or meaning(reason)


def hint_of(reason: str, *, model_name: str, version: str) -> str:
    if not reason:
        return ""
    return meaning_of(reason).hint.format(model_name=model_name, version=version)


def every_meaning() -> dict[str, Meaning]:
    """All that may end a batch."""
    opening = {
        reason.value: known
        for reason, known in SERVER_MEANINGS.items()
        if known.fault is not Fault.NOBODY
    }
    return {**opening, **MEANINGS}


def may_try_again(reason: str, *, attempts: int) -> bool:
    return attempts < ATTEMPTS_MOST and meaning_of(reason).passing


def retry_seconds(attempts: int) -> int:
    return int(RETRY_SECONDS * 2 ** (attempts - 1))

"""What the documentation of batches shows."""

from inference.batch.states import Status

BATCH_ID = "7f1c9a52-3c1e-4c55-9a39-0b1a6d1a2c11"
PATH = f"/mlops/inference/batch/{BATCH_ID}"
ACCEPTED_EXAMPLE = {
    "batch_id": BATCH_ID,
    "status": "queued",
    "phase": "",
    "position": 1,
    "model_name": "churn_predictor",
    "model_version": "3",
    "file_name": "customers.csv",
    "input_format": "csv",
    "input_bytes": 4_200_000,
    "format": "csv",
    "return_probabilities": True,
    "include_inputs": False,
    "escape_formulas": True,
    "rows_done": 0,
    "rows_total": None,
    "share_done": 0.0,
    "reason": "",
    "error": "",
    "hint": "",
    "errors": [],
    "log_tail": "",
    "attempts": 0,
    "memory_mb": None,
    "output_bytes": None,
    "predictions": None,
    "cancel_requested_at": None,
    "created_at": "2025-10-23T10:00:00Z",
    "started_at": None,
    "ended_at": None,
    "kept_until": None,
}
RUNNING_EXAMPLE = {
    **ACCEPTED_EXAMPLE,
    "status": "running",
    "phase": "predicting",
    "position": None,
    "rows_done": 40_000,
    "rows_total": 120_000,
    "share_done": 0.3333,
    "attempts": 1,
    "memory_mb": 2048,
    "started_at": "2025-10-23T10:00:01Z",
}
COMPLETED_EXAMPLE = {
    **RUNNING_EXAMPLE,
    "status": "completed",
    "phase": "",
    "rows_done": 120_000,
    "share_done": 1.0,
    "reason": "succeeded",
    "output_bytes": 3_100_000,
    "predictions": f"{PATH}/predictions",
    "ended_at": "2025-10-23T10:00:09Z",
    "kept_until": "2025-10-30T10:00:09Z",
}
FAILED_EXAMPLE = {
    **RUNNING_EXAMPLE,
    "status": "failed",
    "phase": "",
    "rows_done": 0,
    "rows_total": None,
    "share_done": 0.4,
    "reason": "file_refused",
    "error": "inputs.age: row 30003 (line 30005): expected a number, got 'old'",
    "hint": (
        "`errors` names columns and rows; "
        "GET /mlops/models/churn_predictor/versions/3/schema says what the model takes."
    ),
    "errors": [
        {"field": "inputs.age", "detail": "row 30003 (line 30005): expected a number, got 'old'"}
    ],
    "ended_at": "2025-10-23T10:00:03Z",
    "kept_until": "2025-10-30T10:00:03Z",
}
LIST_EXAMPLE = {"batches": [COMPLETED_EXAMPLE], "next": None}
CANCELLED_EXAMPLE = {
    **ACCEPTED_EXAMPLE,
    "status": "cancelled",
    "position": None,
    "reason": "cancelled",
    "error": "The batch was cancelled while it waited.",
    "hint": "Send the file again.",
    "cancel_requested_at": "2025-10-23T10:00:02Z",
    "ended_at": "2025-10-23T10:00:02Z",
    "kept_until": "2025-10-30T10:00:02Z",
}
CANCELLING_EXAMPLE = {**RUNNING_EXAMPLE, "cancel_requested_at": "2025-10-23T10:00:04Z"}


def _problem(status: int, title: str, code: str, detail: str, path: str) -> dict[str, object]:
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": path,
        "code": code,
    }


INVALID_EXAMPLE = {
    **_problem(
        400,
        "Bad Request",
        "invalid",
        "The request is not valid. model_name: This field is required.",
        "/mlops/inference/batch",
    ),
    "errors": [{"field": "model_name", "detail": "This field is required."}],
}
BAD_STATUS_EXAMPLE = {
    **_problem(
        400,
        "Bad Request",
        "invalid_parameters",
        "The request is not valid. status: There is no 'done'.",
        "/mlops/inference/batch",
    ),
    "errors": [
        {
            "field": "status",
            "detail": "There is no 'done'.",
            "hint": f"Send one of: {', '.join(Status.values)}.",
        }
    ],
}
TOO_LARGE_EXAMPLE = _problem(
    413,
    "Content Too Large",
    "body_too_large",
    "The file is larger than 1024 MiB.",
    "/mlops/inference/batch",
)
TOO_MANY_EXAMPLE = _problem(
    429,
    "Too Many Requests",
    "too_many_batches",
    "100 batches are waiting already.",
    "/mlops/inference/batch",
)
NO_SPACE_EXAMPLE = _problem(
    503,
    "Service Unavailable",
    "no_space",
    "The platform has no room on its disk for another file.",
    "/mlops/inference/batch",
)
UNKNOWN_EXAMPLE = _problem(404, "Not Found", "batch_not_found", f"Batch {BATCH_ID} not found", PATH)
ENDED_EXAMPLE = _problem(
    409,
    "Conflict",
    "already_ended",
    "The batch has ended already: completed (succeeded).",
    f"{PATH}/cancel",
)
NOT_COMPLETED_EXAMPLE = {
    **_problem(
        409,
        "Conflict",
        "not_completed",
        "The batch has no predictions: it is running.",
        f"{PATH}/predictions",
    ),
    "hint": f"Ask GET {PATH} until its status is completed.",
}

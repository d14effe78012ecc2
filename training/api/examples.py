"""What the documentation of the API shows: requests, answers, and problems."""

from training.services.submit import NoSpace

UPLOAD_EXAMPLE = {
    "script_name": "my_training.py",
    "script_content": "import mlflow\nimport mlflow.sklearn...",
    "experiment_name": "customer_churn",
    "model_name": "churn_predictor",
    "requirements": ["scikit-learn", "pandas"],
    "environment_vars": {"DATA_PATH": "/data/train.csv"},
    "timeout": 300,
    "tags": {"version": "1.0"},
}
ACCEPTED_EXAMPLE = {
    "job_id": "abc-123-def",
    "script_name": "my_training.py",
    "experiment_name": "customer_churn",
    "model_name": "churn_predictor",
    "status": "queued",
    "created_at": "2025-10-23T10:00:00Z",
}
LOCK_EXAMPLE = """\
mlflow-skinny==3.13.0 \\
    --hash=sha256:0a30ef8f5322a4173720ae6712dc9a5e58f5a19868f3f167b4b5778db066c2b5
scikit-learn==1.5.2 \\
    --hash=sha256:13b2beaad985e05e2d6407ee4c4f35590b11f8d693a258a561055cac8f64cab7
"""
PYLOCK_EXAMPLE = """\
lock-version = "1.0"
created-by = "mlops"
requires-python = ">=3.11.2"

[[packages]]
name = "six"
version = "1.17.0"
wheels = [
    { name = "six-1.17.0-py2.py3-none-any.whl", \
url = "https://files.pythonhosted.org/packages/b7/ce/six-1.17.0-py2.py3-none-any.whl", \
size = 11050, \
hashes = { sha256 = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274" } },
]
"""
JOB_EXAMPLE = {
    "job_id": "abc-123-def",
    "script_name": "my_training.py",
    "experiment_name": "customer_churn",
    "model_name": "churn_predictor",
    "status": "completed",
    "phase": "ended",
    "attempt": 1,
    "run_id": "mlflow-run-id",
    "model_version": "1",
    "logs": "Training started...\nEpoch 1/10...",
    "error": None,
    "reason": "succeeded",
    "hint": None,
    "created_at": "2025-10-23T10:00:00Z",
    "started_at": "2025-10-23T10:00:05Z",
    "completed_at": "2025-10-23T10:05:30Z",
    "duration_seconds": 325.5,
    "owner": "127.0.0.1",
    "priority": "normal",
    "position": None,
    "waiting_for": None,
    "requirements": ["scikit-learn", "pandas"],
    "timeout": 600,
    "tags": {"version": "1.0"},
    "network": "internet",
    "memory_mb": 2048,
    "cpus": 1.0,
    "pids": 256,
    "scratch_mb": 1024,
    "gpus": 0,
    "python_version": "3.11",
    "rerun_of": None,
    "reruns": [],
    "attempts": [
        {
            "number": 1,
            "started_at": "2025-10-23T10:00:05Z",
            "ended_at": "2025-10-23T10:05:30Z",
            "reason": "succeeded",
            "exit_code": 0,
        }
    ],
    "usage": {
        "peak_memory_bytes": 412090368,
        "cpu_seconds": 301.2,
        "phase_seconds": {"waiting": 5.0, "building_environment": 2.1, "training": 321.9},
        "log_bytes": 2048,
    },
}


FAILED_EXAMPLE = {
    **JOB_EXAMPLE,
    "status": "failed",
    "run_id": None,
    "model_version": None,
    "logs": "Resolving 1 requirement\nTraceback (most recent call last): ...",
    "error": "ModuleNotFoundError: No module named 'xgboost'",
    "reason": "missing_module",
    "hint": "Add the package to `requirements` and send the job again.",
}
INVALID_EXAMPLE = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": "The request is not valid. timeout: 30 is below 60.",
    "instance": "/mlops/training/upload",
    "code": "invalid_upload",
    "errors": [
        {
            "field": "timeout",
            "detail": "30 is below 60.",
            "hint": "Send a whole number of seconds from 60 to 3600.",
        }
    ],
}
NO_JOB_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Job abc-123-def not found",
    "instance": "/mlops/training/jobs/abc-123-def",
    "code": "job_not_found",
}


IN_FLIGHT_EXAMPLE = {
    "type": "about:blank",
    "title": "Conflict",
    "status": 409,
    "detail": "The first request with this Idempotency-Key is still being answered.",
    "instance": "/mlops/training/upload",
    "code": "idempotency_key_in_flight",
    "hint": "Send it again in a moment; the answer will be that of the first one.",
}
TOO_MANY_EXAMPLE = {
    "type": "about:blank",
    "title": "Too Many Requests",
    "status": 429,
    "detail": "1000 jobs of yours are waiting or running, and no more are accepted.",
    "instance": "/mlops/training/upload",
    "code": "too_many_jobs",
    "hint": "Wait until some have ended; the limit is user_jobs.",
    "limit": "user_jobs",
}
NO_SPACE_EXAMPLE = {
    "type": "about:blank",
    "title": "Service Unavailable",
    "status": 503,
    "detail": NoSpace.default_detail,
    "instance": "/mlops/training/upload",
    "code": "disk_short",
    "hint": NoSpace.hint,
    "limit": "disk",
}


EDITS_EXAMPLE = {
    "environment_vars": {"N_ESTIMATORS": "400", "DEBUG": None},
    "requirements": ["scikit-learn==1.5.2"],
    "timeout": 600,
}
RERUN_EXAMPLE = {**ACCEPTED_EXAMPLE, "job_id": "def-456-abc", "rerun_of": "abc-123-def"}
CANCELLED_EXAMPLE = {
    **ACCEPTED_EXAMPLE,
    "status": "cancelled",
    "detail": "The job was cancelled while it waited.",
}
CANCELLING_EXAMPLE = {
    **ACCEPTED_EXAMPLE,
    "status": "running",
    "detail": "The script is asked to end, and killed if it still runs after 10 s.",
}
NO_LOCK_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "The job's requirements are not resolved yet.",
    "instance": "/mlops/training/jobs/abc-123-def/environment",
    "code": "environment_not_resolved",
    "hint": "Ask again when the job is starting.",
}

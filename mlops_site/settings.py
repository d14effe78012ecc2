"""Django settings, read from the environment in this one place; `docs/settings.md` is their table.

The process manager (`deploy/`) gives each process only the variables it needs: the web process gets
no Docker socket, the worker no session key.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from mlops_site.backing import WrongAddress, database_settings, redis_address
from registry.gate.ledger import USUAL_BOUNDS
from sandbox.build_rules import rules_from

T = TypeVar("T")
BASE_DIR = Path(__file__).resolve().parent.parent


# What was looked up, with what holds where the environment says nothing: the console shows it.
SETTINGS_READ: dict[str, str] = {}


def _text(name: str, default: str = "") -> str:
    SETTINGS_READ[name] = default
    return os.environ.get(name, default)


def _int(name: str, default: int) -> int:
    return int(_text(name, str(default)))


def _bound(name: str, default: float) -> float:
    """To an engine, 0 and less mean: without a bound."""
    value = float(_text(name, str(default)))
    if value <= 0:
        raise ImproperlyConfigured(f"{name}={value:g}: choose a number above 0.")
    return value


def _maximum(name: str, *, default: float, usual: float) -> float:
    """What a job may ask for at most: never less than what it gets without asking."""
    value = float(_text(name, str(max(default, usual))))
    if value < default:
        usual_name = name.removesuffix("_MAX")
        raise ImproperlyConfigured(
            f"{name}={value:g}: choose a number that is not below {usual_name}, {default:g}."
        )
    return value


def _one_of(name: str, choices: tuple[str, ...], default: str) -> str:
    value = _text(name, default)
    if value not in choices:
        raise ImproperlyConfigured(f"{name}={value}: choose {' or '.join(choices)}.")
    return value


def _rates(name: str) -> dict[str, float]:
    """`0.01` for every model, or `churn=0.1,*=0.01`: a part of 1 by name, `*` for all others."""
    parts = [part.rpartition("=") for part in _list(name)]
    try:
        rates = {key.strip() or "*": float(value) for key, _, value in parts}
    except ValueError:
        rates = {"": -1.0}
    if not all(0 <= rate <= 1 for rate in rates.values()):
        raise ImproperlyConfigured(f"{name}: write it as 0.01, or as churn=0.1,*=0.01.")
    return rates


def _list(name: str, default: str = "") -> list[str]:
    return [part.strip() for part in _text(name, default).split(",") if part.strip()]


def _pairs(name: str, default: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _list(name, default)]
    if not pairs or not all(key and value for key, _, value in pairs):
        raise ImproperlyConfigured(f"{name}: write it as 3.11=image,3.12=another-image.")
    return {key: value for key, _, value in pairs}


def _checked(read: Callable[[], T]) -> T:
    """Without the trace of how an address was read: it would show the address."""
    try:
        return read()
    except WrongAddress as wrong:
        raise ImproperlyConfigured(str(wrong)) from None


def _database() -> dict[str, Any]:
    return database_settings(
        _text("DATABASE_URL", ""),
        default_file=MLOPS_HOME / "db" / "platform.sqlite3",
        name=f"mlops-{INSTALLATION_ID}",
    )


# -- the installation ---------------------------------------------------------------------------
MLOPS_HOME = Path(_text("MLOPS_HOME", str(BASE_DIR / "var"))).resolve()
INSTALLATION_ID = _text("MLOPS_INSTALLATION_ID", "unset")
PORT = _int("PORT", 8000)
PLATFORM_VERSION = "5.0.0"
DEBUG = _text("MLOPS_DEBUG", "") == "1"
# The web process signs sessions with it, worker and supervisor sign the queue's tasks with another:
# a task is code that a worker runs with access to the engine, so the web process cannot make one.
SECRET_KEY = _text("MLOPS_SECRET_KEY", "not-a-secret-only-for-commands-without-sessions")
ALLOWED_HOSTS = _list("MLOPS_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")

# -- Docker (worker and supervisor only) --------------------------------------------------------
RUNNER_IMAGE = _text("MLOPS_RUNNER_IMAGE", f"mlops-runner:{INSTALLATION_ID}")
# The image of each Python version that jobs may ask for; the first is for who asks for none.
PYTHON_IMAGES = _pairs("MLOPS_PYTHON_IMAGES", f"3.11={RUNNER_IMAGE}")
PYTHON_VERSIONS = tuple(PYTHON_IMAGES)
JOBS_NETWORK = _text("MLOPS_JOBS_NETWORK", f"mlops-{INSTALLATION_ID}-jobs")
JOBS_SUBNET = _text("MLOPS_JOBS_SUBNET", "")
JOBS_GATEWAY = _text("MLOPS_JOBS_GATEWAY", "")
OFFLINE_NETWORK = _text("MLOPS_OFFLINE_NETWORK", f"mlops-{INSTALLATION_ID}-offline")
SERVERS_NETWORK = _text("MLOPS_SERVERS_NETWORK", f"mlops-{INSTALLATION_ID}-servers")
BUILDS_NETWORK = _text("MLOPS_BUILDS_NETWORK", f"mlops-{INSTALLATION_ID}-builds")
# Internal addresses that jobs with `internet` may reach, `10.1.2.0/24:5432`; whom they ask for
# names (none: whom this host asks); a proxy on their way out.
JOB_ALLOWED_ADDRESSES = _text("MLOPS_JOB_ALLOWED_ADDRESSES", "")
JOB_RESOLVERS = _list("MLOPS_JOB_RESOLVERS")
JOB_PROXY = _text("MLOPS_JOB_PROXY", "")
# What runs containers of jobs and model servers, by the name that the engine knows it under.
SANDBOX_RUNTIME = _text("SANDBOX_RUNTIME") or "runc"
DATA_DIR = MLOPS_HOME / "data"
JOBS_DIR = MLOPS_HOME / "jobs"
MODELS_DIR = MLOPS_HOME / "models"
BATCHES_DIR = MLOPS_HOME / "batches"
ENVIRONMENTS_DIR = Path(_text("MLOPS_ENVIRONMENTS_DIR", str(MLOPS_HOME / "environments" / "store")))

# -- MLflow and Feast ---------------------------------------------------------------------------
MLFLOW_TRACKING_URI = _text("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
MLFLOW_ADMIN_USERNAME = _text("MLOPS_MLFLOW_USERNAME", "admin")
MLFLOW_ADMIN_PASSWORD = _text("MLOPS_MLFLOW_PASSWORD", "")
MLFLOW_CALL_SECONDS = float(_text("MLOPS_MLFLOW_CALL_SECONDS", "15"))
FEAST_REPO_DIR = Path(_text("MLOPS_FEAST_REPO", str(MLOPS_HOME / "feast")))
# One order to fill the online store, all of its feature views together.
MATERIALIZE_SECONDS = _bound("MLOPS_MATERIALIZE_SECONDS", 900)

# -- limits: default and maximum ----------------------------------------------------------------
JOB_TIMEOUT_SECONDS = {"minimum": 60, "default": 300, "maximum": 3600}
JOB_MEMORY_MB = int(_bound("MLOPS_JOB_MEMORY_MB", 2048))
JOB_MEMORY_MB_MAX = int(_maximum("MLOPS_JOB_MEMORY_MB_MAX", default=JOB_MEMORY_MB, usual=16_384))
JOB_CPUS = _bound("MLOPS_JOB_CPUS", 1.0)
JOB_CPUS_MAX = _maximum("MLOPS_JOB_CPUS_MAX", default=JOB_CPUS, usual=8)
JOB_PIDS = int(_bound("MLOPS_JOB_PIDS", 256))
JOB_PIDS_MAX = int(_maximum("MLOPS_JOB_PIDS_MAX", default=JOB_PIDS, usual=1024))
# What the engine has bounds these too; its GPUs are asked of it, unless they are named.
JOB_GPUS = max(0, _int("MLOPS_JOB_GPUS", 0))
JOB_GPUS_MAX = int(_maximum("MLOPS_JOB_GPUS_MAX", default=JOB_GPUS, usual=8))
GPU_DEVICES = _list("MLOPS_GPU_DEVICES")
# From the least to the most: none, internet.
JOB_NETWORK = {
    "default": _one_of("MLOPS_JOB_NETWORK", ("none", "internet"), "internet"),
    "maximum": _one_of("MLOPS_JOB_NETWORK_MAX", ("none", "internet"), "internet"),
}
JOB_SCRATCH_MB = int(_bound("MLOPS_JOB_SCRATCH_MB", 1024))
JOB_SCRATCH_MB_MAX = int(_maximum("MLOPS_JOB_SCRATCH_MB_MAX", default=JOB_SCRATCH_MB, usual=8192))
JOB_GRACE_SECONDS = _int("MLOPS_JOB_GRACE_SECONDS", 10)
JOB_LOG_MAX_BYTES = _int("MLOPS_JOB_LOG_MAX_BYTES", 10 * 1024 * 1024)
JOB_LOG_HARD_BYTES = _int("MLOPS_JOB_LOG_HARD_BYTES", 1024 * 1024 * 1024)
# What one attempt may send to MLflow in all; the gate before MLflow counts.
JOB_ARTIFACTS_MB = int(_bound("MLOPS_JOB_ARTIFACTS_MB", USUAL_BOUNDS.megabytes))
JOB_ARTIFACT_FILES = int(_bound("MLOPS_JOB_ARTIFACT_FILES", USUAL_BOUNDS.files))
# Clients that wait for or follow a job, in this process; and how long one stream may last.
MAX_FOLLOWERS = _int("MLOPS_MAX_FOLLOWERS", 1000)
FOLLOW_MAX_SECONDS = _int("MLOPS_FOLLOW_MAX_SECONDS", 900)
JOB_MAX_ATTEMPTS = _int("MLOPS_JOB_MAX_ATTEMPTS", 3)
JOB_CAPS = {
    "queue_jobs": _int("MLOPS_QUEUE_JOBS", 5000),
    "user_jobs": _int("MLOPS_USER_JOBS", 1000),
    "experiment_jobs": _int("MLOPS_EXPERIMENT_JOBS", 1000),
}
# How many jobs run at once is what fits into the engine's memory and CPUs; 0: no other bound.
MAX_CONCURRENT_JOBS = _int("MLOPS_MAX_CONCURRENT_JOBS", 0)
RESERVED_MEMORY_MB = _int("MLOPS_RESERVED_MEMORY_MB", 1024)
MEMORY_FREE_MB = _int("MLOPS_MEMORY_FREE_MB", 512)
DISK_FREE_MB = _int("MLOPS_DISK_FREE_MB", 2048)
# Containers that wait for a job with its environment's imports done, in all; 0: none.
WAITING_CONTAINERS = _int("MLOPS_WAITING_CONTAINERS", 2)
# Retention: 0 keeps for ever. What a registered model needs is kept whatever these say.
KEEP_JOBS_DAYS = _int("MLOPS_KEEP_JOBS_DAYS", 365)
KEEP_JOBS = _int("MLOPS_KEEP_JOBS", 100_000)
KEEP_LOGS_DAYS = _int("MLOPS_KEEP_LOGS_DAYS", 90)
KEEP_LOGS_OF_JOBS = _int("MLOPS_KEEP_LOGS_OF_JOBS", 10_000)
KEEP_AUDIT_DAYS = _int("MLOPS_KEEP_AUDIT_DAYS", 365)
KEEP_RUNS_DAYS = _int("MLOPS_KEEP_RUNS_DAYS", 90)
# Which packages, from where, and how much of them: `sandbox/build_rules.py` reads these.
BUILD_RULES = rules_from(os.environ)
ENVIRONMENTS_MAX_MB = _int("MLOPS_ENVIRONMENTS_MAX_MB", 40_000)
# Built in the background after the start; sets are separated by semicolons, and empty is none.
PRELOADED_ENVIRONMENTS = [
    [part.strip() for part in group.split(",")]
    for group in _text("MLOPS_PRELOAD_ENVIRONMENTS", "scikit-learn").split(";")
    if group.strip()
]
ENVIRONMENT_BUILD_SECONDS = _int("MLOPS_ENVIRONMENT_BUILD_SECONDS", 900)
SCRIPT_MAX_BYTES = _int("MLOPS_SCRIPT_MAX_BYTES", 1024 * 1024)
ALLOW_URL_REQUIREMENTS = _text("MLOPS_ALLOW_URL_REQUIREMENTS", "") == "1"
SERVER_MEMORY_MB = int(_bound("MLOPS_SERVER_MEMORY_MB", 1024))
SERVER_CPUS = _bound("MLOPS_SERVER_CPUS", 1.0)
SERVER_PIDS = int(_bound("MLOPS_SERVER_PIDS", 128))
SERVER_START_SECONDS = _int("MLOPS_SERVER_START_SECONDS", 60)
# "off", or by how much a compact form may differ from its model; nothing: by not a single bit.
FAST_LANE = _text("MLOPS_FAST_LANE", "")
MAX_MODEL_SERVERS = _int("MLOPS_MAX_MODEL_SERVERS", 8)
# All model servers together; one that is unused for so long stops, 0: never.
SERVERS_MEMORY_MB = _int("MLOPS_SERVERS_MEMORY_MB", MAX_MODEL_SERVERS * SERVER_MEMORY_MB)
SERVER_IDLE_SECONDS = _int("MLOPS_SERVER_IDLE_SECONDS", 3600)
# Requests at one server of a model at a time, waiting ones included; then at all of them.
INFERENCE_QUEUE = _int("MLOPS_INFERENCE_QUEUE", 256)
INFERENCE_HELD_BYTES = _int("MLOPS_INFERENCE_HELD_BYTES", 256 * 1024 * 1024)
INFERENCE_BODY_SECONDS = _int("MLOPS_INFERENCE_BODY_SECONDS", 30)
INFERENCE_ANSWER_MAX_BYTES = _int("MLOPS_INFERENCE_ANSWER_MAX_BYTES", 64 * 1024 * 1024)
INFERENCE_WAIT_SECONDS = _int("MLOPS_INFERENCE_WAIT_SECONDS", 60)
INFERENCE_MAX_BYTES = _int("MLOPS_INFERENCE_MAX_BYTES", 16 * 1024 * 1024)
# A sample of requests and answers, written down for administrators; nothing: none.
REQUEST_LOG_RATES = _rates("MLOPS_REQUEST_LOG")
REQUEST_LOG_BYTES = int(_bound("MLOPS_REQUEST_LOG_MB", 256)) * 1024 * 1024
REQUEST_LOG_RECORD_BYTES = int(_bound("MLOPS_REQUEST_LOG_RECORD_KB", 64)) * 1024
REQUEST_LOG_DAYS = _bound("MLOPS_REQUEST_LOG_DAYS", 7)
REQUEST_LOG_DIR = MLOPS_HOME / "requests"
# One look-up in the feature store, for all entities of a request.
FEATURES_SECONDS = _bound("MLOPS_FEATURES_SECONDS", 5)
# Batches: how many run at once, wait, and what the files of all that are kept may have together.
MAX_BATCHES = int(_bound("MLOPS_MAX_BATCHES", 2))
BATCH_QUEUE = _int("MLOPS_BATCH_QUEUE", 100)
BATCH_INPUT_MAX_BYTES = int(_bound("MLOPS_BATCH_INPUT_MAX_BYTES", 1024**3))
BATCH_OUTPUT_MAX_BYTES = int(_bound("MLOPS_BATCH_OUTPUT_MAX_BYTES", 1024**3))
BATCH_FILES_MAX_MB = int(_bound("MLOPS_BATCH_FILES_MAX_MB", 20_000))
# The least; a model whose servers have more gets that.
BATCH_MEMORY_MB = int(_bound("MLOPS_BATCH_MEMORY_MB", 2048))
BATCH_SECONDS = int(_bound("MLOPS_BATCH_SECONDS", 3600))
KEEP_BATCHES_DAYS = _int("MLOPS_KEEP_BATCHES_DAYS", 7)
DATA_UPLOAD_MAX_MEMORY_SIZE = max(4 * SCRIPT_MAX_BYTES, INFERENCE_MAX_BYTES)
# A form is read from memory as a whole: its script is at most SCRIPT_MAX_BYTES anyway.
FILE_UPLOAD_MAX_MEMORY_SIZE = DATA_UPLOAD_MAX_MEMORY_SIZE

# -- Django -------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "mlops_site.console.apps.ConsoleConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "mlops_site",
    "registry",
    "training",
    "inference",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "mlops_site.middleware.content_security_policy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "mlops_site.middleware.known_source",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "mlops_site.problems.in_words",
]
ROOT_URLCONF = "mlops_site.urls"
WSGI_APPLICATION = "mlops_site.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "mlops_site.pages.platform_links",
            ]
        },
    }
]
DATABASES = {"default": _checked(_database)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTHENTICATION_BACKENDS = ["mlops_site.accounts.Accounts"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = "mlops_site.formats"
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True
APPEND_SLASH = False
CSRF_FAILURE_VIEW = "mlops_site.problems.csrf_failure"

# -- queue: short idempotent tasks only; the rows, not the queue, are the truth ------------------
QUEUE_WORKERS = _int("MLOPS_QUEUE_WORKERS", 5)
# Builds and starts of model servers may take a minute; so many of each at once, and a worker is
# always left for what takes a moment: a job's start and its end.
LONG_TASKS = max(1, (QUEUE_WORKERS - 1) // 2)
LONGEST_TASK_SECONDS = max(ENVIRONMENT_BUILD_SECONDS, int(MATERIALIZE_SECONDS))
# Worker and supervisor only: the web process queues nothing, and gets no address to do it with.
REDIS_URL = _checked(lambda: redis_address(_text("REDIS_URL", "")))
Q_CLUSTER = {
    # Several installations may share one Redis; in the database it is always the same queue.
    "name": f"mlops-{INSTALLATION_ID}" if REDIS_URL else "mlops",
    "orm": "default",
    "broker_class": f"mlops_site.queues.{'RedisQueue' if REDIS_URL else 'OrmQueue'}",
    "workers": QUEUE_WORKERS,
    # On the database only; Redis tells at once.
    "poll": 0.2,
    "queue_limit": 2,
    "timeout": LONGEST_TASK_SECONDS + 300,
    "retry": LONGEST_TASK_SECONDS + 900,
    "max_attempts": 3,
    "save_limit": 200,
    # A schedule is a row that names any function, and whoever writes rows could have it run; and a
    # guard that reads schedules is one that a locked database can hold up.
    "scheduler": False,
    "catch_up": False,
    "label": "Queue",
}

# -- API ----------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_PARSER_CLASSES": ["mlops_site.rest.ObjectParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "mlops_site.rest.FirstRenderer",
    "DEFAULT_METADATA_CLASS": "mlops_site.rest.Methods",
    "DEFAULT_SCHEMA_CLASS": "mlops_site.schema.ProblemAutoSchema",
    "EXCEPTION_HANDLER": "mlops_site.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "DATETIME_FORMAT": "iso-8601",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "MLOps API",
    "DESCRIPTION": "Upload Python scripts, track their training, serve the models they log.",
    "VERSION": PLATFORM_VERSION,
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "/static/mlops_site/favicon.svg",
    "REDOC_DIST": "SIDECAR",
    "PREPROCESSING_HOOKS": ["mlops_site.schema.document_plain_paths"],
    "ENUM_NAME_OVERRIDES": {
        "EnvironmentStateEnum": "training.models.BuiltEnvironment.State",
        "MaterializationStateEnum": "registry.models.Materialization.State",
        "JobStatusEnum": "training.states.Status",
        "NetworkEnum": "training.states.Network",
        "ReasonEnum": "training.states.Reason",
        "ServerReasonEnum": "inference.states.Reason",
        "TableFormatEnum": "inference.batch.states.Format",
        "ResolutionStatusEnum": "training.api.validate_view.RESOLUTION_STATUSES",
    },
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "filters": {
        # A platform that starts is asked for its readiness ten times a second.
        "not_readiness": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: not record.getMessage().endswith("/mlops/ready"),
        }
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "filters": ["not_readiness"],
        }
    },
    "loggers": {"django-q": {"level": "WARNING", "handlers": ["console"], "propagate": False}},
    "root": {"handlers": ["console"], "level": _text("MLOPS_LOG_LEVEL", "INFO")},
}

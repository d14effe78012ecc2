"""The platform's own tasks: the queue's proof of life, and what is done once a day."""

import logging
import time

from inference import prediction_tallies, request_log
from inference.services import batch_watching, watching
from mlops_site.models import PRELOAD_PUT_OFF, RETENTION, WORKER, Heartbeat
from registry import audit
from registry.mlflow_client import RegistryUnavailable, model_registry
from sandbox.engine import EngineError, EngineUnavailable
from training import tallies as job_tallies
from training.services import environment_house as house
from training.services.retention import Retention

log = logging.getLogger(__name__)

# A worker is not kept from its jobs for longer; the next call goes on.
RETENTION_SECONDS = 300.0


def worker_beat() -> None:
    """Does nothing but say that a worker ran it."""
    Heartbeat.beat(WORKER)


def environments() -> None:
    """Brings rows and store in line, keeps the disk budget, and builds what is to be there."""
    try:
        house.keep_house(model_registry())
        if not house.preload():
            Heartbeat.beat(PRELOAD_PUT_OFF)
    except (EngineError, EngineUnavailable):
        log.exception("environments.engine_failed")


def retention() -> None:
    """Clears away what is old, and remembers when nothing old is left."""
    watching.remove_unowned_models()
    request_log.purge_old()
    batch_watching.clear_old()
    audit.forget_old()
    job_tallies.forget_old()
    prediction_tallies.forget_old()
    deadline = time.monotonic() + RETENTION_SECONDS
    try:
        done = Retention(model_registry(), over=lambda: time.monotonic() > deadline).clear()
    except RegistryUnavailable:
        log.warning("retention.put_off: MLflow does not answer")
        return
    if done:
        Heartbeat.beat(RETENTION)

"""Keeps one untrue warning out of a job's log: MLflow loads this as a plugin, in every job.

The platform ends MLflow's search for a model's requirements at once (it takes 4 to 8 seconds, and
the job's environment is known exactly), which MLflow calls an unexpected error. That sentence, of
that logger, is dropped while the platform has switched the search off; nothing else is. A plugin is
the way that MLflow offers: the user's environment and files stay as they are. Standard library
only.
"""

import logging
import os

LOGGER = "mlflow.utils.environment"
SENTENCE = "Encountered an unexpected error while inferring pip requirements"
SWITCH = "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT"


class NoContext:
    """What MLflow asks for its plugins: a run context, of which this one has nothing to tell."""

    def in_context(self) -> bool:
        return False

    def tags(self) -> dict[str, str]:
        return {}


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether a line of MLflow's goes into the log."""
    return os.environ.get(SWITCH) != "0" or not str(record.msg).startswith(SENTENCE)


logging.getLogger(LOGGER).addFilter(is_wanted)

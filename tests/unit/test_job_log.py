"""One sentence of MLflow is untrue in a job; every other line stays."""

import importlib.metadata
import logging
import runpy
from pathlib import Path

import pytest

JOB_PATH = Path(__file__).parents[2] / "sandbox" / "image" / "job_path"
SENTENCE = "Encountered an unexpected error while inferring pip requirements (model URI: x)."


@pytest.fixture
def plugin():
    """Loaded as MLflow loads it, and unloaded again."""
    logger = logging.getLogger("mlflow.utils.environment")
    before = list(logger.filters)
    yield runpy.run_path(str(JOB_PATH / "mlops_job_log.py"))
    logger.filters = before


def told(message: str, *, logger: str, caplog: pytest.LogCaptureFixture) -> bool:
    caplog.clear()
    found = logging.getLogger(logger)
    found.addHandler(caplog.handler)
    try:
        found.warning(message)
    finally:
        found.removeHandler(caplog.handler)
    return bool(caplog.messages)


@pytest.mark.parametrize(
    ("switch", "message", "logger", "wanted"),
    [
        ("0", SENTENCE, "mlflow.utils.environment", False),
        ("120", SENTENCE, "mlflow.utils.environment", True),
        (None, SENTENCE, "mlflow.utils.environment", True),
        ("0", "Something else.", "mlflow.utils.environment", True),
        ("0", SENTENCE, "train", True),
        ("0", SENTENCE, "mlflow.sklearn", True),
    ],
)
def test_only_what_is_untrue_is_dropped(
    plugin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    switch: str | None,
    message: str,
    logger: str,
    wanted: bool,
):
    monkeypatch.delenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", raising=False)
    if switch is not None:
        monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", switch)
    assert told(message, logger=logger, caplog=caplog) is wanted


def test_mlflow_finds_the_plugin_by_its_entry_point_and_learns_nothing_from_it():
    (found,) = importlib.metadata.distributions(path=[str(JOB_PATH)])
    (entry,) = found.entry_points
    assert (entry.group, entry.value) == (
        "mlflow.run_context_provider",
        "mlops_job_log:NoContext",
    )
    context = runpy.run_path(str(JOB_PATH / "mlops_job_log.py"))["NoContext"]()
    assert (context.in_context(), context.tags()) == (False, {})

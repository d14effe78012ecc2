"""What a job's script logged in MLflow: a piece that the page asks for behind, whose silence it
survives."""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from registry.charts import Axis, Chart, Line
from registry.console import size_of_bytes
from registry.mlflow_catalog import Catalog
from registry.mlflow_client import (
    ModelVersionNotFound,
    RegistryRefused,
    RegistryUnavailable,
    RunNotFound,
    model_registry,
)
from registry.mlflow_documents import Artifact, Run
from sandbox.image.lock_file import name_and_version, pins_in
from training.models import Job
from training.states import TERMINAL

# Each curve is a call of MLflow's.
CURVES_MOST = 12
POINTS_MOST = 320
SHOWN_MOST = 200
ARTIFACTS_MOST = 100
READ = ("run_id", "status", "model_name", "model_version", "environment_lock")
INFERRED_WITH = ("pandas", "scipy")


@dataclass(frozen=True)
class Problem:
    """Why nothing of a run is shown, and what that means for whoever looks for it."""

    what: str
    next: str


SILENT = Problem(
    "MLflow does not answer.",
    "What the run logged is shown here again when it does; nothing is lost.",
)
DELETED = Problem(
    "The run was deleted in MLflow.",
    "Its metrics, parameters and files went with it. The log, the script and the limits of the job "
    "are kept here; running it again makes a new run.",
)


@dataclass(frozen=True)
class File:
    """One line of the list of artifacts."""

    path: str
    is_folder: bool
    size: str


def run_piece(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Raises Http404 where there is no such job."""
    job = Job.objects.only(*READ).filter(pk=job_id).first()
    if job is None:
        raise Http404("There is no such job.")
    told = {"told": True, "job": job, "is_alive": job.status not in TERMINAL}
    return render(request, "console/job_run.html", {**told, **_told(job)})


def _told(job: Job) -> dict[str, object]:
    if not job.run_id:
        return {}
    catalog = model_registry().catalog
    try:
        run = catalog.run(job.run_id)
        return {
            "run": run,
            "metrics": [(name, shown(value)) for name, value in sorted(run.metrics.items())][
                :SHOWN_MOST
            ],
            "parameters": sorted(run.parameters.items())[:SHOWN_MOST],
            "curves": len(run.curves),
            "charts": _charts(catalog, run),
            "artifacts": [_file(each) for each in catalog.artifacts(job.run_id)[:ARTIFACTS_MOST]],
            **_signature(job),
        }
    except RegistryUnavailable:
        return {"problem": SILENT}
    except RunNotFound:
        return {"problem": DELETED}


def _signature(job: Job) -> dict[str, object]:
    """How the model that it registered says what it takes; nothing of one that is gone.

    Raises RegistryUnavailable.
    """
    if not job.model_version:
        return {}
    registry = model_registry()
    try:
        about = registry.about(registry.version(job.model_name, job.model_version))
    except (ModelVersionNotFound, RegistryRefused):
        return {}
    return {"declared": about.declared, "lacking": _lacking(job.environment_lock)}


def _lacking(lock: str) -> list[str]:
    """Of what MLflow needs to infer a signature, what the job's environment has not; none where
    its lock is not known."""
    names = {name_and_version(pin)[0] for pin in pins_in(lock)}
    return [name for name in INFERRED_WITH if name not in names] if names else []


def shown(value: float) -> str:
    """`0.9312`, `12 345.6`, `1.2e-07`, `nan`."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.6g}".replace(",", " ") if 1e-4 <= abs(value) < 1e9 else f"{value:.4g}"


def _charts(catalog: Catalog, run: Run) -> Sequence[Chart]:
    charts = []
    for number, name in enumerate(sorted(run.curves)[:CURVES_MOST]):
        points = catalog.curve(run.run_id, name, points=POINTS_MOST)
        chart = Chart(
            id=f"curve-{number}",
            title=name,
            told=shown(run.metrics[name]),
            axis=Axis.STEP,
            x=[point.step for point in points],
            lines=[Line(name, [point.value for point in points])],
        )
        if not chart.is_empty:
            charts.append(chart)
    return charts


def _file(artifact: Artifact) -> File:
    told = "–" if artifact.size_bytes is None else size_of_bytes(artifact.size_bytes)
    return File(artifact.path, artifact.is_folder, told)

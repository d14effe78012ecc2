"""What happened to a job, and what it used over its time: a piece that the page asks for behind."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from registry.charts import Axis, Chart, Line
from registry.console import size
from training.models import Job, JobEvent, UsageSeries
from training.states import TERMINAL, Phase, Reason

EVENTS_MOST = 200
SERIES_COLUMNS = ("step_seconds", "memory_bytes", "cpus")
MIB = 1024 * 1024
WORDS = {
    "accepted": "Accepted",
    "claimed": "Taken by a worker",
    "environment_build_started": "Build of its environment began",
    "cancel_requested": "Asked to be cancelled",
    "cancelled": "Cancelled",
    "retry": "To be tried again",
    "stopping": "Asked to stop",
    "sandbox_refused": "Its container was not what was asked for",
    "network_not_held": "The network was not held",
    "priority_changed": "Priority changed",
    "completed": "Ended well",
    "failed": "Failed",
    Phase.BUILDING_ENVIRONMENT: "Its environment is looked for",
    Phase.STARTING: "Its container is made",
    Phase.TRAINING: "The script runs",
    Phase.REGISTERING: "Its model is registered",
}


@dataclass(frozen=True)
class Happened:
    """One line of a job's story."""

    at: datetime
    words: str
    detail: str
    by: str
    attempt: int | None


def history_piece(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Raises Http404 where there is no such job."""
    job = Job.objects.only("memory_mb", "cpus", "status").filter(pk=job_id).first()
    if job is None:
        raise Http404("There is no such job.")
    newest = JobEvent.objects.filter(job=job_id).order_by("-id")[: EVENTS_MOST + 1]
    events = [_told(event) for event in newest]
    series = UsageSeries.objects.filter(attempt__job=job_id).order_by("-attempt__number")
    last = series.select_related("attempt").only("attempt__number", *SERIES_COLUMNS).first()
    told = {
        "told": True,
        "job": job,
        "is_alive": job.status not in TERMINAL,
        "events": events[:EVENTS_MOST][::-1],
        "left_out": len(events) > EVENTS_MOST,
        "usage": usage_charts(last, job) if last else [],
        "attempt": last.attempt.number if last else None,
        "step": last.step_seconds if last else 0,
    }
    return render(request, "console/job_history.html", told)


def usage_charts(series: UsageSeries, job: Job) -> Sequence[Chart]:
    """Memory and CPUs, each beside its limit; none of a script that ended before a second look."""
    if len(series.memory_bytes) < 2:
        return []
    seconds = [number * series.step_seconds for number in range(len(series.memory_bytes))]
    memory = [None if value is None else round(value / MIB, 1) for value in series.memory_bytes]
    peak = max((value for value in memory if value is not None), default=0.0)
    busiest = max((value for value in series.cpus if value is not None), default=0.0)
    whole = len(seconds)
    return [
        Chart(
            id="used-memory",
            title="Memory",
            told=f"at most {size(peak)} of {size(job.memory_mb)}",
            axis=Axis.SECONDS,
            x=seconds,
            unit="MB",
            lines=[Line("used", memory), Line("limit", [job.memory_mb] * whole, "limit")],
        ),
        Chart(
            id="used-cpus",
            title="CPUs",
            told=f"at most {busiest:.2f} of {job.cpus:g}",
            axis=Axis.SECONDS,
            x=seconds,
            lines=[Line("used", series.cpus), Line("limit", [job.cpus] * whole, "limit")],
        ),
    ]


def _told(event: JobEvent) -> Happened:
    words = WORDS.get(event.name) or event.name.replace("_", " ").capitalize()
    reason = Reason(event.reason).value.replace("_", " ") if event.reason else ""
    detail = ": ".join(part for part in (reason, event.detail) if part)
    return Happened(event.at, words, detail, event.actor or "–", event.attempt)

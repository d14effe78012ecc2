"""What is asked again and again reads what is alive, not everything that ever was."""

from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from tests.fixtures.plans import plan_of
from training.models import Attempt
from training.services import claim, rows
from training.services.submit import jobs_alive


def held() -> QuerySet[Attempt]:
    return Attempt.objects.filter(finished_at=None, lease_owner=rows.SUPERVISOR).select_related(
        "job"
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda: list(held()),
        lambda: list(Attempt.objects.filter(finished_at=None)),
        lambda: jobs_alive(owner="ada", experiment="churn"),
        claim.room_left,
        claim.next_in_line,
    ],
    ids=["held", "open", "caps", "room", "next"],
)
def test_no_plan_reads_all_jobs(db: Any, ask: Any):
    with CaptureQueriesContext(connection) as asked:
        ask()
    for query in asked.captured_queries:
        if not query["sql"].startswith("SELECT"):
            continue
        plan = plan_of(query["sql"])
        assert not plan.reads_all_of("training_job"), plan
        assert not plan.uses("job_by_owner") and not plan.uses("job_by_experiment"), plan

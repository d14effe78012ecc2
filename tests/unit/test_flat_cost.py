"""What is asked again and again reads what is alive, not everything that ever was."""

from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from training.models import Attempt
from training.services import claim, rows
from training.services.submit import jobs_alive


def plan_of(sql: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        return [str(row[3]) for row in cursor.fetchall()]


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
    if connection.vendor != "sqlite":
        pytest.skip("The plan of SQLite; PostgreSQL's depends on how much there is.")
    with CaptureQueriesContext(connection) as asked:
        ask()
    for query in asked.captured_queries:
        if not query["sql"].startswith("SELECT"):
            continue
        plan = plan_of(query["sql"])
        for step in plan:
            assert "SCAN training_job" not in step, plan
            assert "(owner=?" not in step and "(experiment_name=?" not in step, plan

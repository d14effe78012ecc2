"""The part of `bench.console` that runs inside Django, in a process of its own, and prints JSON.

`python -m bench.console_pages cost --repeats 15` measures every page of the installation that the
variables name; `… log --mb 100` gives one of its jobs a log of that size, and prints its id.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import django
from django.test import Client
from django.test.utils import CaptureQueriesContext

from deploy.demo import PEOPLE

LISTS = (
    *("status=failed", "reason=script_error", "experiment=churn", "owner=dana", "text=fraud"),
    *("tag=team%3Drisk", "date=24h"),
    *("experiment=churn&status=completed", "status=completed&text=eta"),
)
LINE = "step {number:>9}  loss 0.{number:07d}  {filler}\n"
FILLER = "the quick brown fox jumps over the lazy dog, again and again"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Cost:
    """What one page costs: `milliseconds` is the least, on a connection that is open:
    what else the machine does only adds."""

    title: str
    path: str
    milliseconds: float
    queries: int
    size: int


def costs(repeats: int) -> Iterator[Cost]:
    """Of each page and fragment, and of some filtered lists of jobs."""
    # After `django.setup`.
    from django.contrib.auth.models import User  # noqa: PLC0415

    from mlops_site.demo.pages import Answer, Page, pages_of  # noqa: PLC0415

    client = Client(SERVER_NAME="localhost", HTTP_ACCEPT="text/html")
    client.force_login(User.objects.get(username=PEOPLE["administrator"]))

    def get(path: str) -> Answer:
        answer = client.get(path)
        text = "" if answer.streaming else answer.content.decode()
        return Answer(answer.status_code, answer.headers.get("Content-Type", ""), text)

    roads = pages_of(get)
    jobs = "/admin/training/job/"
    lists = [Page("training_job_changelist", f"{jobs}?{query}", query) for query in LISTS]
    for page in [*roads.pages, *lists, *roads.fragments]:
        yield _cost(client, page.title, page.path, repeats)


def _cost(client: Client, title: str, path: str, repeats: int) -> Cost:
    from django.db import connection  # noqa: PLC0415

    client.get(path)
    with CaptureQueriesContext(connection) as captured:
        size = len(client.get(path).content)
    # At once: the next request forgets them.
    queries = len(captured)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        client.get(path)
        seconds.append(time.perf_counter() - began)
    return Cost(title, path, 1000 * min(seconds), queries, size)


def write_log(megabytes: int) -> str:
    """The newest completed job gets a log of that size in the place of its own; returns its id."""
    from mlops_site.demo.rows import chunks_of  # noqa: PLC0415
    from training.models import Attempt, LogChunk  # noqa: PLC0415

    attempt = Attempt.objects.filter(job__status="completed").latest("job__created_at")
    LogChunk.objects.filter(attempt=attempt).delete()
    line = len(LINE.format(number=0, filler=FILLER))
    text = "".join(
        LINE.format(number=number, filler=FILLER) for number in range(megabytes * MIB // line)
    )
    chunks = chunks_of(attempt, LogChunk.Part.RUN, text.encode())
    LogChunk.objects.bulk_create(chunks, batch_size=50)
    Attempt.objects.filter(pk=attempt.pk).update(log_bytes=len(text))
    return str(attempt.job_id)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["cost", "log"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--mb", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mlops_site.settings")
    django.setup()
    # What a page refuses is an answer here.
    logging.disable(logging.ERROR)
    if options.what == "log":
        print(json.dumps(write_log(options.mb)))
    else:
        print(json.dumps([asdict(cost) for cost in costs(options.repeats)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The script on the page of its job: the line that failed, and the ways that lead to it."""

import html
import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from tests.fixtures.people import somebody
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training import logs
from training.models import Job
from training.states import Reason

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("room")]
SCRIPT = "import os\n\nimport xgboost as xgb\nprint(os.sep)\n"
TRACEBACK = """Starting
Traceback (most recent call last):
  File "/job/train.py", line 4, in <module>
    print(os.sep)
  File "/env/site-packages/deep.py", line 1, in deep
    import numpy
ModuleNotFoundError: No module named 'numpy'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/job/train.py", line 3, in <module>
    import xgboost as xgb
ModuleNotFoundError: No module named 'xgboost'
"""


@pytest.fixture
def scientist() -> Client:
    return somebody("data scientist")


def failed(printed: str, *, script: str = SCRIPT, **changed: Any) -> Job:
    job = a_job(script=script, **changed)
    attempt = claimed()
    logs.append(attempt, "run", offset=0, data=printed.encode())
    ended(attempt, Reason.MISSING_MODULE)
    return job


def page_of(client: Client, job: Job) -> str:
    answer = client.get(reverse("admin:training_job_change", args=[job.pk]))
    assert answer.status_code == 200
    return answer.content.decode()


def shown(page: str) -> str:
    """The text of the script, with the marked line in brackets."""
    found = re.search(r"<pre data-python>\n(.*?)</pre>", page, re.S)
    assert found
    marked = re.sub(
        r'<span class="line is-error" id="script-line-\d+">(.*?)</span>', r"[\1]", found[1]
    )
    return html.unescape(marked)


def test_the_line_that_failed_is_marked_and_led_to(scientist: Client):
    page = page_of(scientist, failed(TRACEBACK))
    assert shown(page) == SCRIPT.replace("import xgboost as xgb", "[import xgboost as xgb]")
    assert page.count('href="#script-line-3"') == 2 and 'id="script-line-3"' in page


def test_what_is_refreshed_leads_there_too(scientist: Client):
    job = failed(TRACEBACK)
    piece = scientist.get(reverse("admin:training_job_one_now", args=[job.pk])).content.decode()
    assert 'href="#script-line-3"' in piece


@pytest.mark.parametrize(
    ("number", "marked"),
    [(1, "[a]\nb\n\nc"), (2, "a\n[b]\n\nc"), (3, "a\nb\n[]\nc"), (4, "a\nb\n\n[c]")],
)
def test_every_line_can_be_the_one(scientist: Client, number: int, marked: str):
    printed = f'  File "/job/train.py", line {number}\n'
    assert shown(page_of(scientist, failed(printed, script="a\nb\n\nc"))) == marked


@pytest.mark.parametrize(
    "printed",
    [
        "no traceback at all\n",
        '  File "/job/other.py", line 1, in <module>\n',
        '  File "/job/train.py", line 99, in <module>\n',
        '  File "/job/train.py", line 0, in <module>\n',
        '  File "/job/train.py", line 99999999999999999999\n',
        'he said: File "/job/train.py", line 1\n',
        TRACEBACK.replace("/job/", "/x/"),
    ],
)
def test_nothing_is_marked_that_is_no_line_of_the_script(scientist: Client, printed: str):
    page = page_of(scientist, failed(printed))
    assert shown(page) == SCRIPT and "is-error" not in page.partition("data-python")[2][:2000]


def test_a_script_that_begins_with_an_empty_line_keeps_it(scientist: Client):
    """HTML would take the first newline behind the tag for its own."""
    assert shown(page_of(scientist, a_job(script="\nx = 1\n"))) == "\nx = 1\n"


def test_a_marked_line_of_a_stranger_is_text(scientist: Client):
    script = "<script>alert(1)</script>\u202e\n"
    page = page_of(scientist, failed('  File "/job/train.py", line 1\n', script=script))
    assert "<script>alert" not in page and "\u202e" not in page
    assert shown(page).startswith("[<script>alert(1)</script>\\u202e]")


def test_finding_the_line_costs_one_query_more_at_most(scientist: Client):
    job = failed(TRACEBACK)
    with CaptureQueriesContext(connection) as queries:
        page_of(scientist, job)
    assert len(queries) <= 15


def test_requirements_stand_beside_the_versions_that_they_became(scientist: Client):
    job = a_job(requirements=("Scikit_Learn>=1", "six @ https://x.example/six.whl", "nothing"))
    Job.objects.update(environment_lock="scikit-learn==1.5.2\nnumpy==2.1.3\n")
    page = html.unescape(re.sub(r"<[^>]*>", " ", page_of(scientist, job)))
    assert "Scikit_Learn>=1 is 1.5.2" in " ".join(page.split())


@pytest.mark.parametrize(
    ("group", "changes"), [("viewer", False), ("data scientist", True), ("operator", True)]
)
def test_the_page_leads_to_a_rerun_for_who_may_and_to_a_comparison_for_all(
    group: str, changes: bool
):
    job = a_job()
    page = page_of(somebody(group), job)
    assert (f"{reverse('admin:job_new')}?from={job.pk}" in page) == changes
    assert f"{reverse('admin:job_compare')}?a=before&amp;b={job.pk}" in page

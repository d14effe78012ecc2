"""An installation in which nothing was done yet: a page says what it is for, and how to begin."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect

from deploy.browser import log_in, window
from deploy.demo import PEOPLE, Demo, demo
from tests.browser.visitor import Visitor, violations

Newcomer = Callable[[str], Visitor]
PHONE = {"width": 390, "height": 844}
JOBS = "/admin/training/job/"
RUN = "Run the example"
# What a page is about, and what somebody is told who finds it empty.
EMPTY = {
    JOBS: "No job yet",
    "/admin/models/": "No model yet",
    "/admin/features/": "The feature store is being read",
    "/admin/training/builtenvironment/": "No environment yet",
    "/admin/inference/batchprediction/": "No batch prediction yet",
    "/admin/queue/": "Nothing runs or waits",
}
BEGINS = (JOBS, "/admin/models/", "/admin/training/builtenvironment/")


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("first-day") / "var", jobs=0) as made:
        yield made


@pytest.fixture(scope="module")
def newcomer(chromium: Browser, first_day: Demo) -> Iterator[Newcomer]:
    """The same window each time, of somebody of a group."""
    kept = {group: log_in(chromium, first_day.url, PEOPLE[group]) for group in PEOPLE}
    with (
        window(chromium, storage_state=kept["viewer"]) as looks,
        window(chromium, storage_state=kept["data scientist"]) as works,
    ):
        visitors = {
            "viewer": Visitor(looks.new_page(), url=first_day.url),
            "data scientist": Visitor(works.new_page(), url=first_day.url),
        }
        yield lambda group: visitors[group]


def test_the_first_page_has_the_call_of_this_very_installation(newcomer: Newcomer):
    visitor = newcomer("data scientist")
    visitor.goto("/admin/")
    steps = visitor.page.get_by_role("region", name="First steps")
    expect(steps.get_by_label("Upload with curl")).to_contain_text(
        f"curl -X POST {visitor.url}/mlops/training/upload"
    )
    expect(steps.get_by_role("button", name=RUN)).to_be_visible()
    assert visitor.problems == []


def test_who_may_send_no_job_is_told_whom_to_ask(newcomer: Newcomer):
    visitor = newcomer("viewer")
    visitor.goto("/admin/")
    steps = visitor.page.get_by_role("region", name="First steps")
    expect(steps).to_contain_text("ask an administrator")
    assert visitor.button(RUN).count() == 0


@pytest.mark.parametrize("path", EMPTY)
def test_a_page_with_nothing_on_it_says_what_comes_there(newcomer: Newcomer, path: str):
    visitor = newcomer("data scientist")
    visitor.goto(path)
    expect(visitor.page.get_by_role("heading", name=EMPTY[path])).to_be_visible()
    visitor.page.set_viewport_size(PHONE)
    assert visitor.overflow() <= 0, visitor.wide()
    assert violations(visitor.page) == []
    assert visitor.problems == []


@pytest.mark.parametrize("path", BEGINS)
def test_it_can_be_begun_from_there(newcomer: Newcomer, path: str):
    visitor = newcomer("data scientist")
    visitor.goto(path)
    expect(visitor.button(RUN)).to_be_visible()
    expect(visitor.page.locator("main").get_by_role("link", name="First steps")).to_be_visible()


# The last one here: from then on there is a job.
def test_the_example_is_sent_with_one_button_and_then_nothing_is_taught_any_more(
    newcomer: Newcomer,
):
    visitor = newcomer("data scientist")
    visitor.goto(JOBS)
    visitor.button(RUN).click()
    visitor.page.wait_for_url(re.compile(r"/admin/training/job/[0-9a-f-]{36}/change/"))
    expect(visitor.page.locator("#job-head")).to_contain_text("Waiting")
    visitor.goto("/admin/")
    expect(visitor.page.get_by_role("region", name="First steps")).to_have_count(0)
    assert visitor.problems == []

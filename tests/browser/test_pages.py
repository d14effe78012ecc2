"""Every page of the console: it asks nobody else, complains of nothing, fits, and can be read."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext

from deploy.demo import Demo
from mlops_site.console.nav import PLACES
from mlops_site.demo.pages import Page, Roads, name_of
from tests.browser.visitor import Visitor, unreadable, violations

# The desk first: what is looked at there is looked at again on a phone, when all has come.
DESK, WALL, PHONE = 1440, 3840, 360
# What a person finds who looks for it: pages that were there when this was written.
AT_LEAST = {
    *(
        "index",
        "password_change",
        "auth_user_delete",
        "training_job_changelist",
        "training_job_change",
    ),
    *("auth_user_changelist", "auth_user_add", "auth_user_change"),
    *("inference_modelserver_changelist", "inference_aliaschange_changelist"),
}


@pytest.fixture(scope="module")
def visitor(console: Demo, windows: dict[str, BrowserContext]) -> Iterator[Visitor]:
    page = windows["administrator"].new_page()
    yield Visitor(page, url=console.url)
    page.close()


def test_no_link_of_the_console_leads_to_nothing(roads: Roads):
    assert roads.broken == {}
    assert {page.name for page in roads.pages} >= AT_LEAST


def test_every_place_in_the_navigation_is_among_the_pages(pages: list[Page]):
    names = {place.page.removeprefix("admin:") for places in PLACES.values() for place in places}
    assert names - {page.name for page in pages} <= {"docs"}


def test_every_page_is_quiet_fits_and_can_be_read_by_everybody(
    pages: list[Page], visitor: Visitor, subtests: pytest.Subtests
):
    """Zero violations that axe calls serious or critical, in both themes."""
    for page in pages:
        visitor.problems.clear()
        visitor.turn("light")
        visitor.goto(page.path)
        with subtests.test(page=page.path, what="title and heading"):
            assert visitor.page.title().strip()
            assert visitor.page.locator("h1").count() == 1
        for width in (DESK, WALL, PHONE):
            visitor.page.set_viewport_size({"width": width, "height": 900})
            with subtests.test(page=page.path, what=f"{width} pixels"):
                assert visitor.overflow() <= 0, visitor.wide()
            if width == DESK:
                with subtests.test(page=page.path, what="light"):
                    assert violations(visitor.page) == []
                visitor.turn("dark")
                with subtests.test(page=page.path, what="dark"):
                    assert unreadable(visitor.page) == []
        with subtests.test(page=page.path, what="console and requests"):
            assert visitor.problems == []


def test_the_login_page_is_one_of_them(console: Demo, chromium):
    context = chromium.new_context()
    visitor = Visitor(context.new_page(), url=console.url)
    for width in (DESK, WALL, PHONE):
        visitor.page.set_viewport_size({"width": width, "height": 900})
        visitor.goto("/admin/login/")
        assert visitor.overflow() <= 0, visitor.wide()
    assert violations(visitor.page) == []
    assert visitor.problems == []
    context.close()


@pytest.mark.parametrize("path", ["/admin/nothing/here/", "/admin/training/job/nothing/change/"])
def test_an_error_page_can_be_read_and_leads_back(visitor: Visitor, path: str):
    visitor.page.set_viewport_size({"width": PHONE, "height": 800})
    visitor.goto(path)
    assert visitor.overflow() <= 0, visitor.wide()
    assert violations(visitor.page) == []
    visitor.page.get_by_role("link", name="Home").first.click()
    assert name_of(visitor.path) == "index"

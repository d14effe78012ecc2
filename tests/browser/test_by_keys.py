"""The console without a mouse: past the navigation, from page to page, into a dialog and back."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from mlops_site.console.nav import PLACES
from mlops_site.demo.pages import name_of
from tests.browser.visitor import Visitor

Someone = Callable[..., Visitor]
JOBS = "/admin/training/job/"
PAGES = ("/admin/", JOBS, "/admin/models/", "/admin/features/", "/admin/queue/", "/admin/audit/")
KEYS = {
    place.key: place.page.removeprefix("admin:")
    for places in PLACES.values()
    for place in places
    if place.key
}


def focused(visitor: Visitor) -> str:
    """The words of what has the focus, or else its name or its element's."""
    words = visitor.page.evaluate(
        "(({innerText, id, tagName}) => innerText || id || tagName)(document.activeElement)"
    )
    return str(words).strip()


@pytest.mark.parametrize("path", PAGES)
def test_the_first_tab_leads_past_the_navigation(someone: Someone, path: str):
    visitor = someone("administrator")
    visitor.goto(path)
    visitor.press("Tab")
    expect(visitor.link("Skip to content")).to_be_focused()
    expect(visitor.link("Skip to content")).to_be_in_viewport()
    visitor.press("Enter")
    expect(visitor.page.locator("main")).to_be_focused()
    visitor.press("Tab")
    assert visitor.page.evaluate("document.activeElement.closest('main') !== null")


def test_each_place_has_the_keys_that_the_list_of_keys_tells(someone: Someone):
    visitor = someone("administrator")
    visitor.goto("/admin/")
    visitor.press("?")
    told = visitor.page.get_by_role("dialog", name="Keyboard")
    for key, page in KEYS.items():
        expect(told.locator("kbd").get_by_text(key, exact=True).first).to_be_visible()
        visitor.goto("/admin/settings/")
        visitor.press(f"g {key}")
        visitor.page.wait_for_url(lambda url: not url.endswith("/settings/"))
        assert name_of(visitor.path) == page
        visitor.press("?")
    assert visitor.problems == []


def test_the_list_of_keys_gives_the_focus_back(someone: Someone):
    visitor = someone()
    visitor.goto(JOBS)
    visitor.page.get_by_role("link", name="New job").last.focus()
    visitor.press("?")
    expect(visitor.page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    visitor.press("Enter")
    expect(visitor.page.get_by_role("dialog", name="Keyboard")).to_be_hidden()
    assert focused(visitor) == "New job"


@pytest.mark.parametrize(
    ("path", "button"),
    [
        ("/admin/queue/", "Pause admission…"),
        ("/admin/models/churn_predictor/", "Scale…"),
        ("/admin/features/", "Materialise all now…"),
        (f"{JOBS}?status=running", "Cancel…"),
    ],
)
def test_a_dialog_begins_at_the_harmless_button_and_gives_the_focus_back(
    someone: Someone, path: str, button: str
):
    visitor = someone()
    visitor.goto(path)
    if "status=" in path:
        visitor.press("j x")
    visitor.page.locator("main .btn").filter(has_text=button).first.focus()
    visitor.press("Enter")
    asked = visitor.page.get_by_role("dialog")
    expect(asked).to_be_visible()
    within = "document.activeElement.closest('dialog') !== null"
    assert visitor.page.evaluate(within)
    assert not re.search("Pause|Cancel 1|Materialise", focused(visitor))
    for _ in range(8):
        visitor.press("Tab")
        outside = (
            "document.activeElement !== document.body && !document.activeElement.closest('dialog')"
        )
        assert not visitor.page.evaluate(outside)
    visitor.press("Escape")
    expect(asked).to_have_count(0)
    assert focused(visitor) == button
    assert visitor.problems == []


def test_a_row_is_opened_and_a_job_asked_about_by_keys_alone(someone: Someone):
    visitor = someone()
    visitor.goto(f"{JOBS}?status=running")
    visitor.press("j o")
    visitor.page.wait_for_url(re.compile(r"/change/"))
    visitor.button("Cancel…").focus()
    visitor.press("Space")
    expect(visitor.page.get_by_role("dialog")).to_contain_text("Cancel")
    visitor.press("Escape")
    expect(visitor.button("Cancel…")).to_be_focused()

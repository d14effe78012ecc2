"""Every page for each of the four groups: open to whom it should be, and no link to what is not."""

import re
from collections import Counter

import pytest
from playwright.sync_api import BrowserContext

from deploy.demo import PEOPLE, Demo
from mlops_site.console.nav import PLACES
from mlops_site.demo.pages import Page, links_in, name_of
from mlops_site.rights import HOLDS, OPENS_CONSOLE, ROLES

# Of links to one kind of page so many are tried.
ALIKE = 3
GROUPS = tuple(PEOPLE)
# The page of a row and the list that it stands in are opened by one right.
OF_A_MODEL = re.compile(r"(auth|inference|mlops_site|registry|training)_([a-z]+)_(\w+)")
ACTIONS = {"add": "add", "delete": "delete", "password_change": "change"}
# Whoever is logged in may.
# What one asks of the whole platform takes more than seeing it.
PARTICULAR = {"queue_ask": HOLDS}
FREE = {"password_change", "password_change_done", "login"}
OF_A_PLACE = {
    place.page.removeprefix("admin:"): place.right
    for places in PLACES.values()
    for place in places
    if place.right
}
PERMISSIONS = {role.name: role.permissions for role in ROLES}


def right_to(page: Page) -> str:
    """The permission that opens it, empty where none is needed."""
    if page.name in FREE:
        return ""
    if page.name in PARTICULAR:
        return PARTICULAR[page.name]
    if page.name in OF_A_PLACE:
        return OF_A_PLACE[page.name]
    of_a_model = OF_A_MODEL.fullmatch(page.name)
    if of_a_model is None:
        return OPENS_CONSOLE
    app, model, what = of_a_model.groups()
    return f"{app}.{ACTIONS.get(what, 'view')}_{model}"


def is_open(page: Page, group: str) -> bool:
    if page.name == "app_list":
        app = page.path.split("/")[2]
        return any(right.startswith(f"{app}.view") for right in PERMISSIONS[group])
    right = right_to(page)
    return not right or right in PERMISSIONS[group]


@pytest.mark.parametrize("group", GROUPS)
def test_each_page_is_open_to_whom_it_should_be(
    group: str,
    pages: list[Page],
    console: Demo,
    windows: dict[str, BrowserContext],
    subtests: pytest.Subtests,
):
    for page in pages:
        with subtests.test(page=page.path):
            answer = windows[group].request.get(console.url + page.path, max_redirects=0)
            assert (answer.status == 200) == is_open(page, group)
            assert answer.status in (200, 403, 404)


@pytest.mark.parametrize("group", GROUPS)
def test_no_page_shows_a_link_that_this_person_may_not_follow(
    group: str, pages: list[Page], console: Demo, windows: dict[str, BrowserContext]
):
    request, known, led_astray = windows[group].request, set[str](), {}
    kinds = Counter[str]()
    for page in (page for page in pages if is_open(page, group)):
        links = set(links_in(request.get(console.url + page.path).text())) - known
        known |= links
        for link in links:
            kinds[name_of(link)] += 1
            if kinds[name_of(link)] > ALIKE:
                continue
            status = request.get(console.url + link).status
            if status != 200:
                led_astray[link] = (page.path, status)
    assert led_astray == {}


def test_a_stranger_is_led_to_the_login_page_from_each_of_them(
    pages: list[Page], console: Demo, chromium
):
    context = chromium.new_context()
    for page in pages:
        answer = context.request.get(console.url + page.path, max_redirects=0)
        is_login = page.name == "login"
        assert is_login or "/admin/login/" in answer.headers.get("location", ""), page
    context.close()

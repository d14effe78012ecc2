"""A real Chromium, a console full of rows, and one person of each group signed in to it."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, StorageState, expect

from deploy import browser
from deploy.browser import ANSWER_MILLISECONDS, log_in, window
from deploy.demo import PEOPLE, Demo, demo
from deploy.report import Stop
from mlops_site.demo.pages import Answer, Page, Roads, pages_of
from tests.browser.visitor import Visitor

# More than one page of a list, and some of every status.
JOBS = 70
# On a machine that runs all other tests beside these.
expect.set_options(timeout=ANSWER_MILLISECONDS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """A test that fails shows what stood on the pages that it looked at."""
    report = yield
    if report.when == "call" and report.failed:
        for name, one in getattr(item, "funcargs", {}).items():
            if isinstance(one, Visitor):
                report.sections.append((f"what {name} saw", one.seen()))
    return report


# Ended with this folder: while Playwright runs, its loop is in the way of Django's own calls.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(browser.chromium())
        except Stop as stop:
            pytest.fail(str(stop))
        yield opened


@pytest.fixture(scope="package")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A console full of rows. Nothing runs: what a page shows stays as it is."""
    with demo(tmp_path_factory.mktemp("console") / "var", jobs=JOBS) as made:
        yield made


@pytest.fixture(autouse=True)
def what_the_console_said(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shown with a test that fails."""
    yield
    if "console" in request.fixturenames and "console" in request.node.funcargs:
        print(request.node.funcargs["console"].said())


@pytest.fixture(scope="package")
def sessions(chromium: Browser, console: Demo) -> dict[str, StorageState]:
    """What a browser keeps of somebody of each group who has logged in."""
    return {group: log_in(chromium, console.url, name) for group, name in PEOPLE.items()}


@pytest.fixture
def someone(
    chromium: Browser, console: Demo, sessions: dict[str, StorageState]
) -> Iterator[Callable[..., Visitor]]:
    """Opens a browser window of somebody of a group; options are Playwright's."""
    with ExitStack() as opened:

        def open_window(group: str = "operator", **options: Any) -> Visitor:
            wanted = {"storage_state": sessions[group], **options}
            context = opened.enter_context(window(chromium, **wanted))
            return Visitor(context.new_page(), url=console.url)

        yield open_window


@pytest.fixture(scope="package")
def windows(
    chromium: Browser, console: Demo, sessions: dict[str, StorageState]
) -> Iterator[dict[str, BrowserContext]]:
    """One for each group, for what only asks and changes nothing."""
    with ExitStack() as opened:
        yield {
            group: opened.enter_context(window(chromium, storage_state=kept))
            for group, kept in sessions.items()
        }


@pytest.fixture(scope="package")
def roads(console: Demo, windows: dict[str, BrowserContext]) -> Roads:
    """Where the links of the console lead, as an administrator finds them."""
    request = windows["administrator"].request

    def get(path: str) -> Answer:
        answer = request.get(console.url + path, max_redirects=0)
        return Answer(answer.status, answer.headers.get("content-type", ""), answer.text())

    return pages_of(get)


@pytest.fixture(scope="package")
def pages(roads: Roads) -> list[Page]:
    return roads.pages

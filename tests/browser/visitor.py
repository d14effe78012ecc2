"""A page of a real browser that remembers what went wrong on it."""

from contextlib import suppress
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Error, Locator, Page, Request, Response

# The connection of a log that is followed ends with the page it is on.
LEFT = ("net::ERR_ABORTED",)
# What follows looks like what stands before it; looking at all of it takes most of the time.
ALIKE = [
    ["tbody tr:nth-child(n+9)"],
    ["[data-log-lines] li:nth-child(n+12)"],
    ["select option:nth-child(n+9)"],
]
COLOURS = ("color-contrast", "link-in-text-block")
# It would fetch what stylesheets import once more, and from where they are not.
AXE: dict[str, Any] = {"preload": False, "resultTypes": ["violations"]}


class Visitor:
    """`problems`: what the browser's console complained of, what a page asked of others than us,
    and what it asked of us and did not get."""

    def __init__(self, page: Page, *, url: str) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        self._origin = urlsplit(url).netloc
        page.on("console", self._note_console)
        page.on("pageerror", self._note_error)
        page.on("request", self._note_request)
        page.on("requestfailed", self._note_failure)
        page.on("response", self._note_response)

    def goto(self, path: str) -> None:
        self.page.goto(self.url + path, wait_until="load")

    def settled(self) -> "Visitor":
        """Once everything that the page asked for by itself is there."""
        with suppress(Error):
            # A followed log is never quiet.
            self.page.wait_for_load_state("networkidle", timeout=1500)
        return self

    def seen(self) -> str:
        """The words of the page, for whoever reads of a failure."""
        try:
            words = self.page.locator("main").inner_text(timeout=1000)
        except Error as error:
            words = f"nothing: {error.message}"
        return f"{self.page.url}\n{words[:4000]}"

    @property
    def path(self) -> str:
        return urlsplit(self.page.url).path

    def turn(self, scheme: Literal["light", "dark"]) -> None:
        """As if the whole system had that theme; colours do not fade on their way."""
        self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        self.page.evaluate("document.getAnimations().forEach((one) => one.finish())")

    def h1(self) -> str:
        return self.page.locator("h1").first.inner_text()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name)

    def press(self, keys: str) -> None:
        """One after the other."""
        for key in keys.split():
            self.page.keyboard.press(key)

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(
            self.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
        )

    def wide(self) -> list[str]:
        """What stands out of the window to the right, outermost first."""
        return list(self.page.evaluate(STANDS_OUT))

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text}")

    def _note_error(self, error: Error) -> None:
        self.problems.append(f"script: {error.message}")

    def _note_request(self, request: Request) -> None:
        asked = urlsplit(request.url)
        if asked.scheme not in ("data", "blob", "about") and asked.netloc != self._origin:
            self.problems.append(f"asked another host: {request.url}")

    def _note_failure(self, request: Request) -> None:
        if request.failure not in LEFT:
            self.problems.append(f"failed: {request.url}: {request.failure}")

    def _note_response(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")


STANDS_OUT = """() => {
  const width = document.documentElement.clientWidth, found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if (box.right <= width + 1 || box.width === 0) continue;
    let scrolls = false;
    for (let above = element.parentElement; above; above = above.parentElement)
      scrolls ||= getComputedStyle(above).overflowX !== "visible";
    if (!scrolls) found.push(element.outerHTML.slice(0, 90));
  }
  return found.slice(0, 3);
}"""


def violations(page: Page) -> list[str]:
    """What axe calls serious or critical, with where it is."""
    return _found(page, AXE)


def unreadable(page: Page) -> list[str]:
    """The same of colours alone: all that another theme changes."""
    return _found(page, {**AXE, "runOnly": list(COLOURS)})


def _found(page: Page, options: dict[str, Any]) -> list[str]:
    answer = Axe().run(page, context={"exclude": ALIKE}, options=options)
    return [
        f"{found['id']} ({found['impact']}): {found['nodes'][0]['html'][:160]}"
        for found in answer.response["violations"]
        if found["impact"] in ("serious", "critical")
    ]

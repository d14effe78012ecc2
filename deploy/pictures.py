"""`make screenshots`: the pictures of `docs/CONSOLE.md`, taken of a console full of rows.

Each page in both themes, in few colours, so that all of them together stay small.
"""

import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin

from PIL import Image
from playwright.sync_api import Browser, Page, StorageState

from deploy.accounts import CHECKOUT
from deploy.browser import DESK, chromium, ensure_chromium, log_in, window
from deploy.demo import PEOPLE, Demo, demo
from deploy.report import Stop, step

FOLDER = CHECKOUT / "docs" / "images"
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
JOBS = 700
PHONE = {"width": 390, "height": 844}
COLOURS = 96
JOBS_PAGE = "/admin/training/job/"
MODEL = "/admin/models/churn_predictor/"
JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
LOG_IS_READ = "() => !document.querySelector('[data-log-state]').textContent.includes('Loading')"


@dataclass(frozen=True)
class Picture:
    """`show` brings a page to where the picture is taken, from the address `path`."""

    name: str
    path: str
    show: Callable[[Page], None] = lambda page: None
    is_phone: bool = False
    group: str = "operator"

    def file(self, theme: str) -> Path:
        return FOLDER / f"{self.name}-{theme}.png"


def _first_job(page: Page) -> None:
    page.locator("[data-list] tbody .lead a").first.click()
    page.wait_for_load_state()
    page.wait_for_function(LOG_IS_READ)


def _ask_to_cancel(page: Page) -> None:
    for number in range(3):
        page.locator("[data-list] tbody .pick input").nth(number).check()
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("dialog").wait_for()


def _dry_run(page: Page) -> None:
    page.locator("#verdict .status").wait_for()


def _compare(page: Page) -> None:
    """The jobs of two versions."""
    newer = page.locator("#origin-script").get_attribute("href") or ""
    page.get_by_role("link", name="Version 7", exact=True).click()
    page.wait_for_load_state()
    older = page.locator("#origin-script").get_attribute("href") or ""
    jobs = [JOB_ID.findall(address)[0] for address in (older, newer)]
    page.goto(urljoin(page.url, f"/admin/jobs/compare/?a={jobs[0]}&b={jobs[1]}"))


def _to_the_end(page: Page) -> None:
    page.locator("canvas").first.wait_for()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")


def _second_environment(page: Page) -> None:
    page.locator("tbody .lead a").nth(1).click()
    page.wait_for_load_state()


PICTURES = (
    Picture("home", "/admin/"),
    Picture("home-charts", "/admin/", _to_the_end),
    Picture("jobs", JOBS_PAGE),
    Picture("jobs-ask", f"{JOBS_PAGE}?status=running", _ask_to_cancel),
    Picture("job-running", f"{JOBS_PAGE}?status=running&experiment=credit-risk", _first_job),
    Picture("job-failed", f"{JOBS_PAGE}?reason=script_error", _first_job),
    Picture("new-job", "/admin/jobs/new/?example=sklearn", _dry_run),
    Picture("compare", f"{MODEL}versions/8/", _compare),
    Picture("models", "/admin/models/"),
    Picture("model", MODEL),
    Picture("model-version", f"{MODEL}versions/7/"),
    Picture("environments", "/admin/training/builtenvironment/"),
    Picture("environment", "/admin/training/builtenvironment/", _second_environment),
    Picture("features", "/admin/features/"),
    Picture("queue", "/admin/queue/"),
    Picture("audit", "/admin/audit/", group="administrator"),
    Picture("phone-home", "/admin/", is_phone=True),
    Picture("phone-job", f"{JOBS_PAGE}?reason=script_error", _first_job, is_phone=True),
)


def take_all(made: Demo, browser: Browser) -> None:
    groups = {picture.group for picture in PICTURES}
    kept = {group: log_in(browser, made.url, PEOPLE[group]) for group in sorted(groups)}
    for picture in PICTURES:
        step(picture.name)
        for theme in THEMES:
            _take(made, browser, picture, theme=theme, kept=kept[picture.group])


def _take(
    made: Demo,
    browser: Browser,
    picture: Picture,
    *,
    theme: Literal["light", "dark"],
    kept: StorageState,
) -> None:
    size = PHONE if picture.is_phone else DESK
    with window(browser, storage_state=kept, viewport=size, color_scheme=theme) as context:
        page = context.new_page()
        page.goto(made.url + picture.path)
        picture.show(page)
        shot = Image.open(BytesIO(page.screenshot(animations="disabled", caret="hide")))
        few = shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        few.save(picture.file(theme), optimize=True)


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    try:
        ensure_chromium()
        with (
            tempfile.TemporaryDirectory(prefix="mlops-pictures-") as folder,
            demo(Path(folder) / "var", jobs=JOBS) as made,
            chromium() as browser,
        ):
            take_all(made, browser)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    total = sum(path.stat().st_size for path in FOLDER.glob("*.png"))
    step(f"{len(PICTURES)} pages in both themes: {total / 1_000_000:.1f} MB in {FOLDER.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())

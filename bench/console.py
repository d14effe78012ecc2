"""What the console costs: `python -m bench.console` prints a table for each part.

pages: each page and each fragment that refreshes one, in an installation of a thousand jobs and in
one of a million: the server's time without a network, queries, bytes. log: a log of 100 MB in
Chromium. pixel: how long a line takes from `print` to the screen, on a platform with a Docker
Engine. Every installation is made for this run and removed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page

from bench.console_pages import Cost
from bench.figures import Bar, Figure, table
from bench.platforms import own_platform
from deploy.accounts import CHECKOUT
from deploy.browser import chromium, log_in, window
from deploy.demo import PEOPLE, Demo, demo, make_people
from deploy.report import step
from deploy.servers import postgresql
from sandbox.engine import Engine

SIZES = (1_000, 1_000_000)
QUERIES_MOST, RATIO_MOST = 15, 1.5
# A difference of less is the machine's own unrest.
UNREST_MILLISECONDS = 2.0
ROUNDS, REPEATS = 3, 7
LOG_MB, EARLIER_CLICKS = 100, 60
PAINT_SECONDS, LOG_SECONDS, TAB_MB = 1.0, 2.0, 300
TICKS, TICK_SECONDS, PIXEL_SECONDS = 40, 0.25, 1.0
COLUMNS = ("page", "queries", "", "ms", "", "ratio", "bytes", "", "")
MIB = 1024 * 1024
TICKER = f"""
import threading, time
for number in range({TICKS}):
    print(f"tick {{number}} {{time.time():.6f}}", flush=True)
    threading.Event().wait({TICK_SECONDS})
"""
# When each tick was drawn, by the clock that the container has too.
WATCH = """() => {
  window.drawn = {};
  const look = () => {
    const printed = document.querySelector("[data-log-lines]").textContent;
    const found = printed.matchAll(/tick (\\d+) ([\\d.]{17})/g);
    for (const [, number, at] of found) {
      if (number in window.drawn) continue;
      window.drawn[number] = 0;
      requestAnimationFrame(() => requestAnimationFrame(() => {
        window.drawn[number] = Date.now() / 1000 - Number(at);
      }));
    }
  };
  new MutationObserver(look).observe(document.querySelector("[data-log-lines]"),
    { childList: true, characterData: true, subtree: true });
}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES, metavar="JOBS")
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help="in each round; the fastest counts"
    )
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--log-mb", type=int, default=LOG_MB)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    met = [PARTS[name](options) for name in options.parts or PARTS]
    return 0 if all(met) else 1


# -- pages ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Compared:
    """One page at both sizes."""

    small: Cost
    large: Cost

    @property
    def ratio(self) -> float:
        return self.large.milliseconds / self.small.milliseconds

    @property
    def misses(self) -> str:
        """What of it is not as it should be, in a word or two."""
        more = self.large.milliseconds - self.small.milliseconds
        said = {
            "many queries": self.large.queries > QUERIES_MOST,
            "more queries": self.large.queries > self.small.queries,
            "slower": self.ratio > RATIO_MOST and more > UNREST_MILLISECONDS,
        }
        return ", ".join(words for words, is_so in said.items() if is_so)

    def cells(self) -> tuple[str, ...]:
        small, large = self.small, self.large
        return (
            small.title,
            *(str(small.queries), str(large.queries)),
            *(f"{small.milliseconds:.1f}", f"{large.milliseconds:.1f}", f"{self.ratio:.2f}×"),
            *(f"{small.size:,}", f"{large.size:,}"),
            f"MISSED: {self.misses}" if self.misses else "",
        )


def _pages(options: argparse.Namespace) -> bool:
    """Both sizes by turns, so that what else the machine does weighs on both."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(_console(size, database=options.database))
            for size in sorted(options.sizes)
        ]
        step(f"{ROUNDS} rounds, {options.repeats} times each page")
        rounds = [[_costs(one, options.repeats) for one in made] for _ in range(ROUNDS)]
    small, large = (_least(costs) for costs in zip(*rounds, strict=True))
    compared = [Compared(small[title], large[title]) for title in small if title in large]
    few, many = sorted(options.sizes)
    print(f"\nEach at {few:,} and at {many:,} jobs, {options.database}")
    print(_table([COLUMNS, *(one.cells() for one in compared)]))
    for title in sorted(small.keys() ^ large.keys()):
        print(f"Not compared, since it is not there at both sizes: {title}")
    missed = sum(bool(one.misses) for one in compared)
    print(
        f"{len(compared)} pages and fragments, {missed} missed: at most {QUERIES_MOST} queries, "
        f"as many at both sizes, and {RATIO_MOST:g} times the time\n"
    )
    return missed == 0


def _costs(made: Demo, repeats: int) -> dict[str, Cost]:
    told = _inside(made, "cost", "--repeats", str(repeats))
    return {cost["title"]: Cost(**cost) for cost in told}


def _least(rounds: Sequence[dict[str, Cost]]) -> dict[str, Cost]:
    """Of each page the round that was disturbed least."""
    titles = set(rounds[0]).intersection(*rounds)
    return {
        title: min((costs[title] for costs in rounds), key=lambda cost: cost.milliseconds)
        for title in rounds[0]
        if title in titles
    }


@contextmanager
def _console(jobs: int, *, database: str) -> Iterator[Demo]:
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlops-bench-")))
        variables = {}
        if database == "postgresql":
            variables["DATABASE_URL"] = stack.enter_context(postgresql(folder / "rows")).url
        made = stack.enter_context(demo(folder / "var", jobs=jobs, variables=variables))
        step(f"{jobs:,} jobs were made in {time.monotonic() - began:.0f} s")
        yield made


def _inside(made: Demo, *words: str) -> Any:
    """What `bench.console_pages` prints of this installation."""
    command = [sys.executable, "-m", "bench.console_pages", *words]
    environment = {**os.environ, **made.variables}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if 0 < column < len(row) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


# -- a long log ----------------------------------------------------------------------------------
def _log(options: argparse.Namespace) -> bool:
    with _console(60, database="sqlite") as made:
        short = _inside(made, "log", "--mb", "0")
        with chromium() as browser:
            floor = _looked_at(browser, made, short, clicks=0)
        job = _inside(made, "log", "--mb", str(options.log_mb))
        with chromium() as browser:
            long = _looked_at(browser, made, job, clicks=EARLIER_CLICKS)
    names = f"log of {options.log_mb} MB"

    def memory(when: str, megabytes: float) -> Figure:
        bar, floor_is = Bar(TAB_MB), "the page of a job without a log"
        name = f"{names}: memory of the tab {when}"
        return Figure(name, "MB", megabytes, floor.megabytes, floor_is=floor_is, bar=bar)

    return _told(
        [
            Figure(f"{names}: first paint", "s", long.paint, floor.paint, bar=Bar(PAINT_SECONDS)),
            Figure(f"{names}: its last line is there", "s", long.there, bar=Bar(LOG_SECONDS)),
            memory("with its end", long.at_first),
            memory(f"after {EARLIER_CLICKS} times earlier lines", long.megabytes),
            Figure(f"{names}: lines in the page", "", long.lines),
        ]
    )


@dataclass(frozen=True)
class _Look:
    """Seconds since the page was asked for, and what its tab holds in the end."""

    paint: float
    there: float
    at_first: float
    megabytes: float
    lines: float


def _looked_at(browser: Browser, made: Demo, job: str, *, clicks: int) -> _Look:
    kept = log_in(browser, made.url, PEOPLE["operator"])
    with window(browser, storage_state=kept) as context:
        page = context.new_page()
        page.goto(f"{made.url}/admin/training/job/{job}/change/")
        page.wait_for_function(
            "() => !document.querySelector('[data-log-state]').textContent.includes('Loading')"
        )
        there = float(page.evaluate("performance.now()")) / 1000
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        at_first = _tab_megabytes(browser, page)
        for _ in range(clicks):
            _read_earlier(page)
        lines = page.locator("[data-log-lines] li").count()
        return _Look(float(paint) / 1000, there, at_first, _tab_megabytes(browser, page), lines)


def _read_earlier(page: Page) -> None:
    first = page.locator("[data-log-lines] li").first.get_attribute("id")
    page.get_by_role("button", name="Load earlier lines").click()
    page.wait_for_function(
        "(first) => document.querySelector('[data-log-lines] li').id !== first", arg=first
    )


def _tab_megabytes(browser: Browser, page: Page) -> float:
    """What only the fullest of its processes that draw pages has in memory, without garbage."""
    page.context.new_cdp_session(page).send("HeapProfiler.collectGarbage")
    session = browser.new_browser_cdp_session()
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    drawing = [psutil.Process(one["id"]) for one in found if one["type"] == "renderer"]
    return max(process.memory_full_info().uss for process in drawing) / MIB


# -- from print to pixel ---------------------------------------------------------------------------
def _pixel(options: argparse.Namespace) -> bool:
    with own_platform(Engine.connect()) as platform, chromium() as browser:
        make_people(platform.home)
        # Builds the environment.
        platform.run("print('ready')")
        kept = log_in(browser, platform.url, PEOPLE["operator"])
        with window(browser, storage_state=kept) as context:
            page = context.new_page()
            job = platform.upload(TICKER)
            page.goto(f"{platform.url}/admin/training/job/{job}/change/")
            page.evaluate(WATCH)
            page.wait_for_function(
                f"() => window.drawn[{TICKS - 1}] > 0", timeout=1000 * (60 + TICKS * TICK_SECONDS)
            )
            drawn: Mapping[str, float] = page.evaluate("window.drawn")
    # The first ones were printed before the page was there.
    delays = sorted(delay for number, delay in drawn.items() if int(number) >= TICKS // 4)
    worst = delays[int(0.95 * len(delays))]
    return _told(
        [
            Figure("a line, from print to pixel: median", "s", statistics.median(delays)),
            Figure("a line, from print to pixel: p95", "s", worst, bar=Bar(PIXEL_SECONDS)),
        ]
    )


def _told(figures: Sequence[Figure]) -> bool:
    print(f"\n{table(figures)}\n")
    return all(figure.met is not False for figure in figures)


PARTS = {"pages": _pages, "log": _log, "pixel": _pixel}


if __name__ == "__main__":
    sys.exit(main())

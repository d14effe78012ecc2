"""Debian's headless Chromium, for tests, benchmarks and pictures of the console.

A browser is never fetched from elsewhere. Beside Playwright, a package of development.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, BrowserContext, StorageState, sync_playwright

from deploy import deaf_to_networks
from deploy.demo import PASSWORD
from deploy.docker_engine import apt_install
from deploy.report import Stop

CHROMIUM = "chromium"
MISSING = (
    "The console is looked at in a real browser, and there is no Chromium here: "
    "apt-get install chromium, or run make as root."
)
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
DESK = {"width": 1440, "height": 900}
ANSWER_MILLISECONDS = 15_000


def ensure_chromium() -> None:
    """Installs it where it can be. Raises Stop where there is none then."""
    if shutil.which(CHROMIUM) is not None:
        return
    if os.geteuid() != 0:
        raise Stop(MISSING)
    apt_install(CHROMIUM)


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """Until the end of the block; while it lasts, Django's own calls of the database are refused in
    this thread. Raises Stop where there is none."""
    path = shutil.which(CHROMIUM)
    if path is None:
        raise Stop(MISSING)
    with _launcher(path) as launcher, sync_playwright() as runs:
        browser = runs.chromium.launch(executable_path=launcher, args=[*ARGUMENTS, *arguments])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def _launcher(path: str) -> Iterator[Path]:
    """Playwright starts one file, and no other program that starts it."""
    before = shlex.join([sys.executable, deaf_to_networks.__file__, path])
    with TemporaryDirectory(prefix="mlops-browser-") as folder:
        launcher = Path(folder) / CHROMIUM
        launcher.write_text(f'#!/bin/sh\nexec {before} "$@"\n')
        launcher.chmod(0o700)
        yield launcher


@contextmanager
def window(browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """With nothing of any other; options are Playwright's."""
    # Nothing fades: what is looked at is what is there.
    context = browser.new_context(**{"viewport": DESK, "reduced_motion": "reduce", **options})
    context.set_default_timeout(ANSWER_MILLISECONDS)
    try:
        yield context
    finally:
        context.close()


def log_in(browser: Browser, url: str, name: str) -> StorageState:
    """By the form; returns what a browser keeps of it."""
    with window(browser) as context:
        page = context.new_page()
        page.goto(f"{url}/admin/login/")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{url}/admin/")
        return context.storage_state()

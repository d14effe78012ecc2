"""The web process as its clients meet it: pages, odd requests, and an MLflow that hangs."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from deploy.trial import Platform, wait_for

ASSET = re.compile(r"""(?:src|href)=["']([^"']+)""")
LONGEST_STATUS_SECONDS = 5
HANGING_REQUESTS = 12


@pytest.fixture
def stopped_mlflow(platform: Platform) -> Iterator[None]:
    """Takes calls and answers none, as a server that swaps or waits for a lock does."""
    pids = descendants(platform.processes()["mlflow"])
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        wait_for(
            lambda: platform.get("/mlops/status").json()["mlflow_available"],
            seconds=30,
            what="MLflow after its stop",
        )


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in descendants(int(child)))]


@pytest.mark.parametrize("place", ["/docs", "/redoc", "/admin/login/"])
def test_everything_that_a_page_needs_is_served_from_here(platform: Platform, place: str):
    page = platform.get(place)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assets = [name for name in ASSET.findall(page.text) if "/static/" in name]
    assert assets
    for asset in assets:
        assert asset.startswith("/static/")
        assert platform.get(asset).status_code == 200, asset


def test_a_body_in_chunks_is_read(platform: Platform):
    body = json.dumps({"script_name": "train.py", "script_content": "raise SystemExit(9)\n"})
    answer = requests.post(
        f"{platform.url}/mlops/training/upload",
        data=iter([body[:20].encode(), body[20:].encode()]),
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    assert answer.status_code == 202, answer.text
    assert platform.ended(answer.json()["job_id"])["error"] == "The script ended with exit code 9."


@pytest.mark.parametrize("place", ["training/upload", "registry", "inference"])
def test_a_body_without_end_is_refused(platform: Platform, place: str):
    answer = requests.post(
        f"{platform.url}/mlops/{place}",
        data=b" " * (16 * 1024 * 1024 + 1),
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "body_too_large"


def test_while_mlflow_hangs_the_status_is_true_and_quick(platform: Platform, stopped_mlflow: None):
    started = time.monotonic()
    answer = platform.get("/mlops/status")
    assert time.monotonic() - started < LONGEST_STATUS_SECONDS
    assert answer.status_code == 200
    assert (answer.json()["mlflow_available"], answer.json()["registered_models"]) == (False, 0)
    assert answer.json()["feast_store_available"] is True


def test_who_waits_for_an_mlflow_that_hangs_keeps_nobody_else_waiting(
    platform: Platform, stopped_mlflow: None
):
    refused = platform.get("/mlops/models")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    codes: list[int] = []
    waiting = [
        threading.Thread(target=lambda: codes.append(platform.get("/mlops/models").status_code))
        for _ in range(HANGING_REQUESTS)
    ]
    for thread in waiting:
        thread.start()
    started = time.monotonic()
    assert platform.get("/mlops/training/jobs/unknown").status_code == 404
    assert time.monotonic() - started < LONGEST_STATUS_SECONDS
    for thread in waiting:
        thread.join()
    assert codes == [503] * HANGING_REQUESTS

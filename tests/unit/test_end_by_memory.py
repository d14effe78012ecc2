"""What the engine's word about memory is worth when it comes after the end."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.engine import Engine

ENDED: dict[str, Any] = {
    "Id": "c1",
    "Name": "/job",
    "State": {
        "Status": "exited",
        "Running": False,
        "OOMKilled": False,
        "StartedAt": "2026-01-31T10:00:00.5Z",
        "FinishedAt": "2026-01-31T10:00:03.5Z",
    },
    "NetworkSettings": {},
    "Config": {},
}


class Api:
    """An engine that wrote down the end of a container before it heard from the kernel."""

    def __init__(self, *, exit_code: int, told: list[dict[str, str]]) -> None:
        self.document = {**ENDED, "State": {**ENDED["State"], "ExitCode": exit_code}}
        self.told = told
        self.asked: list[dict[str, Any]] = []

    def inspect_container(self, container: str) -> dict[str, Any]:
        return self.document

    def events(self, **asked: Any) -> list[dict[str, str]]:
        self.asked.append(asked)
        return self.told


def oom_killed(api: Api) -> bool:
    state = Engine(api).state("c1")  # type: ignore[arg-type]
    assert state is not None
    return state.oom_killed


@pytest.mark.parametrize("exit_code", [137, 169])
def test_a_word_that_came_after_the_end_counts(exit_code: int):
    api = Api(exit_code=exit_code, told=[{"Action": "oom"}])
    assert oom_killed(api)
    (asked,) = api.asked
    assert asked["filters"] == {"container": "c1", "event": "oom"}
    assert float(asked["since"]) == 1769853600.5


def test_a_word_may_come_for_a_second_after_the_end():
    long_ago = Api(exit_code=137, told=[])
    just_now = Api(exit_code=137, told=[])
    now = datetime.now(UTC)
    just_now.document["State"]["FinishedAt"] = now.isoformat()
    assert not oom_killed(long_ago) and not oom_killed(just_now)
    assert float(long_ago.asked[0]["until"]) <= time.time()
    assert float(just_now.asked[0]["until"]) == pytest.approx(now.timestamp() + 1, abs=1e-3)


def test_who_was_killed_otherwise_did_not_run_out_of_memory():
    assert not oom_killed(Api(exit_code=137, told=[]))


def test_only_of_one_who_was_killed_it_is_asked():
    api = Api(exit_code=1, told=[{"Action": "oom"}])
    assert not oom_killed(api) and api.asked == []

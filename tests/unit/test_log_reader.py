"""The console's log.js, against a stand-in for a page: what it shows of a log, and how much."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

STATIC = Path(settings.BASE_DIR) / "mlops_site" / "static" / "mlops_site" / "console"
READER = Path(__file__).with_name("log_reader.js")
NODE = shutil.which("node")
BUILD = "Resolved\nInstalled\n"
LINE = "z" * 80

pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


def shown(
    *kept: tuple[int, str],
    parts: str = "0 Run",
    live: bool = False,
    size: int | None = None,
    fragment: str = "",
    steps: tuple[Any, ...] = (),
) -> dict[str, Any]:
    """What is in the page after the steps; `kept` are the pieces that the API has."""
    printed = max((at + len(text.encode()) for at, text in kept), default=0)
    told = {
        "script": str(STATIC / "log.js"),
        "parts": parts,
        "size": printed if size is None else size,
        "live": live,
        "hash": fragment,
        "kept": kept,
        "steps": steps,
    }
    assert NODE is not None
    ran = subprocess.run(
        [NODE, READER], input=json.dumps(told).encode(), capture_output=True, check=True, timeout=30
    )
    return dict(json.loads(ran.stdout))


def event(text: str, at: int, *, part: str = "run", attempt: int = 1, dropped: int = 0) -> Any:
    behind = at + len(text.encode())
    told = {"text": text, "offset": at, "part": part, "attempt": attempt, "dropped": dropped}
    return {**told, "behind": behind}


def numbered(count: int, word: str = "line") -> str:
    return "".join(f"{word} {number} {LINE}\n" for number in range(1, count + 1))


def test_build_and_run_are_told_apart_and_counted_through():
    page = shown((0, BUILD), (len(BUILD), "one\ntwo\n"), parts=f"0 Environment;{len(BUILD)} Run")
    assert page["lines"] == ["Resolved", "Installed", "one", "two"]
    assert page["headings"] == ["Environment", "Run"]
    assert (page["first"], page["is_whole"]) == (1, True)
    assert page["streams"] == [], "an ended job is not followed"


def test_colours_become_classes_and_nothing_else_of_a_terminal_is_obeyed():
    page = shown((0, "\x1b[1;31mred\x1b[0m \x1b]8;;http://evil\x07link\x1b[2J \u202eeslaf\n"))
    assert page["pieces"][0][0] == ["a-red a-bold", "red"]
    assert page["lines"] == ["red \\u001b]8;;http://evil\\u0007link\\u001b[2J \\u202eeslaf"]


def test_a_bar_that_writes_itself_anew_is_shown_line_by_line():
    assert shown((0, "\r 10%\r 20%\r\n"))["lines"] == ["\n 10%\n 20%"]


def test_an_error_is_marked_however_it_is_coloured():
    page = shown((0, "fine\n\x1b[31mValueError\x1b[0m: bad\nno error here\n"))
    assert page["classes"] == ["", "is-error", ""]


def test_of_a_hundred_megabytes_the_end_is_read_and_no_more():
    text = numbered(1_000_000)
    page = shown((0, text))
    read = sum(length for _, length in page["requests"])
    assert len(text) > 90_000_000 and read < 1_000_000
    assert page["lines"][-1].startswith("line 1000000 ")
    assert not page["is_whole"] and len(page["lines"]) < 20_000


def test_reading_back_goes_on_without_a_seam_and_what_is_shown_stays_bounded():
    page = shown((0, numbered(50_000)), steps=("earlier",) * 8)
    numbers = [int(line.split()[1]) for line in page["lines"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(numbers) < 20_000 and numbers[-1] < 50_000


def test_what_was_cut_is_one_gap_and_reading_back_goes_past_it_at_once():
    head, tail = numbered(10_000, "head"), numbered(1_000, "tail")
    cut = 90_000_000
    page = shown((0, head), (len(head) + cut, tail), steps=("earlier",))
    at = next(n for n, name in enumerate(page["classes"]) if name == "is-cut")
    assert page["lines"][at] == f"[... {cut} bytes cut ...]"
    assert page["lines"][at - 1].startswith("head 10000 ")
    assert page["lines"][at + 1].startswith("tail 1 ")
    assert page["places"][at + 1] == len(head) + cut
    assert head.encode()[page["places"][0] :].decode().startswith(page["lines"][0])


def test_a_link_to_a_line_finds_it_wherever_it_is():
    text = numbered(50_000)
    place = text.index("line 20000 ")
    page = shown((0, text), fragment=f"#at-{place}")
    picked = [n for n, name in enumerate(page["classes"]) if "is-picked" in name]
    assert [page["lines"][n].split()[1] for n in picked] == ["20000"]


def test_a_live_log_goes_on_inside_the_line_where_the_page_ended():
    steps = (event(" more\nthree\n", 7), event("fo", 19))
    page = shown((0, "one\ntwo"), live=True, steps=steps)
    assert page["streams"] == ["/logs?follow=1&offset=7"]
    assert page["lines"] == ["one", "two more", "three", "fo"]
    assert page["state"] == "4 lines shown; live"


def test_a_live_log_goes_on_before_a_character_of_which_only_half_was_there():
    page = shown((0, "two hé\n"), size=6, live=True, steps=(event("é\n", 5),))
    assert page["streams"] == ["/logs?follow=1&offset=5"]
    assert page["lines"] == ["two hé"]


def test_a_live_log_tells_parts_and_gaps_as_they_come():
    steps = (
        event("Installed\n", 0, part="build"),
        event("ran\n", 10),
        event("again\n", 114, part="build", attempt=2, dropped=100),
    )
    page = shown(live=True, parts="", steps=steps)
    assert page["headings"] == ["Environment", "Run", "Environment, attempt 2"]
    assert page["lines"] == ["Installed", "ran", "[... 100 bytes cut ...]", "again"]


def test_whoever_follows_a_long_log_keeps_its_end_in_a_page_that_stays_bounded():
    steps, at = [], 0
    for _ in range(12):
        steps.append(event(numbered(2_000), at))
        at = steps[-1]["behind"]
    page = shown(live=True, parts="", steps=tuple(steps))
    assert len(page["lines"]) < 20_000 and page["lines"][-1].startswith("line 2000 ")
    assert page["first"] == 24_000 - len(page["lines"]) + 1


def test_a_line_without_an_end_is_cut_and_said_to_be():
    page = shown((0, "x" * 3_000_000 + "\ny\n"))
    assert page["lines"][0].endswith("more bytes: download the log")
    assert len(page["lines"][0]) < 9_000 and page["lines"][1] == "y"

"""Which requirements may be asked for: names with versions, nothing that points elsewhere."""

import re

from packaging.requirements import InvalidRequirement, Requirement

MAX_CHARACTERS = 300
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
PATH_START = re.compile(r"^(\.{0,2}[/\\]|~|[A-Za-z]:\\|file:)")
URL = re.compile(r"^[a-z+]+://|@\s*[a-z+]+:", re.IGNORECASE)


def requirement_problem(text: str, *, allow_urls: bool) -> str | None:
    """What is wrong with one requirement, in one sentence; None when it may be installed."""
    if not text.strip():
        return "A requirement must not be empty."
    if len(text) > MAX_CHARACTERS:
        return f"A requirement has at most {MAX_CHARACTERS} characters."
    if CONTROL.search(text):
        return f"{text!r} contains control characters."
    if text.lstrip().startswith("-"):
        return f"{text!r} is an option of an installer; only requirements are taken."
    if PATH_START.match(text.strip()) or text.strip().endswith((".whl", ".tar.gz", ".zip")):
        return f"{text!r} is a file or folder; the container has none of yours."
    if URL.search(text) and not allow_urls:
        return f"{text!r} points to an address, which the operator does not allow."
    return _parse_problem(text)


def _parse_problem(text: str) -> str | None:
    try:
        parsed = Requirement(text)
    except InvalidRequirement:
        return f"{text!r} is not a requirement."
    if parsed.url and parsed.url.startswith("file:"):
        return f"{text!r} is a file; the container has none of yours."
    return None

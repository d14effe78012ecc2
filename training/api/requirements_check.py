"""Which requirements may be asked for: names with versions, nothing that points elsewhere."""

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from sandbox.build_rules import BuildRules
from sandbox.environments import BASELINE_NAMES

MAX_CHARACTERS = 300
PATH_START = re.compile(r"^(\.{0,2}[/\\]|~|[A-Za-z]:\\|file:)", re.IGNORECASE)
FILE_ENDINGS = (".whl", ".tar.gz", ".zip")
BARE_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Whatever is not an address on the network would be read from the build container's own disk.
NETWORK_URL = re.compile(r"^(https?|(git|hg|svn|bzr)\+(https?|ssh))://[^/]", re.IGNORECASE)


def requirement_problem(
    text: str, *, allow_urls: bool, rules: BuildRules | None = None
) -> str | None:
    """What is wrong with one requirement, in one sentence; None when it may be installed."""
    stripped = text.strip()
    if not stripped:
        return "A requirement must not be empty."
    if len(text) > MAX_CHARACTERS:
        return f"A requirement has at most {MAX_CHARACTERS} characters."
    if not text.isprintable():
        return f"{text!r} contains control characters."
    if stripped.startswith("-"):
        return f"{text!r} is an option of an installer; only requirements are taken."
    if PATH_START.match(stripped):
        return f"{text!r} is a file or folder; the container has none of yours."
    if BARE_URL.match(stripped):
        return _bare_url_problem(text, allow_urls=allow_urls)
    return _parse_problem(text, allow_urls=allow_urls) or _refusal(text, rules or BuildRules())


def _refusal(text: str, rules: BuildRules) -> str | None:
    """What every job has may be asked for by name, whatever the operator allows beside it."""
    name = canonicalize_name(Requirement(text).name)
    return None if name in BASELINE_NAMES and name not in rules.denied else rules.refusal_of(name)


def _bare_url_problem(text: str, *, allow_urls: bool) -> str:
    if allow_urls:
        return f"{text!r} has no name; write it as name @ address."
    return f"{text!r} points to an address, which the operator does not allow."


def _parse_problem(text: str, *, allow_urls: bool) -> str | None:
    try:
        url = Requirement(text).url
    except InvalidRequirement:
        return f"{text!r} is not a requirement."
    if url is None:
        if text.strip().lower().endswith(FILE_ENDINGS):
            return f"{text!r} is a file; the container has none of yours."
        return None
    if not NETWORK_URL.match(url):
        return f"{text!r} points to something that is not on the network."
    if not allow_urls:
        return f"{text!r} points to an address, which the operator does not allow."
    return None

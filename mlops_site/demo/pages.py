"""The pages of the console, found as a person finds them: by the links from its first one.

New pages come in by themselves. What a page's own scripts ask for is a fragment: it has no frame.
What is sent by a form answers to POST only, and is neither.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import unescape

from django.contrib import admin
from django.urls import URLPattern, URLResolver, resolve, reverse
from django.urls.exceptions import Resolver404

from training.states import Status

HREF = re.compile(r'href="(/admin/[^"#]*)')
ASKED = re.compile(r'hx-get="(/admin/[^"]*)')
FRAME = "<html"
# One of each kind is enough, of jobs one for each status; Django's own differ in names only.
STOCK = re.compile(r".*_(history|delete)$")
JOB, JOBS = "training_job_change", "admin:training_job_changelist"
LOGOUT = "/admin/logout/"
NOTHING = frozenset({404, 500})


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    text: str

    @property
    def is_html(self) -> bool:
        return self.status == 200 and self.content_type.startswith("text/html")


@dataclass(frozen=True)
class Page:
    """`name` is its URL's name, `what` tells several of one name apart."""

    name: str
    path: str
    what: str = ""

    @property
    def title(self) -> str:
        return f"{self.name} ({self.what})" if self.what else self.name


@dataclass
class Roads:
    """What following all links came to; `broken` has the paths of links that lead to nothing."""

    pages: list[Page] = field(default_factory=list)
    fragments: list[Page] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)


def pages_of(get: Callable[[str], Answer]) -> Roads:
    """`get` asks for a path as somebody who is logged in, and follows no redirect."""
    found, seen, kinds = Roads(), {"/admin/"}, Counter[str]()
    found.pages += _jobs(get)
    waiting = deque(["/admin/", *_without_arguments()])
    while waiting:
        path = waiting.popleft()
        name = name_of(path)
        kind = STOCK.sub(r"\1", name)
        if kinds[kind] or name == JOB:
            continue
        answer = get(path)
        if answer.status in NOTHING and path in seen:
            found.broken[path] = answer.status
        if not answer.is_html:
            continue
        kinds[kind] += 1
        if FRAME in answer.text:
            found.pages.append(Page(name, path))
        new = [link for link in links_in(answer.text) if link not in seen]
        waiting.extend(dict.fromkeys(new))
        seen.update(new)
    found.fragments += _fragments(get, found.pages)
    return found


def links_in(text: str) -> list[str]:
    """Where a page leads to inside of the console."""
    return [link for link in map(unescape, HREF.findall(text)) if link != LOGOUT]


def name_of(path: str) -> str:
    """The name of the URL; empty where there is none."""
    try:
        return resolve(path.partition("?")[0]).url_name or ""
    except Resolver404:
        return ""


def _jobs(get: Callable[[str], Answer]) -> Iterator[Page]:
    """The newest of each status, where there is one."""
    for status in Status:
        listed = links_in(get(f"{reverse(JOBS)}?status={status}").text)
        pages = [path for path in listed if name_of(path) == JOB]
        if pages:
            yield Page(JOB, pages[0], status)


def _fragments(get: Callable[[str], Answer], pages: Sequence[Page]) -> Iterator[Page]:
    """What pages ask for by themselves, the first of each name."""
    names: set[str] = set()
    for page in pages:
        for asked in map(unescape, ASKED.findall(get(page.path).text)):
            name = name_of(asked)
            if name not in names and get(asked).status == 200:
                names.add(name)
                yield Page(name, asked)


def _without_arguments() -> list[str]:
    """The paths that need nothing filled in."""
    paths = [f"/admin/{route}" for route in _routes(admin.site.urls[0])]
    return [path for path in paths if not re.search(r"[<(^]", path) and path != LOGOUT]


def _routes(patterns: list[URLPattern | URLResolver], before: str = "") -> Iterator[str]:
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _routes(pattern.url_patterns, route)
        else:
            yield route

"""What the console's pages of every room are made of: icons, states, spans of time, in one manner.

A state is a shape and a word; its colour comes third. Whatever comes from a user is escaped here.
"""

import re
from datetime import UTC, datetime

from django.templatetags.static import static
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString

SPRITE = "mlops_site/console/icons.svg"
# The five shapes of a job's states serve for everything else that has a state.
SHAPES = {
    "starting": "queued",
    "ready": "completed",
    "stopping": "running",
    "stopped": "cancelled",
    "taken": "running",
    "building": "running",
    "gone": "cancelled",
}
# Controls but for line breaks and tabs, and what turns or hides the direction of text.
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    r"\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
CODE = re.compile(r"`([^`\n]+)`")
MINUTE, HOUR, DAY = 60, 3600, 86_400
KIB = 1024


def icon(name: str) -> SafeString:
    """A picture beside words: whoever cannot see it misses nothing."""
    return format_html(
        '<svg class="icon" width="16" height="16" aria-hidden="true"><use href="{}#{}"/></svg>',
        static(SPRITE),
        name,
    )


def status(state: str, words: str) -> SafeString:
    """A state as every list shows it."""
    look = shape(state)
    return format_html('<span class="status is-{}">{}{}</span>', look, icon(look), words)


def span(seconds: float) -> str:
    """`7.9s`, `48s`, `3m 7s`, `2h 5m`, `3d 4h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m {whole % MINUTE}s"
    if whole < DAY:
        return f"{whole // HOUR}h {whole % HOUR // MINUTE}m"
    return f"{whole // DAY}d {whole % DAY // HOUR}h"


def age(seconds: float) -> str:
    """Coarser than `span`: how long ago something was."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE} min"
    return f"{whole // HOUR} h" if whole < DAY else f"{whole // DAY} d"


def ago(moment: datetime, *, now: datetime) -> SafeString:
    """Relative, with the exact moment in UTC on hover; the browser lets it grow."""
    return _time(moment, f"{age((now - moment).total_seconds())} ago", kind="ago")


def since(moment: datetime, *, now: datetime) -> SafeString:
    """How long something has lasted, which the browser lets grow."""
    return _time(moment, span((now - moment).total_seconds()), kind="since")


def exactly(moment: datetime) -> SafeString:
    """The moment itself, in UTC; the browser shows it in the viewer's zone."""
    return _time(moment, f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}", kind="moment")


def left(moment: datetime, *, now: datetime) -> SafeString:
    """How long it is until then; `over` for a moment that has passed."""
    seconds = (moment - now).total_seconds()
    return _time(moment, span(seconds) if seconds > 0 else "over", kind="left")


def shape(state: str) -> str:
    """The icon of a state, of whatever has one."""
    return SHAPES.get(state, state)


def _time(moment: datetime, words: str, *, kind: str) -> SafeString:
    exact = moment.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{} UTC" data-{}>{}</time>',
        exact.strftime("%Y-%m-%dT%H:%M:%SZ"),
        exact.strftime("%Y-%m-%d %H:%M:%S"),
        kind,
        words,
    )


def visible(text: str) -> str:
    """A stranger's text with what would steer the page around it shown instead of obeyed.

    HTML is escaped by the template; this is about controls, above all those of bidirectional text,
    which could make a name read as another one.
    """
    return UNSEEN.sub(lambda found: f"\\u{ord(found.group()):04x}", str(text))


def prose(text: str) -> SafeString:
    """A sentence of anybody's, in which what stands between backticks looks like code."""
    return SafeString(CODE.sub(r"<code>\1</code>", escape(visible(text))))


def marks_shown(markup: str) -> str:
    """The same for what Django has made of a stranger's text: what is markup stays markup.

    What is put in has nothing in it that HTML knows.
    """
    shown = visible(markup)
    return SafeString(shown) if isinstance(markup, SafeString) else shown


def size(megabytes: float) -> str:
    """`512 MB`, `3.1 GB`, `200 GB`."""
    if megabytes < 1024:
        return f"{megabytes:.0f} MB"
    gigabytes = megabytes / 1024
    return f"{gigabytes:.1f} GB" if gigabytes < 10 else f"{gigabytes:.0f} GB"


def size_of_bytes(count: int) -> str:
    """`412 B`, `18 KB`, `512 MB`."""
    if count < KIB:
        return f"{count} B"
    return f"{count / KIB:.0f} KB" if count < KIB * KIB else size(count / KIB / KIB)


def grouped(count: int) -> str:
    """`1,204`."""
    return f"{count:,}"


def milliseconds(value: float) -> str:
    """`0.04 ms`, `0.7 ms`, `24 ms`, `1.9 s`."""
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    if value >= 10:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 0.1 else f"{value:.2g} ms"


def words(name: str) -> str:
    """A name of a program as a reader says it: `largest_difference` is `largest difference`."""
    return name.replace("_", " ")

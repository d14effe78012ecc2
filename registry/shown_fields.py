"""Fields of a row as its page in the admin shows them: by a name that people use, with a unit."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from registry import console

Told = Callable[[Any], object]
Shown = Callable[[Any, Any], object]


def shown(name: str, words: str, told: Told = console.visible) -> Shown:
    """A method of a `ModelAdmin` that tells a field by `words`; None where there is nothing."""

    @admin.display(description=words, ordering=name)
    def field(_: Any, row: Any) -> object:
        value = getattr(row, name)
        return told(value) if value or value is False else None

    return field


def yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def only_yes(value: bool) -> str | None:
    """For what need not be said where it is not so."""
    return "yes" if value else None


def whole_or_not(value: float) -> str:
    """`2`, `0.5`."""
    return f"{value:g}"


def printed(value: str) -> SafeString:
    return format_html('<pre class="printed" tabindex="0">{}</pre>', console.visible(value))


def code(value: str) -> SafeString:
    return format_html("<code>{}</code>", console.visible(value))

"""What the console's templates may say: `registry.console`, by the names that a template uses."""

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.safestring import SafeString

from registry import console

register = template.Library()
register.simple_tag(console.icon)
register.simple_tag(console.status)
register.filter("span", console.span)
register.filter("age", console.age)
register.filter("moment", console.exactly)
register.filter("visible", console.visible)
register.filter("prose", console.prose)
register.filter("marks_shown", console.marks_shown)
register.filter("grouped", console.grouped)
register.filter("milliseconds", console.milliseconds)
register.filter("words", console.words)
register.filter("size", console.size)
register.filter("size_of_bytes", console.size_of_bytes)
register.filter("shape", console.shape)


@register.filter
def ago(moment: datetime) -> SafeString:
    return console.ago(moment, now=timezone.now())


@register.filter
def since(moment: datetime) -> SafeString:
    return console.since(moment, now=timezone.now())


@register.filter
def left(moment: datetime) -> SafeString:
    return console.left(moment, now=timezone.now())

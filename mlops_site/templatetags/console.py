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
register.filter("visible", console.visible)


@register.filter
def ago(moment: datetime) -> SafeString:
    return console.ago(moment, now=timezone.now())


@register.filter
def since(moment: datetime) -> SafeString:
    return console.since(moment, now=timezone.now())

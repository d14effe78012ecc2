"""Who asks, for the records of who changed what."""

from rest_framework.request import Request


def actor_of(request: Request) -> str:
    """The address that it came from, until the API knows users."""
    return str(request.META.get("REMOTE_ADDR", ""))

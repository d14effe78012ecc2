"""A Content-Security-Policy for every page, and for every act where it came from."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from registry.sources import Channel, Source, coming_from

Handler = Callable[[HttpRequest], HttpResponse]
HEADER = "Content-Security-Policy"
ONLY_US = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
# Swagger UI and ReDoc write style elements; ReDoc searches in a worker that it makes of its code.
DOCUMENTATION = f"{ONLY_US}; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:"
DOCUMENTATION_PATHS = ("/docs", "/redoc")
# The console shows what strangers wrote: not even a picture comes from anywhere but our files.
CONSOLE = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
CONSOLE_PATH = "/admin"


def content_security_policy(get_response: Handler) -> Handler:
    """Adds the header to HTML. Django's own debug pages carry scripts, and keep them."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if response.headers.get("Content-Type", "").startswith("text/html") and not settings.DEBUG:
            response.headers.setdefault(HEADER, _policy(request.path))
        return response

    return middleware


def known_source(get_response: Handler) -> Handler:
    """Whatever a request does is written down with its channel, address and person.

    The address is the client's where a proxy that is trusted names it (`MLOPS_TRUSTED_PROXIES`).
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        channel = Channel.CONSOLE if is_console(request.path) else Channel.API
        address = str(request.META.get("REMOTE_ADDR", ""))
        with coming_from(Source(channel, address, person=lambda: _person(request))):
            return get_response(request)

    return middleware


def _person(request: HttpRequest) -> str:
    """Empty for a client of the API that did not log in: the API's views say None of those."""
    return request.user.get_username() if request.user else ""


def _policy(path: str) -> str:
    if path.rstrip("/") in DOCUMENTATION_PATHS:
        return DOCUMENTATION
    return CONSOLE if is_console(path) else ONLY_US


def is_console(path: str) -> bool:
    """Whether a page belongs to the console."""
    return path == CONSOLE_PATH or path.startswith(f"{CONSOLE_PATH}/")

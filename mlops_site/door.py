"""What is refused before anything reads a request: an unknown host, a page of another site.

The API has no users yet, so a page that a browser shows could send it jobs in the person's name:
JSON goes as `text/plain` without asking first. Browsers say where a request comes from
(`Sec-Fetch-Site`, https://www.w3.org/TR/fetch-metadata/); other clients do not send it. The raw
handlers run no Django middleware, which would check the host.
"""

from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from mlops_site.problems import problem_document

Scope = dict[str, Any]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OTHER_SITES = frozenset({b"cross-site", b"same-site"})
API = ("/mlops/", "/v2/", "/metrics")


def refusal(scope: Scope) -> dict[str, Any] | None:
    """The problem document of a request to the API that goes no further; None for all others."""
    if not scope["path"].startswith(API):
        return None
    headers = dict(scope["headers"])
    if not _is_named(headers):
        return problem_document(
            status=400,
            detail="This platform does not answer under the name that the request was sent to.",
            code="unknown_host",
            instance=scope["path"],
            hint="The operator lists the names that are answered in MLOPS_ALLOWED_HOSTS.",
        )
    if scope["method"] not in SAFE_METHODS and _is_of_other_site(headers):
        return problem_document(
            status=403,
            detail="A page of another site may not send this request.",
            code="cross_site",
            instance=scope["path"],
            hint="Send it from a program, or from a page of this platform such as /docs.",
        )
    return None


def is_let_in(headers: dict[bytes, bytes]) -> bool:
    """Whether a request that changes something goes further; `refusal` says why it does not."""
    return _is_named(headers) and not _is_of_other_site(headers)


def _is_named(headers: dict[bytes, bytes]) -> bool:
    return _is_ours(headers.get(b"host", b""), tuple(settings.ALLOWED_HOSTS))


def _is_of_other_site(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"sec-fetch-site") in OTHER_SITES


@lru_cache(maxsize=100)
def _is_ours(host: bytes, names: tuple[str, ...]) -> bool:
    """Kept: clients ask under few names, and every request is asked for its own."""
    return validate_host(split_domain_port(host.decode("latin-1"))[0], names)

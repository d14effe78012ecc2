"""Turns every error into `application/problem+json` (RFC 9457), or a plain page for a browser."""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.urls.exceptions import Resolver404
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import set_rollback

from mlops_site.middleware import Handler, is_console
from registry.rawhttp.problems import (
    CONTENT_TYPE,
    DATABASE_CODE,
    DATABASE_DETAIL,
    DATABASE_HINT,
    DATABASE_RETRY_SECONDS,
    INTERNAL_DETAIL,
    problem_document,
)

log = logging.getLogger(__name__)

ERRORS_TOLD = 5
NO_FIELD = "non_field_errors"


class DatabaseAway(exceptions.APIException):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = DATABASE_CODE
    default_detail = DATABASE_DETAIL
    hint = DATABASE_HINT
    wait = DATABASE_RETRY_SECONDS


class TooLarge(exceptions.APIException):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_code = "body_too_large"
    hint = "Send less at a time; a script finds large data in /data."

    def __init__(self) -> None:
        megabytes = settings.DATA_UPLOAD_MAX_MEMORY_SIZE // (1024 * 1024)
        super().__init__(f"The body is larger than {megabytes} MiB.")


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: known errors become problems, unknown ones are logged and stay anonymous."""
    request = context["request"]
    # Whatever a view answers with otherwise, such as a page: a problem is JSON.
    request.accepted_renderer = JSONRenderer()
    request.accepted_media_type = JSONRenderer.media_type
    path = request.path
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    elif isinstance(error, RequestDataTooBig):
        error = TooLarge()
    elif isinstance(error, OperationalError | InterfaceError):
        log.error("api.database_away %s", error, extra={"path": path})
        error = DatabaseAway()
    if not isinstance(error, exceptions.APIException):
        log.error("api.unexpected_error", exc_info=error, extra={"path": path})
        return _response(
            problem_document(
                status=500, detail=INTERNAL_DETAIL, code="internal_error", instance=path
            ),
            headers={},
        )
    set_rollback()
    return _response(
        problem_document(
            status=error.status_code,
            detail=_sentence(error, context),
            code=_code(error),
            instance=path,
            errors=_field_errors(error),
            hint=getattr(error, "hint", ""),
            limit=getattr(error, "limit", ""),
        ),
        headers=_headers(error),
    )


def _response(body: dict[str, Any], *, headers: dict[str, str]) -> Response:
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _sentence(error: exceptions.APIException, context: dict[str, Any]) -> str:
    if isinstance(error, exceptions.ValidationError):
        return _invalid_sentence(_field_errors(error))
    if isinstance(error, exceptions.MethodNotAllowed):
        return _method_sentence(context["request"].method, context["view"].allowed_methods)
    if isinstance(error, exceptions.UnsupportedMediaType):
        sent = context["request"].content_type
        body = f"A body of type {sent}" if sent else "A body without a Content-Type"
        return f"{body} cannot be read; send JSON with the header Content-Type: application/json."
    return str(error.detail)


def _invalid_sentence(errors: list[dict[str, str]]) -> str:
    """For a client that reads nothing but `detail`: the first problems, in full."""
    told = " ".join(f"{error['field']}: {error['detail']}" for error in errors[:ERRORS_TOLD])
    more = len(errors) - ERRORS_TOLD
    return f"The request is not valid. {told}" + (f" And {more} more." if more > 0 else "")


def _method_sentence(method: str | None, allowed: list[str]) -> str:
    methods = ", ".join(name for name in allowed if name not in ("HEAD", "OPTIONS"))
    return f"{method} is not possible here; this path takes {methods}."


def _code(error: exceptions.APIException) -> str:
    codes = error.get_codes()
    return codes if isinstance(codes, str) else error.default_code


def _field_errors(error: exceptions.APIException) -> list[dict[str, str]]:
    own = getattr(error, "errors", None)
    if own:
        return list(own)
    if isinstance(error, exceptions.ValidationError):
        return list(_flat("", error.detail))
    return []


def _flat(field: str, told: Any) -> Iterator[dict[str, str]]:
    """DRF nests what it says as the request is nested; we name places, such as `tags.team`."""
    if isinstance(told, dict):
        for name, inner in told.items():
            own = "" if name == NO_FIELD else str(name)
            yield from _flat(f"{field}.{own}".strip("."), inner)
    elif isinstance(told, list):
        for inner in told:
            yield from _flat(field, inner)
    else:
        yield {"field": field or "body", "detail": str(told)}


def _headers(error: exceptions.APIException) -> dict[str, str]:
    headers: dict[str, str] = dict(getattr(error, "headers", None) or {})
    # How to log in, where the view knows a way.
    challenge = getattr(error, "auth_header", None)
    if challenge:
        headers["WWW-Authenticate"] = challenge
    wait = getattr(error, "wait", None)
    if wait:
        headers["Retry-After"] = str(int(wait))
    return headers


# -- what never reaches a view of the API ----------------------------------------------------------
def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if is_console(request.path):
        sentence = _missing(request, exception)
    else:
        sentence = f"There is nothing at {request.path}; /docs lists every path."
    return _answer(request, status=404, detail=sentence, code="not_found")


def _missing(request: HttpRequest, exception: Exception) -> str:
    """What a page of the console said it does not find; Django's own words are for developers."""
    said = exception.args[0] if exception.args else None
    if isinstance(said, str) and not isinstance(exception, Resolver404):
        return said
    return f"There is nothing at {request.path}."


def server_error(request: HttpRequest) -> HttpResponse:
    return _answer(request, status=500, detail=INTERNAL_DETAIL, code="internal_error")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        sentence = (
            "This host name is not answered; the operator lists names in MLOPS_ALLOWED_HOSTS."
        )
        return _answer(request, status=400, detail=sentence, code="unknown_host")
    return _answer(request, status=400, detail="The request cannot be read.", code="bad_request")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    sentence = "Your account may not do this. Ask an administrator for the right to."
    return _answer(request, status=403, detail=sentence, code="permission_denied")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """`reason` is for developers: it stays in Django's log."""
    sentence = "This form is too old, or did not come from here. Reload its page, then send it."
    return _answer(request, status=403, detail=sentence, code="form_expired")


def method_not_allowed(request: HttpRequest, allowed: list[str]) -> HttpResponse:
    sentence = _method_sentence(request.method, allowed)
    response = _answer(request, status=405, detail=sentence, code="method_not_allowed")
    response.headers["Allow"] = ", ".join(allowed)
    return response


def in_words(get_response: Handler) -> Handler:
    """A middleware: Django's decorators refuse a method without a word, and a browser then shows a
    page of its own. In the console that is one of ours."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        refused = response.status_code == HTTPStatus.METHOD_NOT_ALLOWED
        if refused and is_console(request.path) and not response.content:
            return method_not_allowed(request, response.headers["Allow"].split(", "))
        return response

    return middleware


def _answer(request: HttpRequest, *, status: int, detail: str, code: str) -> HttpResponse:
    """A page for a browser, a problem for every program and for every path of the API."""
    if _is_api(request) or "text/html" not in request.headers.get("Accept", ""):
        body = problem_document(status=status, detail=detail, code=code, instance=request.path)
        return JsonResponse(body, status=status, content_type=CONTENT_TYPE)
    title = HTTPStatus(status).phrase
    problem = {"status": status, "title": title, "detail": detail, "code": code}
    if is_console(request.path) and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _console_page(request, problem)
    # Without the request: a page about an error must not need what may have failed.
    if is_console(request.path):
        page = render_to_string("console/problem.html", {"problem": problem})
    else:
        page = render_to_string("problem.html", problem)
    return HttpResponse(page, status=status)


def _console_page(request: HttpRequest, problem: dict[str, Any]) -> HttpResponse:
    """In the console's frame, with its navigation for whoever may see that."""
    # A request whose host is refused never came to the middleware that knows who it is.
    known = admin.site.each_context(request) if hasattr(request, "user") else {}
    page = render_to_string("console/problem.html", {**known, "problem": problem}, request)
    return HttpResponse(page, status=problem["status"])


def _is_api(request: HttpRequest) -> bool:
    path = request.path.rstrip("/")
    return path == "/mlops" or path.startswith("/mlops/") or path == "/openapi.json"

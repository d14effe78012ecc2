"""Turns every error of the API into `application/problem+json` (RFC 9457), without internals."""

import logging
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from rawhttp.problems import CONTENT_TYPE, INTERNAL_DETAIL, problem_document

log = logging.getLogger(__name__)


class TooLarge(exceptions.APIException):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = "The request is larger than this platform takes."
    hint = "Move data out of the script, into /data."


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: known errors become problems, unknown ones are logged and stay anonymous."""
    path = context["request"].path
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    elif isinstance(error, RequestDataTooBig):
        error = TooLarge()
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
            detail=_sentence(error),
            code=_code(error),
            instance=path,
            errors=_field_errors(error),
            hint=getattr(error, "hint", ""),
        ),
        headers=_headers(error),
    )


def _response(body: dict[str, Any], *, headers: dict[str, str]) -> Response:
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _sentence(error: exceptions.APIException) -> str:
    if isinstance(error, exceptions.ValidationError):
        return "The request is not valid; `errors` names each field."
    return str(error.detail)


def _code(error: exceptions.APIException) -> str:
    codes = error.get_codes()
    return codes if isinstance(codes, str) else error.default_code


def _field_errors(error: exceptions.APIException) -> list[dict[str, str]]:
    own = getattr(error, "errors", None)
    if own:
        return list(own)
    if isinstance(error, exceptions.ValidationError) and isinstance(error.detail, dict):
        return [
            {"field": str(field), "detail": str(sentence)}
            for field, sentences in error.detail.items()
            for sentence in (sentences if isinstance(sentences, list) else [sentences])
        ]
    return []


def _headers(error: exceptions.APIException) -> dict[str, str]:
    headers: dict[str, str] = dict(getattr(error, "headers", None) or {})
    wait = getattr(error, "wait", None)
    if wait:
        headers["Retry-After"] = str(int(wait))
    return headers


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith("/mlops/") or request.path == "/openapi.json"


def _plain(request: HttpRequest, *, status: int, detail: str, code: str) -> JsonResponse:
    body = problem_document(status=status, detail=detail, code=code, instance=request.path)
    return JsonResponse(body, status=status, content_type=CONTENT_TYPE)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not _is_api(request):
        return defaults.page_not_found(request, exception)
    return _plain(
        request,
        status=404,
        detail=f"There is nothing at {request.path}; /docs lists every path.",
        code="not_found",
    )


def server_error(request: HttpRequest) -> HttpResponse:
    if not _is_api(request):
        return defaults.server_error(request)
    return _plain(request, status=500, detail=INTERNAL_DETAIL, code="internal_error")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not _is_api(request):
        return defaults.bad_request(request, exception)
    return _plain(request, status=400, detail="The request cannot be read.", code="bad_request")

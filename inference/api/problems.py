"""Errors of predictions as `application/problem+json`, outside Django's request cycle."""

from collections.abc import Sequence

from registry.rawhttp import problems
from registry.rawhttp.problems import Answer

PATH = "/mlops/inference"
__all__ = ["Answer", "problem"]


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[dict[str, str]] = (),
    hint: str = "",
    retry_after_seconds: int | None = None,
) -> Answer:
    """Status, headers and body."""
    return problems.problem(
        status,
        code,
        detail,
        instance=PATH,
        errors=errors,
        hint=hint,
        retry_after_seconds=retry_after_seconds,
    )

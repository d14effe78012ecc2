"""How an example of an error stands in the documentation; every room's API says it alike."""

from drf_spectacular.utils import OpenApiExample


def problem_example(name: str, value: dict[str, object], code: str) -> OpenApiExample:
    """An answer with this status code, under the media type that errors have."""
    return OpenApiExample(
        name,
        value=value,
        response_only=True,
        status_codes=[code],
        media_type="application/problem+json",
    )

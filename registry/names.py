"""Which names MLflow can keep, and that stay readable in paths and filters."""

import re

NAME_MAX_CHARACTERS = 200
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# A slash or colon cannot be part of a model's address; quotes and backslashes break filters.
FORBIDDEN_IN_MODELS = "/:'\"\\"


def model_name_problem(name: str) -> str | None:
    """What is wrong with a model's name, in one sentence; None when nothing is."""
    found = next((character for character in FORBIDDEN_IN_MODELS if character in name), None)
    if found is not None:
        return f"A model name must not contain {found!r}."
    if name in (".", ".."):
        return f"{name!r} is not a model name."
    return _common_problem(name, what="A model name")


def experiment_name_problem(name: str) -> str | None:
    """What is wrong with an experiment's name, in one sentence; None when nothing is."""
    return _common_problem(name, what="An experiment name")


def _common_problem(name: str, *, what: str) -> str | None:
    if not name.strip():
        return f"{what} must not be empty."
    if name != name.strip():
        return f"{what} must not begin or end with a space."
    if CONTROL.search(name):
        return f"{what} must not contain control characters."
    if len(name) > NAME_MAX_CHARACTERS:
        return f"{what} must have at most {NAME_MAX_CHARACTERS} characters; this has {len(name)}."
    return None

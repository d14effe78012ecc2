"""Fixtures of every suite; those that need a real service live in `tests/fixtures`."""

pytest_plugins: list[str] = []

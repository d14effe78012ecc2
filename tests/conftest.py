"""Fixtures of every suite; those that need a real service live in `tests/fixtures`."""

pytest_plugins = ["tests.fixtures.engine", "tests.fixtures.mlflow", "tests.fixtures.platform"]

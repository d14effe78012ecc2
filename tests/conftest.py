"""Fixtures of every suite; those that need a real service live in `tests/fixtures`."""

import pytest
from django.db import connection

pytest_plugins = [
    "tests.fixtures.engine",
    "tests.fixtures.mlflow",
    "tests.fixtures.platform",
    "tests.fixtures.strangers",
]


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file, as in production: threads that share a database in memory lock each other out."""
    folder = tmp_path_factory.mktemp("database")
    connection.settings_dict["TEST"]["NAME"] = str(folder / "test.sqlite3")

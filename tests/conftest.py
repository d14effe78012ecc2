"""Fixtures of every suite; those that need a real service live in `tests/fixtures`."""

from typing import Any

import hypothesis
import pytest
from django.db import connection

# What it asserts is told as a test's own.
pytest.register_assert_rewrite("tests.fixtures.waiting")
pytest_plugins = [
    "tests.fixtures.engine",
    "tests.fixtures.mlflow",
    "tests.fixtures.models_registry",
    "tests.fixtures.platform",
    "tests.fixtures.strangers",
]


# How long an example takes says nothing of what is tested, and much of what runs beside it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file, as in production: threads that share a database in memory lock each other out."""
    if connection.vendor != "sqlite":
        return
    folder = tmp_path_factory.mktemp("database")
    connection.settings_dict["TEST"]["NAME"] = str(folder / "test.sqlite3")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another database than the default's only what asks one says anything new."""
    if connection.vendor == "sqlite":
        return
    asking = [item for item in items if _asks_database(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(asking)])
    items[:] = asking


def _asks_database(item: Any) -> bool:
    fixtures = {"db", "transactional_db"} & set(getattr(item, "fixturenames", ()))
    return bool(fixtures) or item.get_closest_marker("django_db") is not None

"""The operator's own database and queue: their addresses, and whether they answer at the start."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from deploy.home import Home
from deploy.report import Stop, step, warn
from mlops_site.backing import (
    DATABASE_VARIABLE,
    POSTGRESQL,
    REDIS_VARIABLE,
    SQLITE,
    WrongAddress,
    database_settings,
    redis_address,
    without_password,
)

WAIT_SECONDS = 30
POLL_SECONDS = 0.5
CONNECT_SECONDS = 5


@dataclass(frozen=True)
class Backing:
    """Addresses with their passwords; empty: SQLite in the home, and the queue in the database."""

    database_url: str = ""
    redis_url: str = ""

    @property
    def for_everybody(self) -> dict[str, str]:
        """The variables of every process that reads rows."""
        return {DATABASE_VARIABLE: self.database_url} if self.database_url else {}

    @property
    def for_workers(self) -> dict[str, str]:
        """The variables of those who queue tasks and run them; never of the web process."""
        return {REDIS_VARIABLE: self.redis_url} if self.redis_url else {}

    @property
    def database(self) -> str:
        """For people to read; without the password."""
        if not self.database_url:
            return "SQLite"
        kind = "SQLite" if self.database_url.startswith("sqlite") else "PostgreSQL"
        return f"{kind} at {without_password(self.database_url)}"

    @property
    def queue(self) -> str:
        """For people to read; without the password."""
        if not self.redis_url:
            return "in the database"
        return f"Redis at {without_password(self.redis_url)}"


def read_backing(home: Home, variables: Mapping[str, str]) -> Backing:
    """Raises Stop for an address that is none, or that the platform could not use."""
    url = variables.get(DATABASE_VARIABLE, "")
    try:
        settings = _settings(home, url)
        queue = redis_address(variables.get(REDIS_VARIABLE, ""))
    except WrongAddress as wrong:
        raise Stop(str(wrong)) from None
    if settings["ENGINE"] == SQLITE and os.geteuid() == 0:
        _check_file(home, Path(settings["NAME"]))
    return Backing(database_url=url, redis_url=queue)


def wait_for_backing(home: Home, backing: Backing) -> None:
    """Says what is used, and waits until it answers. Raises Stop with the reason and the remedy."""
    if backing.database_url:
        step(f"Rows: {backing.database}")
    settings = _settings(home, backing.database_url)
    if settings["ENGINE"] == POSTGRESQL:
        parameters = {
            "dbname": settings["NAME"],
            "user": settings["USER"],
            "password": settings["PASSWORD"],
            "host": settings["HOST"],
            "port": settings["PORT"],
            **settings["OPTIONS"],
        }
        known = {name: value for name, value in parameters.items() if value not in ("", None)}
        _wait_for(lambda: psycopg.connect(**known).close(), backing.database, DATABASE_VARIABLE)
    if backing.redis_url:
        step(f"Queue: {backing.queue}")
        client = redis.Redis.from_url(backing.redis_url, socket_connect_timeout=CONNECT_SECONDS)
        _wait_for(client.ping, backing.queue, REDIS_VARIABLE)


def _settings(home: Home, url: str) -> dict[str, Any]:
    file = home.folder("db") / "platform.sqlite3"
    return database_settings(url, default_file=file, name=f"mlops-{home.installation_id}")


def _check_file(home: Home, file: Path) -> None:
    """The web process has an account of its own, which is given that folder only."""
    folder = home.folder("db")
    if file.resolve().parent != folder.resolve():
        raise Stop(
            f"{DATABASE_VARIABLE} names the SQLite file {file}, which the web process could not "
            f"write. Choose a file in {folder}, or leave {DATABASE_VARIABLE} out."
        )


def _wait_for(ask: Callable[[], object], what: str, variable: str) -> None:
    """Servers of one machine start side by side: a refusal is not final at once."""
    deadline = time.monotonic() + WAIT_SECONDS
    told = ""
    while True:
        try:
            ask()
            return
        except psycopg.ProgrammingError as error:
            raise Stop(f"{variable} cannot be used: {_reason(error)}") from None
        except (psycopg.OperationalError, redis.RedisError) as error:
            reason = _reason(error)
        if time.monotonic() > deadline:
            raise Stop(
                f"{what} does not answer: {reason}. Start it, or correct {variable} (host, port, "
                "user, password, name)."
            )
        if reason != told:
            warn(f"{what} does not answer yet: {reason}. Waiting for at most {WAIT_SECONDS} s.")
            told = reason
        time.sleep(POLL_SECONDS)


def _reason(error: Exception) -> str:
    """Its first line: what follows are hints of the library's own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removesuffix(".") if lines else type(error).__name__

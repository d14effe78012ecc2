"""A PostgreSQL and a Redis that exist for tests and benchmarks only, on free ports of loopback.

Each is tied to the life of the process that starts it: the kernel kills it when that one dies.
"""

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis

from deploy.accounts import CHECKOUT
from deploy.report import Stop

POSTGRESQL_PROGRAMS = Path("/usr/lib/postgresql")
POSTGRESQL_ACCOUNT = "postgres"
START_SECONDS = 30
STOP_SECONDS = 20
POLL_SECONDS = 0.05
DATABASE = "mlops"
# A test's rows need not outlive a power cut; that the server is killed they must.
QUICK = ("fsync=off", "full_page_writes=off")
# In its own folder, so that nothing of a killed server stays in the machine's shared memory.
OWN_FOLDER = ("unix_socket_directories=", "dynamic_shared_memory_type=mmap")


def missing_packages() -> list[str]:
    """What Debian calls the servers that are not installed here."""
    missing = [] if _postgresql_programs() else ["postgresql"]
    return missing if shutil.which("redis-server") else [*missing, "redis-server"]


@dataclass
class Server:
    """One server process, which may be stopped and started again with what it has on disk."""

    command: list[str]
    log: Path
    uid: int | None = None
    gid: int | None = None
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        order: dict[str, Any] = {"uid": self.uid, "gid": self.gid, "covered": [], "needed": []}
        child = [sys.executable, "-m", "deploy.child", json.dumps({**order, "parent": os.getpid()})]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*child, *self.command],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """In order: SIGINT makes PostgreSQL cut its clients off and Redis end."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a machine that dies does."""
        self._end(signal.SIGKILL)

    def wait_until(self, answers: Callable[[], bool]) -> None:
        """Raises Stop with the last lines of its log."""
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                raise Stop(f"{self.command[0]} did not start: {self.log.read_text()[-1000:]}")
            time.sleep(POLL_SECONDS)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@dataclass
class PostgresqlServer:
    """`url` is that of an empty database, whose user may make others."""

    url: str
    server: Server

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def start(self) -> None:
        self.server.start()
        self.server.wait_until(self.answers)

    def stop(self) -> None:
        self.server.stop()

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query, or none of a command that has no rows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def cut_everybody_off(self) -> int:
        """Ends every connection to it but the one that asks; returns how many there were."""
        others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL"
        return len(self.ask(f"SELECT pg_terminate_backend(pid) {others}"))  # noqa: S608


@dataclass
class RedisServer:
    """It keeps nothing on disk: stopped and started again it is empty."""

    url: str
    server: Server

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    @property
    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        self.server.start()
        self.server.wait_until(self.answers)

    def stop(self) -> None:
        self.server.stop()


def free_port() -> int:
    """A port of loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def let_pass(folder: Path) -> None:
    """Other accounts may pass the folders of ours that lead to `folder`."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)


@contextmanager
def postgresql(folder: Path) -> Iterator[PostgresqlServer]:
    """A cluster of its own in `folder`, which is made. Raises Stop."""
    programs = _postgresql_programs()
    if programs is None:
        raise Stop("PostgreSQL is not installed: apt-get install postgresql")
    account, port = _account(), free_port()
    password, data = secrets.token_urlsafe(12), folder / "data"
    folder.mkdir()
    let_pass(folder)
    key = folder / "password"
    key.write_text(password)
    if account is not None:
        for path in (folder, key):
            os.chown(path, account.pw_uid, account.pw_gid)
    _initialise(programs, data, key=key, account=account)
    settings = (*QUICK, *OWN_FOLDER, "listen_addresses=127.0.0.1", f"port={port}")
    options = [word for setting in settings for word in ("-c", setting)]
    server = Server(
        command=[str(programs / "postgres"), "-D", str(data), *options],
        log=folder / "server.log",
        uid=account.pw_uid if account else None,
        gid=account.pw_gid if account else None,
    )
    address = f"postgresql://{DATABASE}:{password}@127.0.0.1:{port}"
    try:
        PostgresqlServer(f"{address}/postgres", server).start()
        PostgresqlServer(f"{address}/postgres", server).ask(f"CREATE DATABASE {DATABASE}")
        yield PostgresqlServer(f"{address}/{DATABASE}", server)
    finally:
        server.stop()


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A Redis with a password, in `folder`, which is made. Raises Stop."""
    program = shutil.which("redis-server")
    if program is None:
        raise Stop("Redis is not installed: apt-get install redis-server")
    folder.mkdir()
    password = secrets.token_urlsafe(12)
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", "--requirepass", password]
    server = Server(command=command, log=folder / "server.log")
    running = RedisServer(f"redis://:{password}@127.0.0.1:{port}/0", server)
    try:
        running.start()
        yield running
    finally:
        server.stop()


def _postgresql_programs() -> Path | None:
    """The newest that is installed; Debian keeps them out of the PATH."""
    found = sorted(POSTGRESQL_PROGRAMS.glob("*/bin/initdb"), key=lambda path: path.parts[-3])
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).resolve().parent if elsewhere else None


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root; None: as who we are."""
    return pwd.getpwnam(POSTGRESQL_ACCOUNT) if os.geteuid() == 0 else None


def _initialise(
    programs: Path, data: Path, *, key: Path, account: pwd.struct_passwd | None
) -> None:
    command = [str(programs / "initdb"), "--pgdata", str(data), "--username", DATABASE]
    command += ["--auth", "scram-sha-256", "--pwfile", str(key), "--encoding", "UTF8"]
    command += ["--locale", "C.UTF-8", "--no-sync"]
    done = subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    if done.returncode:
        raise Stop(f"initdb failed: {done.stderr.strip()[-500:]}")

"""The gate itself: an ASGI application around MLflow's.

Reads pass. Of writes it asks MLflow who sends them; those of a job's user are held to what `writes`
and `ledger` say, all others pass. It never widens a right: MLflow still decides behind it.
"""

import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qs

import anyio

from registry.gate.ledger import Ledger, TooMuch
from registry.gate.writes import (
    Call,
    Made,
    Refused,
    Upload,
    check_call,
    check_upload,
    parsed,
    write_of,
)
from registry.job_users import is_job_user

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# MLflow holds the body of a call in memory, and so do we.
CALL_MAX_BYTES = 16 * 1024 * 1024
# A file whose length nobody says: clients send empty ones so.
UNSAID_MAX_BYTES = 1024 * 1024
READ_MAX_BYTES = 64 * 1024
# At most as much is read and thrown away of what is refused.
DRAINED_BYTES = 16 * 1024**3
SENT_PATH = "/api/2.0/mlflow/job-uploads"
USERS_PATH = "/api/2.0/mlflow/job-users"
USERS_DELETE = "/mlflow/users/delete"
TOO_MUCH = "RESOURCE_LIMIT_EXCEEDED"


class User(Protocol):
    """As MLflow describes one."""

    username: str
    is_admin: bool


class _Answered(Exception):
    """The request ends here, with this answer."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Gate:
    """`authenticate` is MLflow's own look at a name and a password; it may block.

    So may `make_user`, which makes one who may write to the experiment of a name: name, password,
    experiment. It says the experiment's id, or nothing, and has made nobody, where there is none.
    """

    def __init__(
        self,
        application: Application,
        *,
        authenticate: Callable[[str, str], User | None],
        make_user: Callable[[str, str, str], str],
        ledger: Ledger,
    ) -> None:
        self._application = application
        self._authenticate = authenticate
        self._make_user = make_user
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        incoming = _Incoming(receive)
        try:
            await self._pass(scope, incoming, send)
        except _Answered as answered:
            await incoming.drain(_length(scope) or UNSAID_MAX_BYTES)
            await _answer(send, answered)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in SAFE and scope["path"] != SENT_PATH:
            if (_length(scope) or 0) > READ_MAX_BYTES or _header(scope, b"transfer-encoding"):
                raise _too_large("A read has no body.")
            await self._application(scope, receive, send)
            return
        user = await self._user(scope)
        if scope["path"] == SENT_PATH:
            await self._tell(scope, send, user)
        elif scope["path"] == USERS_PATH:
            await self._let_in(receive, send, user)
        elif is_job_user(user.username):
            await self._pass_jobs_write(scope, receive, send, user.username)
        elif scope["path"].endswith(USERS_DELETE):
            await self._pass_and_forget(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _user(self, scope: Scope) -> User:
        """Raises _Answered for nobody: MLflow's two halves read such headers differently."""
        named = _credentials(scope)
        user = None
        if named is not None:
            user = await anyio.to_thread.run_sync(self._authenticate, *named)
        if user is None:
            raise _Answered(
                HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", "You are not authenticated."
            )
        return user

    # -- a job's writes ------------------------------------------------------------------------
    async def _pass_jobs_write(
        self, scope: Scope, receive: Receive, send: Send, username: str
    ) -> None:
        try:
            write = write_of(scope["path"], scope["query_string"])
            if isinstance(write, Upload):
                check_upload(write, owns=partial(self._ledger.owns, username))
                await self._pass_upload(scope, receive, send, username)
            else:
                await self._pass_call(scope, receive, send, username, write)
        except Refused as refused:
            raise _Answered(
                HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", f"Permission denied. {refused}"
            ) from None
        except TooMuch as refused:
            raise _too_large(str(refused)) from None

    async def _pass_upload(self, scope: Scope, receive: Receive, send: Send, username: str) -> None:
        length = _length(scope)
        if length is None:
            body = await _body(receive, UNSAID_MAX_BYTES)
            self._ledger.charge(username, size=len(body), files=1)
            await self._application(_with_length(scope, body), _given(body, receive), send)
            return
        # What a server in front of us reads is as long as it says, or an error.
        self._ledger.charge(username, size=length, files=1)
        await self._application(scope, receive, send)

    async def _pass_call(
        self, scope: Scope, receive: Receive, send: Send, username: str, call: Call
    ) -> None:
        body = await _body(receive, CALL_MAX_BYTES)
        if call.checked:
            document = parsed(body)
            check_call(
                call,
                document,
                username=username,
                owns=partial(self._ledger.owns, username),
            )
            # What was looked at is what MLflow gets, to the letter.
            body = json.dumps(document).encode()
        self._ledger.charge(username, size=len(body), files=0)
        scope = _with_length(scope, body)
        if call.makes is None:
            await self._application(scope, _given(body, receive), send)
            return
        await self._pass_and_note(scope, _given(body, receive), send, username, call.makes)

    async def _pass_and_note(
        self, scope: Scope, receive: Receive, send: Send, username: str, makes: Made
    ) -> None:
        """Before the client knows the id of what was made, it is known whose that is."""
        held = await self._answer_held(scope, receive)
        made = makes.id_in(b"".join(message.get("body", b"") for message in held))
        if made and held[0].get("status") == HTTPStatus.OK:
            self._ledger.note_made(username, made)
        for message in held:
            await send(message)

    async def _answer_held(self, scope: Scope, receive: Receive) -> list[Message]:
        """MLflow's whole answer, not yet sent."""
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        await self._application(scope, receive, hold)
        return held

    # -- the platform's calls ------------------------------------------------------------------
    async def _tell(self, scope: Scope, send: Send, user: User) -> None:
        """What of a job's was refused because it was too much."""
        _check_administrator(user)
        named = parse_qs(scope["query_string"].decode("latin-1")).get("username", [""])
        await _send(send, HTTPStatus.OK, {"refused": self._ledger.refused(named[0])})

    async def _let_in(self, receive: Receive, send: Send, user: User) -> None:
        """A job's user in one call: three of MLflow's take it 55 ms of every job's start."""
        _check_administrator(user)
        asked = parsed(await _body(receive, CALL_MAX_BYTES))
        names = ("username", "password", "experiment_name")
        username, password, experiment = (str(asked.get(name, "")) for name in names)
        experiment_id = ""
        if username and password and experiment:
            make = partial(self._make_user, username, password, experiment)
            experiment_id = await anyio.to_thread.run_sync(make)
        await _send(send, HTTPStatus.OK, {"experiment_id": experiment_id})

    async def _pass_and_forget(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Who hears that a user is gone finds nothing of him here either."""
        body = await _body(receive, CALL_MAX_BYTES)
        held = await self._answer_held(scope, _given(body, receive))
        if held and held[0].get("status", 0) < HTTPStatus.BAD_REQUEST:
            self._ledger.forget(str(parsed(body).get("username", "")))
        for message in held:
            await send(message)


class _Incoming:
    """The client's messages. Behind the last one of a body nobody may wait for more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._over = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._over = not message.get("more_body", False)
        return message

    async def drain(self, most: int) -> None:
        """So that a client which is still sending hears why it is refused."""
        left = min(most, DRAINED_BYTES)
        while left > 0 and not self._over:
            message = await self()
            left -= len(message.get("body", b""))


def _check_administrator(user: User) -> None:
    """Raises _Answered."""
    if not user.is_admin:
        raise _Answered(HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", "Permission denied.")


def _credentials(scope: Scope) -> tuple[str, str] | None:
    named = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(named) != 1:
        return None
    scheme, _, given = named[0].partition(b" ")
    try:
        text = base64.b64decode(given, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    username, separator, password = text.partition(":")
    return (username, password) if scheme.lower() == b"basic" and separator else None


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _length(scope: Scope) -> int | None:
    """None where nobody says it, or where another header says that it does not count."""
    given = _header(scope, b"content-length")
    chunked = _header(scope, b"transfer-encoding")
    return int(given) if given.isdigit() and not chunked else None


def _with_length(scope: Scope, body: bytes) -> Scope:
    """For a body that we hold."""
    about = (b"content-length", b"transfer-encoding", b"content-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in about]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


async def _body(receive: Receive, most: int) -> bytes:
    """Raises _Answered for more than `most` bytes."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            raise _too_large(f"A body without Content-Length or of a call is at most {most} bytes.")
        if not message.get("more_body", False):
            return b"".join(pieces)


def _given(body: bytes, receive: Receive) -> Receive:
    """The body at once; afterwards what the client does."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return left.pop() if left else await receive()

    return give


def _too_large(message: str) -> _Answered:
    return _Answered(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_MUCH, message)


async def _answer(send: Send, answered: _Answered) -> None:
    document = {"error_code": answered.code, "message": answered.message}
    await _send(send, answered.status, document)


async def _send(send: Send, status: HTTPStatus, document: dict[str, str]) -> None:
    headers = [(b"content-type", b"application/json")]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b'Basic realm="mlflow"'))
    start = {"type": "http.response.start", "status": int(status), "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})

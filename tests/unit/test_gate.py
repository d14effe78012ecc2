"""The gate before MLflow, around an application that only writes down what reaches it."""

import asyncio
import base64
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from registry.gate import asgi
from registry.gate.asgi import Gate, Message, Receive, Scope, Send
from registry.gate.ledger import Bounds, Ledger
from registry.job_users import attempt_tag, is_tag_of, new_user_name

API = "/api/2.0/mlflow"
JOB = uuid.uuid4()
OWN = new_user_name("an-installation", JOB, 2)
EXPERIMENT = "7"
RUN, MODEL = "a" * 32, f"m-{'b' * 32}"
MIB = 1024 * 1024


class Person:
    """A user as MLflow has one; the password is his name."""

    def __init__(self, username: str) -> None:
        self.username = username
        self.is_admin = username == "admin"


class Mlflow:
    """Answers every request in the same way, and keeps what came."""

    def __init__(self) -> None:
        self.came: list[tuple[str, bytes]] = []
        self.answer: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        self.came.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(self.answer).encode()})


class Wire:
    """Requests to the gate, without a socket."""

    def __init__(self, folder: Path) -> None:
        self.mlflow = Mlflow()
        self.ledger = Ledger(folder / "jobs.db", Bounds(megabytes=2, files=3))

        def authenticate(username: str, password: str) -> Person | None:
            return Person(username) if username == password else None

        def make_user(username: str, password: str, experiment_name: str) -> str:
            self.users.append((username, password, experiment_name))
            return EXPERIMENT

        self.users: list[tuple[str, str, str]] = []
        self.gate = Gate(
            self.mlflow, authenticate=authenticate, make_user=make_user, ledger=self.ledger
        )
        self.owned_when_told = False

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        pieces: list[bytes] | None = None,
        username: str = OWN,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> tuple[int, dict[str, Any]]:
        """`pieces` come without a length."""
        path, _, query = path.partition("?")
        word = base64.b64encode(f"{username}:{username}".encode())
        given = [(b"authorization", b"Basic " + word), *headers]
        if pieces is None:
            pieces = [body if isinstance(body, bytes) else json.dumps(body or {}).encode()]
            given.append((b"content-length", str(len(pieces[0])).encode()))
        left = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        ]
        said: list[Message] = []

        async def receive() -> Message:
            assert left, "it waits for more than there is"
            return left.pop(0)

        async def tell(message: Message) -> None:
            self.owned_when_told = self.ledger.owns(OWN, RUN)
            said.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": given,
        }
        asyncio.run(self.gate(scope, receive, tell))
        return said[0]["status"], json.loads(said[1]["body"] or b"{}")


@pytest.fixture
def wire(tmp_path: Path) -> Wire:
    wire = Wire(tmp_path)
    for made in (RUN, MODEL):
        wire.ledger.note_made(OWN, made)
    return wire


def test_a_name_tells_the_attempt_it_was_made_for_and_no_other():
    assert is_tag_of(OWN, attempt_tag(JOB, 2))
    assert not is_tag_of(OWN, attempt_tag(JOB, 1))
    assert not is_tag_of(OWN, attempt_tag(uuid.uuid4(), 2))
    assert not is_tag_of("job-x", attempt_tag(JOB, 2))


def test_what_a_job_makes_is_its_own_from_then_on(wire: Wire):
    made = "c" * 32
    metric = {"run_id": made, "key": "x", "value": 1}
    assert wire.send("POST", f"{API}/runs/log-metric", body=metric)[0] == 403
    wire.mlflow.answer = {"run": {"info": {"run_id": made}}}
    assert wire.send("POST", f"{API}/runs/create", body={"experiment_id": "1"})[0] == 200
    assert wire.send("POST", f"{API}/runs/log-metric", body=metric)[0] == 200
    other = new_user_name("an-installation", uuid.uuid4(), 1)
    assert wire.send("POST", f"{API}/runs/log-metric", body=metric, username=other)[0] == 403


def test_mlflow_gets_the_very_document_that_was_looked_at(wire: Wire):
    """Of two names that are the same, each reader may take another one."""
    theirs = f'{{"run_id": "{"d" * 32}", "key": "x", "run_id": "{RUN}"}}'.encode()
    assert wire.send("POST", f"{API}/runs/set-tag", body=theirs)[0] == 200
    assert wire.mlflow.came[-1][1].count(b"run_id") == 1
    twice = json.dumps(json.dumps({"run_id": "d" * 32})).encode()
    assert wire.send("POST", f"{API}/runs/set-tag", body=twice)[0] == 403
    for nonsense in (b"[]", b"{", b"\xff", b"[" * 100_000):
        assert wire.send("POST", f"{API}/runs/set-tag", body=nonsense)[0] == 403


@pytest.mark.parametrize(
    "place",
    [
        f"1/{RUN}/artifacts/plot.png",
        f"1/{RUN}/artifacts/100%/of it.csv",
        f"1/models/{MODEL}/artifacts/data/model.pkl",
        f"1/traces/tr-{'e' * 32}/artifacts/traces.json",
    ],
)
def test_a_job_stores_files_in_what_it_made(wire: Wire, place: str):
    path = f"/api/2.0/mlflow-artifacts/artifacts/{place}"
    assert wire.send("PUT", path, body=b"x")[0] == 200


@pytest.mark.parametrize(
    "place",
    [
        f"1/{'d' * 32}/artifacts/plot.png",
        f"1/models/m-{'d' * 32}/artifacts/MLmodel",
        f"1/{RUN}/artifacts/../../{'d' * 32}/artifacts/x",
        f"1/{RUN}/artifacts/%2e%2e/x",
        f"1/{RUN}/artifacts/%25252e%25252e/x",
        f"1/{RUN}/artifacts/..\\x",
        f"1/{RUN}/artifacts/\n/../x",
        f"1/{RUN}/artifacts/" + "a/" * 40,
        f"1/{RUN}/x",
        f"/1/{RUN}/artifacts/x",
        "1/x",
        "",
    ],
)
def test_and_nowhere_else(wire: Wire, place: str):
    path = f"/api/2.0/mlflow-artifacts/artifacts/{place}"
    assert wire.send("PUT", path, body=b"x")[0] == 403
    assert wire.mlflow.came == []


def test_reads_and_other_peoples_writes_pass(wire: Wire):
    theirs = {"run_id": "d" * 32, "key": "x", "value": "y"}
    assert wire.send("POST", f"{API}/runs/search", body={"experiment_ids": ["1"]})[0] == 200
    assert wire.send("GET", f"{API}/runs/get?run_id={'d' * 32}", body=b"")[0] == 200
    assert wire.send("POST", f"{API}/runs/set-tag", body=theirs, username="ada")[0] == 200
    inputs = {"run_id": RUN, "models": [{"model_id": f"m-{'d' * 32}"}]}
    assert wire.send("POST", f"{API}/runs/log-inputs", body=inputs)[0] == 200
    source = {"name": "m", "source": f"models:/m-{'d' * 32}", "model_id": f"m-{'d' * 32}"}
    assert wire.send("POST", f"{API}/model-versions/create", body=source)[0] == 200


def test_what_is_sent_is_counted_and_what_is_too_much_is_refused_once_it_was_all_heard(wire: Wire):
    path = f"/api/2.0/mlflow-artifacts/artifacts/1/{RUN}/artifacts/x"
    assert wire.send("PUT", path, body=b"x" * MIB)[0] == 200
    status, told = wire.send("PUT", path, body=b"x" * (MIB + 1))
    assert (status, told["message"]) == (413, "A job may send at most 2 MiB to MLflow.")
    assert wire.ledger.refused(OWN) == told["message"]
    # Without a length, or with one that does not count.
    lying = ((b"content-length", b"1"), (b"transfer-encoding", b"chunked"))
    long = [b"x" * (asgi.UNSAID_MAX_BYTES // 2)] * 3
    assert wire.send("PUT", path, pieces=list(long))[0] == 413
    assert wire.send("PUT", path, pieces=list(long), headers=lying)[0] == 413
    for _ in range(2):
        assert wire.send("PUT", path, pieces=[b""])[0] == 200
    status, told = wire.send("PUT", path, pieces=[b""])
    assert (status, told["message"]) == (413, "A job may send at most 3 files to MLflow.")
    assert len(wire.mlflow.came) == 3


def test_only_the_administrator_hears_what_was_refused_and_ends_what_is_known(wire: Wire):
    asked = f"{asgi.SENT_PATH}?username={OWN}"
    assert wire.send("GET", asked)[0] == 403
    assert wire.send("GET", asked, username="ada")[0] == 403
    assert wire.send("GET", asked, username="admin") == (200, {"refused": ""})
    gone = {"username": OWN}
    wire.send("DELETE", f"{API}/users/delete", body=gone)
    assert wire.ledger.owns(OWN, RUN)
    wire.send("DELETE", f"{API}/users/delete", body=gone, username="admin")
    assert not wire.owned_when_told


def test_only_the_administrator_lets_a_job_in(wire: Wire):
    asked = {"username": OWN, "password": "x" * 40, "experiment_name": "churn"}
    for username in (OWN, "ada", "nobody-else"):
        assert wire.send("POST", asgi.USERS_PATH, body=asked, username=username)[0] == 403
    assert wire.users == []
    told = wire.send("POST", asgi.USERS_PATH, body=asked, username="admin")
    assert told == (200, {"experiment_id": EXPERIMENT})
    assert wire.users == [(OWN, "x" * 40, "churn")]
    assert wire.mlflow.came == []
    half = {**asked, "password": ""}
    told = wire.send("POST", asgi.USERS_PATH, body=half, username="admin")
    assert told == (200, {"experiment_id": ""})
    assert len(wire.users) == 1


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Basic")],
        [(b"authorization", b"Basic !!")],
        [(b"authorization", b"Basic " + base64.b64encode(b"admin:wrong"))],
        [(b"authorization", b"Basic " + base64.b64encode(b"admin:admin") + b" ")],
        [(b"authorization", b"Bearer " + base64.b64encode(b"admin:admin"))],
        [(b"authorization", b"Basic " + base64.b64encode(b"admin:admin"))] * 2,
    ],
)
def test_a_write_without_one_clear_password_does_not_reach_mlflow(
    wire: Wire, headers: list[tuple[bytes, bytes]]
):
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def tell(message: Message) -> None:
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": f"{API}/runs/create"}
    asyncio.run(wire.gate({**scope, "query_string": b"", "headers": headers}, receive, tell))
    assert said[0]["status"] == 401 and wire.mlflow.came == []

"""Calls of MLflow's REST API: connections, errors, pages, and what happens while it is silent."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import requests

from registry.mlflow_errors import RegistryRefused, RegistryUnavailable


class MlflowRest:
    """One MLflow server, asked as one user."""

    def __init__(
        self, tracking_uri: str, *, username: str, password: str, call_seconds: float
    ) -> None:
        self._uri = tracking_uri.rstrip("/")
        self._credentials = (username, password)
        self._call_seconds = call_seconds
        self._local = threading.local()
        self._silent = False
        self._turn = threading.Lock()

    def answers(self, *, timeout_seconds: float) -> bool:
        """Whether anybody is there, within `timeout_seconds`."""
        try:
            answer = requests.get(f"{self._uri}/health", timeout=timeout_seconds)
        except requests.RequestException:
            return False
        return answer.ok

    def get(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        answer = self.call("GET", f"/api/2.0/mlflow/{path}", params=dict(params)).json()
        return dict(answer)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self.call("POST", f"/api/2.0/mlflow/{path}", json=dict(body)).json())

    def pages(
        self, method: str, path: str, asked: Mapping[str, Any], key: str
    ) -> Iterator[dict[str, Any]]:
        """What is in `key` of each page, asked for as it is needed."""
        where = "json" if method == "POST" else "params"
        token = ""
        while True:
            body = {**asked, "page_token": token} if token else dict(asked)
            options: dict[str, Any] = {where: body}
            answer = self.call(method, f"/api/2.0/mlflow/{path}", **options).json()
            yield from answer.get(key, [])
            token = answer.get("next_page_token", "")
            if not token:
                return

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Raises RegistryUnavailable (no answer, or a 5xx) and RegistryRefused (a 4xx)."""
        with self._in_turn():
            try:
                answer = self._session().request(
                    method, f"{self._uri}{path}", timeout=self._call_seconds, **options
                )
            except requests.Timeout as error:
                self._silent = True
                raise RegistryUnavailable from error
            except requests.RequestException as error:
                raise RegistryUnavailable from error
            self._silent = False
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RegistryUnavailable
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise _refusal(answer)
        return answer

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """While MLflow is silent, one thread asks whether it is back, and the others do not wait
        with it: a server that hangs would soon hold every thread of the web process.

        Raises RegistryUnavailable.
        """
        if not self._silent:
            yield
            return
        if not self._turn.acquire(blocking=False):
            raise RegistryUnavailable
        try:
            yield
        finally:
            self._turn.release()

    def _session(self) -> requests.Session:
        """One for each thread: requests' sessions are not safe to share."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.auth = self._credentials
            # The environment's proxies and .netrc are for the outside; MLflow is ours.
            self._local.session.trust_env = False
        return self._local.session


def _refusal(answer: requests.Response) -> RegistryRefused:
    try:
        told = answer.json()
    except ValueError:
        told = {}
    detail = str(told.get("message") or f"MLflow answered {answer.status_code}.")
    return RegistryRefused(detail[:500], mlflow_code=str(told.get("error_code", "")))

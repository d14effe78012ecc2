"""What may go wrong with the Docker Engine, in place of the errors of its SDK."""

import json
import struct
from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec, TypeVar

import requests
from docker.errors import APIError, DockerException
from urllib3.exceptions import HTTPError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
BROKEN_OFF = (HTTPError, OSError, struct.error, json.JSONDecodeError)


class EngineUnavailable(Exception):
    """The Docker Engine does not answer; the same call may succeed later."""


class EngineError(Exception):
    """The Docker Engine answered with an error."""


class SandboxMismatch(Exception):
    """The engine made a container that is not what the spec asks for; it was removed unstarted."""

    def __init__(self, differences: list[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = differences


def mapped(call: Callable[P, R]) -> Callable[P, R]:
    """Turns the SDK's and the transport's errors into ours."""

    @wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except APIError as error:
            raise EngineError(str(error.explanation or error)) from error
        except (DockerException, requests.RequestException) as error:
            raise EngineUnavailable(str(error)) from error

    return guarded


def guarded_stream(stream: Iterator[T]) -> Iterator[T]:
    """The SDK reads streams below `requests`: an engine that dies breaks them off in the middle."""
    try:
        yield from stream
    except (DockerException, requests.RequestException, *BROKEN_OFF) as error:
        raise EngineUnavailable(str(error)) from error

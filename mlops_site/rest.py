"""How the API reads and writes: JSON, whatever a client says that it accepts."""

import codecs
import json
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

from rest_framework.exceptions import ParseError
from rest_framework.metadata import BaseMetadata
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

if TYPE_CHECKING:
    # Views import this module: their defaults name it.
    from rest_framework.views import APIView


class FirstRenderer(DefaultContentNegotiation):
    """There is one form of every answer; asking for another one is no reason to refuse."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, first.media_type or ""


class ObjectParser(JSONParser):
    """A JSON object of bounded size. Raises ParseError, RequestDataTooBig."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        # The stream itself has no bound; Django's `body` has.
        body: bytes = (parser_context or {})["request"]._request.body
        try:
            value = json.loads(codecs.decode(body, "utf-8"))
        except UnicodeDecodeError:
            raise ParseError("The body is not UTF-8 text.") from None
        except ValueError as error:
            raise ParseError(f"The body is not JSON: {error}.") from None
        except RecursionError:
            raise ParseError("The body is nested too deeply.") from None
        if not isinstance(value, dict):
            raise ParseError("The body must be a JSON object.")
        return value


class Methods(BaseMetadata):
    """What `OPTIONS` answers: which methods there are, and where they are described."""

    def determine_metadata(self, request: Request, view: "APIView") -> dict[str, Any]:
        return {"methods": view.allowed_methods, "documentation": "/docs"}

"""What the web process and the process that reads features say to each other.

Each message is JSON with its length before it. Nothing here knows Feast, Django or asyncio.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

LENGTH = struct.Struct(">I")


class Source(StrEnum):
    """How a request names its features."""

    SERVICE = "feature_service"
    VIEWS = "feature_views"
    NAMES = "features"


class Gone(StrEnum):
    """Why there is no value; the words for users."""

    UNKNOWN = "the online store has nothing for it"
    NULL = "the online store has null"
    EXPIRED = "its value is older than the feature view's ttl"
    UNUSABLE = "its value has no form in JSON"


@dataclass(frozen=True)
class FeatureQuestion:
    """Which features, by the name of a service, of views, or of features; and for whom."""

    source: Source
    names: tuple[str, ...]
    entities: dict[str, list[Any]]

    def document(self) -> dict[str, Any]:
        return {"source": self.source, "names": self.names, "entities": self.entities}

    @classmethod
    def read(cls, document: dict[str, Any]) -> "FeatureQuestion":
        names = tuple(document["names"])
        return cls(Source(document["source"]), names, document["entities"])


@dataclass(frozen=True)
class Feature:
    """One feature's value for each entity; None where there is none, and there `gone` says why."""

    view: str
    name: str
    values: list[Any]
    gone: list[tuple[int, str]]

    @property
    def full_name(self) -> str:
        """As Feast calls it where names of two views could be mixed up."""
        return f"{self.view}__{self.name}"

    def document(self) -> dict[str, Any]:
        told = {"view": self.view, "name": self.name, "values": self.values}
        return {**told, "gone": [(row, str(why)) for row, why in self.gone]}

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Feature":
        gone = [(int(row), str(why)) for row, why in document["gone"]]
        return cls(document["view"], document["name"], document["values"], gone)


class NotReadable(Exception):
    """The question cannot be answered as it is; every place in it that is wrong."""

    def __init__(self, code: str, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__(errors[0][1])
        self.code = code
        self.errors = list(errors)

    def document(self) -> dict[str, Any]:
        return {"code": self.code, "errors": self.errors}

    @classmethod
    def read(cls, document: dict[str, Any]) -> "NotReadable":
        return cls(document["code"], [(field, detail) for field, detail in document["errors"]])


class NotNow(Exception):
    """It may be answered in a moment; a sentence for the user."""


def framed(message: dict[str, Any]) -> bytes:
    content = orjson.dumps(message)
    return LENGTH.pack(len(content)) + content

"""A sample of requests with their answers, for operators; off unless the settings name a rate.

Whoever answers a request only puts what it has into a bounded queue: where that is full the record
is dropped and counted. A thread of its own parses and writes. What it holds is data of customers.
"""

import logging
import queue
import random
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from django.conf import settings
from prometheus_client import Counter

from inference import metrics
from inference.answers import Predicted
from inference.refusals import Problem
from inference.request_files import Kept, RequestFiles, purge

log = logging.getLogger(__name__)

# Each record has two parts at most, of 64 KiB as a rule.
WAITING_MOST = 512
# One write for what comes within it: whoever answers gives up the interpreter less often.
GATHER_SECONDS = 0.05
PURGE_SECONDS = 600.0
END_SECONDS = 2.0
LOGGED = Counter("mlops_request_log_records", "Requests written down.", registry=metrics.REGISTRY)
DROPPED = Counter(
    "mlops_request_log_dropped",
    "Requests chosen to be written down that were not: too many at once, or no room on the disk.",
    registry=metrics.REGISTRY,
)


@dataclass(frozen=True)
class Record:
    """One request as it was passed on, and its end; None in the place of what is too long."""

    model_name: str
    version: str
    request_id: str
    status: int
    code: str
    milliseconds: dict[str, float]
    asked: bytes | bytearray | None
    asked_bytes: int
    said: bytes | bytearray | None
    said_bytes: int
    at: float = field(default_factory=time.time)


class RequestLog:
    """Of one process."""

    def __init__(self, rates: dict[str, float]) -> None:
        self._usual = rates.get("*", 0.0)
        self._rates = rates
        self._most = settings.REQUEST_LOG_RECORD_BYTES
        self._waiting: queue.Queue[Record | None] = queue.Queue(WAITING_MOST)
        self._files = RequestFiles(settings.REQUEST_LOG_DIR, kept())
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def answered(self, predicted: Predicted, body: bytes, request_id: str) -> None:
        if self._is_chosen(predicted.model_name):
            key = (predicted.model_name, predicted.version)
            self._put(key, request_id, 200, "", predicted.stages, body, predicted.heard.content)

    def refused(
        self, key: tuple[str, str], problem: Problem, body: bytes, request_id: str, took_ms: float
    ) -> None:
        if self._is_chosen(key[0]):
            said = orjson.dumps({"detail": problem.detail, "errors": problem.errors})
            stages = {"total": took_ms}
            self._put(key, request_id, problem.status, problem.code, stages, body, said)

    def close(self) -> None:
        """What waits is written, as far as that takes no longer than a moment."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(END_SECONDS)

    def _is_chosen(self, name: str) -> bool:
        rate = self._rates.get(name, self._usual)
        return rate > 0 and random.random() < rate  # noqa: S311 - a sample, not a secret

    def _put(
        self,
        key: tuple[str, str],
        request_id: str,
        status: int,
        code: str,
        stages: dict[str, float],
        asked: bytes,
        said: bytes | bytearray,
    ) -> None:
        record = Record(
            *key,
            request_id=request_id,
            status=status,
            code=code,
            milliseconds=stages,
            asked=asked if len(asked) <= self._most else None,
            asked_bytes=len(asked),
            said=said if len(said) <= self._most else None,
            said_bytes=len(said),
        )
        self._begin()
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            DROPPED.inc()

    # -- the thread -----------------------------------------------------------------------------
    def _begin(self) -> None:
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        going = True
        while going:
            records, going = self._batch()
            try:
                if records:
                    self._files.append([_line(record) for record in records])
                    LOGGED.inc(len(records))
                else:
                    self._files.purge()
            except OSError as error:
                DROPPED.inc(len(records))
                log.error("request_log.not_written %s", error)

    def _batch(self) -> tuple[list[Record], bool]:
        """Those that wait, and whether more may come; none after a while without any."""
        records: list[Record] = []
        try:
            record = self._waiting.get(timeout=PURGE_SECONDS)
            time.sleep(GATHER_SECONDS)
            while record is not None:
                records.append(record)
                if len(records) == WAITING_MOST:
                    return records, True
                record = self._waiting.get_nowait()
        except queue.Empty:
            return records, True
        return records, False


def request_log() -> RequestLog | None:
    """None where the settings name no rate: then nothing of it is ever asked again."""
    rates = settings.REQUEST_LOG_RATES
    return RequestLog(rates) if any(rate > 0 for rate in rates.values()) else None


def kept() -> Kept:
    return Kept(settings.REQUEST_LOG_BYTES, settings.REQUEST_LOG_DAYS)


def purge_old() -> int:
    """Also where nothing is written any more: what was written grows old."""
    return purge(settings.REQUEST_LOG_DIR, kept())


def _line(record: Record) -> bytes:
    """Never longer than both bounds and a head together."""
    document: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        "model_name": record.model_name,
        "model_version": record.version,
        "status": record.status,
        "code": record.code,
        "milliseconds": {name: round(value, 3) for name, value in record.milliseconds.items()},
        "request": _part(record.asked),
        "request_bytes": record.asked_bytes,
        "answer": _part(record.said),
        "answer_bytes": record.said_bytes,
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _part(content: bytes | bytearray | None) -> Any:
    """Parsed once more, so that a line is one whatever a stranger's server wrote."""
    if content is None:
        return None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None

"""What serves a model or a version, summed up in one state and told server by server."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db.models import F, QuerySet

from inference.lanes import LaneTold, read_lane
from inference.models import ModelServer
from inference.services.rows import LIVE, Status
from inference.states import SEE_LOG, Reason, meaning
from registry.console import size

MIB = 1024 * 1024
NEARLY = 90
# What comes first is what the whole is called by.
ORDER = (Status.STARTING, Status.READY, Status.FAILED, Status.STOPPING, Status.STOPPED)
NOT_LOADED = "Not loaded"
SERVERS_SHOWN = 64
# What its reason says is on the page itself.
BELOW = "The last lines that it printed are below."


@dataclass(frozen=True)
class Serving:
    """`state` is that of a server, or `todo` where there is none; `detail` says why it failed."""

    state: str
    words: str
    detail: str = ""
    last_used_at: datetime | None = None
    is_live: bool = False


@dataclass(frozen=True)
class Server:
    """One server as its version's page tells of it; `percent` is its memory's."""

    row: ModelServer
    words: str
    why: str
    hint: str
    memory: str
    percent: int
    lane: LaneTold | None

    @property
    def is_nearly_full(self) -> bool:
        return self.percent >= NEARLY

    @property
    def can_stop(self) -> bool:
        return self.row.status in (Status.STARTING, Status.READY)


NOTHING = Serving("todo", NOT_LOADED)


def summed(servers: Sequence[ModelServer]) -> Serving:
    if not servers:
        return NOTHING
    counts = Counter(server.status for server in servers)
    # What was stopped is of no interest beside what runs.
    told = [one for one in ORDER if counts[one] and (one != Status.STOPPED or len(counts) == 1)]
    used = [server.last_used_at for server in servers if server.last_used_at]
    return Serving(
        state=told[0],
        words=_words(servers, counts, told),
        detail=_detail(servers, told[0]),
        last_used_at=max(used, default=None),
        is_live=any(server.status in LIVE for server in servers),
    )


def summed_by_model(names: Sequence[str]) -> dict[str, Serving]:
    """Of all versions together; one query."""
    return _summed_by(ModelServer.objects.filter(model_name__in=names), lambda row: row.model_name)


def summed_by_version(name: str) -> dict[str, Serving]:
    """Of each version of a model; one query."""
    return _summed_by(ModelServer.objects.filter(model_name=name), lambda row: row.version)


def servers_of(name: str, version: str) -> list[Server]:
    """By their number; one query. What they said of their model is not read."""
    rows = ModelServer.objects.filter(model_name=name, version=version).defer("description")
    told = rows.annotate(lane=F("description__lane")).order_by("replica")
    return [_server(row) for row in told[:SERVERS_SHOWN]]


def lane_of(servers: Sequence[Server]) -> LaneTold | None:
    """Of the server that knows most: all of them have the same files."""
    told = [server.lane for server in servers if server.lane is not None]
    settled = [lane for lane in told if lane.state in ("kept", "refused")]
    return next(iter(settled or told), None)


def lane_words(lane: LaneTold | None) -> tuple[str, str]:
    """What answers, and why."""
    if settings.FAST_LANE == "off":
        return "the model itself", "compact forms are switched off (MLOPS_FAST_LANE)"
    if lane is None:
        return "not known yet", "a server says it when it is ready"
    told = {
        "kept": ("compact form", lane.reason or "every answer agreed with the model's"),
        "refused": ("the model itself", lane.reason),
        "trying": ("the model itself", "its compact form is being compared with it"),
        "none": ("the model itself", lane.reason or "there is no compact form of such a model"),
    }
    return told[lane.state]


# -- helpers --------------------------------------------------------------------------------------
def _summed_by(
    rows: QuerySet[ModelServer], key: Callable[[ModelServer], str]
) -> dict[str, Serving]:
    groups: dict[str, list[ModelServer]] = {}
    for row in rows.defer("description", "log_tail").order_by("version", "replica"):
        groups.setdefault(key(row), []).append(row)
    return {name: summed(group) for name, group in groups.items()}


def _words(servers: Sequence[ModelServer], counts: Counter[str], told: Sequence[Status]) -> str:
    if len(told) == 1 and counts[told[0]] == 1:
        return _one(next(server for server in servers if server.status == told[0]))
    words = ", ".join(f"{counts[status]} {status.label.lower()}" for status in told)
    return str(told[0].label) if len(told) == 1 and told[0] == Status.STOPPED else words


def _one(server: ModelServer) -> str:
    phase = server.phase if server.status == Status.STARTING else ""
    return f"{server.get_status_display()} ({phase})" if phase else server.get_status_display()


def _detail(servers: Sequence[ModelServer], state: str) -> str:
    if state in (Status.READY, Status.STARTING, Status.STOPPING):
        return ""
    last = max(servers, key=lambda server: server.changed_at)
    return why_of(last)


def why_of(server: ModelServer) -> str:
    """Why it does not run, in its own words or those of its reason."""
    if server.status in LIVE:
        return ""
    return server.error or (meaning(server.reason).sentence if server.reason else "")


def hint_of(server: ModelServer) -> str:
    """What to do about a server that failed; empty for all others."""
    if server.status != Status.FAILED or not server.reason:
        return ""
    hint = meaning(server.reason).hint
    if hint == SEE_LOG:
        return BELOW if server.log_tail else ""
    return hint.format(model_name=server.model_name, version=server.version)


def _server(row: ModelServer) -> Server:
    memory, percent = "", 0
    if row.status == Status.READY:
        memory = f"{size(row.memory_mb)} at most, not measured yet"
        if row.memory_bytes is not None and row.memory_mb:
            used = row.memory_bytes / MIB
            memory = f"{size(used)} of {size(row.memory_mb)}"
            percent = min(100, round(100 * used / row.memory_mb))
    return Server(
        row=row,
        words=_one(row),
        why="" if row.reason == Reason.STOPPED_BY_HAND and row.status in LIVE else why_of(row),
        hint=hint_of(row),
        memory=memory,
        percent=percent,
        lane=read_lane(getattr(row, "lane", None)),
    )

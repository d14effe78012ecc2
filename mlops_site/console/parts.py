"""Each part of the platform as one line: whether it is well, since when, and what to do if not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Count, Value
from django.urls import reverse
from django.utils import timezone

from inference.models import ModelServer
from mlops_site.health import Part, Rows, database_kind, parts_by
from registry.console import size, visible
from registry.features import feature_store_status
from registry.holds import Held
from training.models import WaitingContainer

# No status of a server.
POOL = "waiting_pool"
WELL, ATTENTION, UNWELL = "completed", "warn", "failed"
STATE_WORDS = {WELL: "Well", ATTENTION: "Attention", UNWELL: "Does not work"}
HELD = {Held.PAUSED: "paused by {by}", Held.DRAINING: "worker drained by {by}"}
WHAT_HOLDS = {
    Held.PAUSED: "What is sent is accepted and waits; what runs goes on.",
    Held.DRAINING: "Nothing new is begun; what runs goes on to its end.",
}
ITS_LOG = "It is started again by itself; its log is in MLOPS_HOME/logs."
MLFLOW_LOG = f"If make run started it: {ITS_LOG[0].lower()}{ITS_LOG[1:]}"


@dataclass(frozen=True)
class Step:
    """What follows from a part that is not well: a sentence, and a page where there is one."""

    words: str = ""
    link: str = ""
    address: str = ""


@dataclass(frozen=True)
class Line:
    """`state` is one of WELL, ATTENTION and UNWELL; `told` is short, `detail` a sentence."""

    name: str
    state: str
    told: str
    age_seconds: float | None = None
    detail: str = ""
    step: Step = Step()

    @property
    def state_words(self) -> str:
        return STATE_WORDS[self.state]


def lines_of(rows: Rows) -> list[Line]:
    """What is unwell comes first. One query, MLflow's answer, a look at the feature store."""
    parts, containers = parts_by(rows), _containers()
    lines = [
        _line("Database", parts["database"], told=database_kind()),
        _line("Worker", parts["worker"], told="takes tasks", step=Step(ITS_LOG)),
        _line("Supervisor", parts["supervisor"], told="observes", step=Step(ITS_LOG)),
        _admission(rows),
        _line("Queue", parts["queue"], told="reached", step=Step("It is tried again by itself.")),
        _engine(parts["engine"], rows),
        _disk(rows),
        _line(
            "Network",
            parts["network"],
            told="held",
            step=_page("", "See what was tried", "admin:training_sandboxproof_changelist"),
        ),
        _sandbox(parts["sandbox"]),
        _line("MLflow", parts["mlflow"], told="answers", step=Step(MLFLOW_LOG)),
        _features(),
        _servers(containers.servers),
        _waiting_containers(containers.waiting),
    ]
    order = [UNWELL, ATTENTION, WELL]
    return sorted(lines, key=lambda line: order.index(line.state))


def headline(lines: Sequence[Line]) -> str:
    """The page's answer, in words."""
    unwell = sum(line.state != WELL for line in lines)
    if unwell == 0:
        return f"All {len(lines)} parts are well"
    return f"{unwell} of {len(lines)} parts {'needs' if unwell == 1 else 'need'} attention"


def _line(name: str, part: Part, *, told: str, step: Step | None = None) -> Line:
    if part.works and not part.detail:
        return Line(name, WELL, told, part.age_seconds)
    state = ATTENTION if part.works else UNWELL
    words = "needs attention" if part.works else "does not work"
    return Line(name, state, words, part.age_seconds, part.detail, step or Step())


def _admission(rows: Rows) -> Line:
    """Somebody wanted it so: no reason for alarm, and for everybody to know."""
    first = rows.admission.first
    if first is None:
        return Line("Admission", WELL, "open")
    age = (timezone.now() - first.since).total_seconds()
    told = HELD[first.held].format(by=visible(first.by))
    why = f" “{visible(first.why)}”" if first.why else ""
    step = _page("", "Queue and workers", "admin:queue")
    return Line("Admission", ATTENTION, told, age, f"{WHAT_HOLDS[first.held]}{why}", step)


def _engine(part: Part, rows: Rows) -> Line:
    told = "answers"
    if rows.measured is not None:
        free, whole = rows.measured.memory_free_mb, rows.measured.memory_mb
        told = f"{size(free)} of {size(whole)} memory free"
    step = Step("Start Docker again; jobs that it ended run once more by themselves.")
    return _line("Docker", part, told=told, step=Step() if part.works else step)


def _disk(rows: Rows) -> Line:
    """As the supervisor measured it."""
    if rows.measured is None:
        return Line("Disk", ATTENTION, "not measured yet", detail="The disk was not measured yet.")
    free = rows.measured.disk_free_mb
    if free >= settings.DISK_FREE_MB:
        return Line("Disk", WELL, f"{size(free)} free")
    return Line(
        "Disk",
        UNWELL,
        f"{size(free)} free",
        detail=f"Below {size(settings.DISK_FREE_MB)} no job is accepted or started.",
        step=_page("", "Review environments", "admin:training_builtenvironment_changelist"),
    )


def _sandbox(part: Part) -> Line:
    """It stops nothing by itself: never a reason for alarm before something was found."""
    step = Step('Run make manage ARGS="sandbox check" on this machine.')
    if part.works:
        return Line("Sandbox test", WELL, "passed", part.age_seconds)
    never = part.age_seconds is None
    state, told = (ATTENTION, "never run") if never else (UNWELL, "failed")
    return Line("Sandbox test", state, told, part.age_seconds, part.detail, step)


def _features() -> Line:
    store = feature_store_status()
    if store.available:
        return Line("Feast", WELL, _counted(store.feature_views, "feature view"))
    detail = "The feature store cannot be read: predictions that ask for features are refused."
    step = _page("", "Open features", "admin:features")
    return Line("Feast", ATTENTION, "cannot be read", detail=detail, step=step)


@dataclass(frozen=True)
class _Containers:
    """Model servers by their status, and waiting containers that are ready."""

    servers: Mapping[str, int]
    waiting: int


def _containers() -> _Containers:
    """Both in one query."""
    servers = ModelServer.objects.order_by().values_list("status").annotate(Count("pk"))
    ready = WaitingContainer.objects.filter(state=WaitingContainer.State.READY).order_by()
    pool = ready.annotate(kind=Value(POOL)).values_list("kind").annotate(Count("pk"))
    counts: dict[str, int] = dict(servers.union(pool, all=True))
    waiting = counts.pop(POOL, 0)
    return _Containers(counts, waiting)


def _servers(counts: Mapping[str, int]) -> Line:
    failed = counts.get(ModelServer.Status.FAILED, 0)
    shown = [f"{count} {status}" for status, count in sorted(counts.items()) if count]
    told = ", ".join(shown) or "none yet"
    if not failed:
        return Line("Model servers", WELL, told)
    address = reverse("admin:models") + "?state=failed"
    detail = f"{_counted(failed, 'model server')} could not start or ended; each says why."
    return Line("Model servers", ATTENTION, told, detail=detail, step=Step("", "See them", address))


def _waiting_containers(ready: int) -> Line:
    wanted = settings.WAITING_CONTAINERS
    told = f"{ready} of {wanted} ready" if wanted else "switched off"
    return Line("Waiting pool", WELL, told)


def _page(words: str, link: str, page: str) -> Step:
    return Step(words, link, reverse(page))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"

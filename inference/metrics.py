"""What Prometheus reads of predictions at `/metrics`: counts and times of each model version.

Only versions that a server was looked for are named: what a client invents makes no series.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from inference import histograms
from inference.histograms import Histograms
from inference.services.pool import server_figures

# Since when this process counts.
BEGAN = datetime.now(UTC)
REGISTRY = CollectorRegistry()
LABELS = ("model", "version")
CODES_MOST = 30
SECONDS = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60
)  # fmt: skip
REQUESTS = Counter(
    "mlops_inference_requests", "Predictions that were answered.", LABELS, registry=REGISTRY
)
ERRORS = Counter(
    "mlops_inference_errors",
    "Requests that ended without a prediction, by the code of the problem.",
    (*LABELS, "code"),
    registry=REGISTRY,
)
STAGES = Histograms(
    "mlops_inference_stage_seconds",
    "Where the time of a prediction went: gateway, features, queue, model, and total.",
    (*LABELS, "stage"),
    buckets=SECONDS,
    registry=REGISTRY,
)
BATCHES = Histograms(
    "mlops_inference_batch_requests",
    "Requests that one call of the model answered.",
    LABELS,
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
LANES = Counter(
    "mlops_inference_lane_requests",
    "Predictions by what answered them: the model itself, or its compact form.",
    (*LABELS, "lane"),
    registry=REGISTRY,
)
COLD_STARTS = Counter(
    "mlops_inference_cold_starts",
    "Requests that found no server and waited for one.",
    LABELS,
    registry=REGISTRY,
)
UNDER_WAY = Gauge(
    "mlops_inference_under_way", "Requests at a model's servers now.", LABELS, registry=REGISTRY
)
SERVERS = Gauge(
    "mlops_model_servers",
    "Servers of a version in a status.",
    (*LABELS, "status"),
    registry=REGISTRY,
)
MEMORY = Gauge(
    "mlops_model_server_memory_bytes",
    "Memory that the servers of a version use, as last measured.",
    LABELS,
    registry=REGISTRY,
)
MEMORY_LIMIT = Gauge(
    "mlops_model_server_memory_limit_bytes",
    "Memory that the servers of a version may use.",
    LABELS,
    registry=REGISTRY,
)


@dataclass(frozen=True)
class Totals:
    """Since this process began; `steps` counts answers by `SECONDS`, and the longer ones last."""

    answered: int = 0
    failed: int = 0
    steps: tuple[int, ...] = (0,) * (len(SECONDS) + 1)

    def plus(self, other: "Totals", *, times: int = 1) -> "Totals":
        return Totals(
            self.answered + times * other.answered,
            self.failed + times * other.failed,
            tuple(a + times * b for a, b in zip(self.steps, other.steps, strict=True)),
        )

    def since(self, earlier: "Totals") -> "Totals":
        return self.plus(earlier, times=-1)

    @property
    def is_nothing(self) -> bool:
        return not (self.answered or self.failed)


@dataclass
class Series:
    """The series of one version, looked up once: a look-up costs more than the count."""

    name: str
    version: str
    errors: dict[str, Counter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pair = (self.name, self.version)
        self._requests = REQUESTS.labels(*pair)
        self._gateway = STAGES.labels(*pair, "gateway")
        self._queue = STAGES.labels(*pair, "queue")
        self._model = STAGES.labels(*pair, "model")
        self._features: histograms.Series | None = None
        self._total = STAGES.labels(*pair, "total")
        self._batches = BATCHES.labels(*pair)
        self._lanes = {lane: LANES.labels(*pair, lane) for lane in ("compact", "original")}

    def answered(
        self,
        *,
        total_ms: float,
        queue_ms: float,
        model_ms: float,
        batch: int,
        lane: str,
        features_ms: float = 0.0,
    ) -> None:
        self._requests.inc()
        self._total.observe(total_ms / 1000)
        self._queue.observe(queue_ms / 1000)
        self._model.observe(model_ms / 1000)
        self._gateway.observe(max(0.0, total_ms - queue_ms - model_ms - features_ms) / 1000)
        if batch:
            self._batches.observe(batch)
        if lane in self._lanes:
            self._lanes[lane].inc()

    def looked_up(self, milliseconds: float) -> None:
        """Features; a version that nobody asks so has no such series."""
        if self._features is None:
            self._features = STAGES.labels(self.name, self.version, "features")
        self._features.observe(milliseconds / 1000)

    def totals(self) -> "Totals":
        """What it counted until now."""
        steps = tuple(self._total.counts)
        failed = [
            each.value
            for counter in list(self.errors.values())
            for one in counter.collect()
            for each in one.samples
            if each.name.endswith("_total")
        ]
        return Totals(answered=sum(steps), failed=int(sum(failed)), steps=steps)

    def failed(self, code: str) -> None:
        if code not in self.errors:
            # A model's process may invent codes.
            code = code if len(self.errors) < CODES_MOST else "other"
            self.errors[code] = ERRORS.labels(self.name, self.version, code)
        self.errors[code].inc()


_series: dict[tuple[str, str], Series] = {}


def series(name: str, version: str) -> Series:
    key = (name, version)
    found = _series.get(key)
    if found is None:
        found = _series[key] = Series(name, version)
    return found


def totals_by_version() -> dict[tuple[str, str], Totals]:
    """Of each version that was asked; not for the way of a request: it looks at each of them."""
    return {key: one.totals() for key, one in list(_series.items())}


def page() -> bytes:
    """All of it in Prometheus' text format; asks the database how the servers are."""
    for gauge in (SERVERS, MEMORY, MEMORY_LIMIT):
        gauge.clear()
    for figures in server_figures():
        pair = (figures.model_name, figures.version)
        SERVERS.labels(*pair, figures.status).inc(figures.count)
        if figures.memory_bytes:
            MEMORY.labels(*pair).inc(figures.memory_bytes)
        if figures.memory_limit_bytes:
            MEMORY_LIMIT.labels(*pair).inc(figures.memory_limit_bytes)
    return generate_latest(REGISTRY)

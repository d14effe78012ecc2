"""The model behind BentoML, once without and once with its batching."""

import os
from typing import Any

import bentoml
import joblib
import numpy as np

MODEL = os.environ["BENCH_MODEL"]
BATCHED = os.environ.get("BENCH_BATCHED") == "1"
# In rows; a larger request would be taken apart, which no other peer does.
BATCH_ROWS = 8192
# Whoever would wait longer is refused.
WAIT_MS = 10_000


@bentoml.service(
    workers=1, traffic={"timeout": 60, "max_concurrency": 1000}, metrics={"enabled": False}
)
class Served:
    """`x` are rows; labels come back."""

    def __init__(self) -> None:
        self.model = joblib.load(MODEL)

    @bentoml.api(batchable=BATCHED, max_batch_size=BATCH_ROWS, max_latency_ms=WAIT_MS)
    def predict(self, x: np.ndarray) -> np.ndarray:
        answer: Any = self.model.predict(x)
        return np.asarray(answer)

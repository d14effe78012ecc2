"""The metrics of a run beside those of another: what changed, and whether that is better.

Nobody says of a metric which way is better. Of the usual ones the name does; of all others only
the difference is told.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

METRICS_SHOWN, PARAMETERS_SHOWN = 200, 200
HIGHER = frozenset(
    {
        *("accuracy", "acc", "auc", "roc", "f1", "f", "precision", "recall", "r2", "score"),
        *("specificity", "sensitivity", "ap", "map", "ndcg", "mcc", "kappa", "iou", "dice"),
    }
)
LOWER = frozenset(
    {
        *("loss", "logloss", "error", "err", "mae", "mse", "rmse", "rmsle", "mape", "smape"),
        *("brier", "perplexity", "deviance"),
    }
)
WORDS = re.compile(r"[a-z]+\d?|\d+")


@dataclass(frozen=True)
class Compared:
    """One metric, as text; `judged` is better, worse, or nothing. `before` is empty without one."""

    name: str
    value: str
    before: str
    change: str
    judged: str = ""


def compare(now: Mapping[str, float], before: Mapping[str, float]) -> list[Compared]:
    """Every metric of either, by name."""
    names = sorted({*now, *before})[:METRICS_SHOWN]
    return [_compared(name, now.get(name), before.get(name)) for name in names]


@dataclass(frozen=True)
class Beside:
    """One parameter of a run with that of another; empty where it was not logged."""

    name: str
    value: str
    before: str

    @property
    def differs(self) -> bool:
        return self.value != self.before


def compare_parameters(now: Mapping[str, str], before: Mapping[str, str]) -> list[Beside]:
    """Every parameter of either, what differs first."""
    names = sorted({*now, *before})
    both = [Beside(name, now.get(name, ""), before.get(name, "")) for name in names]
    return sorted(both, key=lambda one: not one.differs)[:PARAMETERS_SHOWN]


def told_in_short(compared: Sequence[Compared]) -> str:
    """`recall −0.0062, accuracy +0.0122`, of what is better or worse; empty without any."""
    judged = [one for one in compared if one.judged]
    return ", ".join(f"{one.name} {one.change}" for one in judged[:6])


def shown(value: float | None) -> str:
    """With four digits that say something."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{'−' if value < 0 else ''}infinity"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    return _plain(f"{value:.4f}" if 0.001 <= abs(value) < 10_000 else f"{value:.4g}")


def _compared(name: str, now: float | None, before: float | None) -> Compared:
    if now is None or before is None:
        return Compared(name, shown(now), shown(before), "")
    change = now - before
    if not math.isfinite(change):
        return Compared(name, shown(now), shown(before), "")
    if change == 0:
        return Compared(name, shown(now), shown(before), "same")
    told = f"{'+' if change > 0 else ''}{shown(change)}"
    return Compared(name, shown(now), shown(before), told, _judged(name, change))


def _judged(name: str, change: float) -> str:
    """A name such as `val_log_loss` has words of both kinds at most by accident: loss decides."""
    words = frozenset(WORDS.findall(name.lower()))
    if words & LOWER:
        return "worse" if change > 0 else "better"
    if words & HIGHER:
        return "better" if change > 0 else "worse"
    return ""


def _plain(text: str) -> str:
    return text.replace("-", "−") if "e" not in text else text

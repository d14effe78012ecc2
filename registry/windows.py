"""How far back the charts of a page look, and in how many steps."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Window:
    """`bars` of jobs and `points` of predictions, each of equal length."""

    name: str
    words: str
    length: timedelta
    bars: int
    points: int

    @property
    def bar_words(self) -> str:
        return _words(self.length / self.bars)

    @property
    def point_words(self) -> str:
        return _words(self.length / self.points)


WINDOWS = {
    window.name: window
    for window in (
        Window("hour", "Hour", timedelta(hours=1), bars=12, points=60),
        Window("day", "Day", timedelta(days=1), bars=24, points=96),
        Window("week", "Week", timedelta(days=7), bars=28, points=168),
    )
}
DAY = WINDOWS["day"]


def window_of(name: str) -> Window:
    """What an address names, or else the day."""
    return WINDOWS.get(name, DAY)


def _words(length: timedelta) -> str:
    minutes = round(length.total_seconds() / 60)
    if minutes < 60:
        return "minute" if minutes == 1 else f"{minutes} minutes"
    return "hour" if minutes == 60 else f"{minutes // 60} hours"

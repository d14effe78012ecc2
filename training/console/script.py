"""The script on the page of its job: a number for each line, and the one that failed marked."""

from dataclasses import dataclass

from registry.console import visible
from training.models import Job


@dataclass(frozen=True)
class Script:
    """The text in three pieces: `marked` is the line that failed, empty where none is known."""

    before: str
    marked: str
    after: str
    lines: int
    failing: int | None

    @property
    def numbers(self) -> str:
        """As a text of its own: two nodes of the page, however long the script is."""
        return "\n".join(map(str, range(1, self.lines + 1)))


def script_of(job: Job, *, failing: int | None) -> Script:
    """Lines are those of an editor, which newlines end and nothing else."""
    text = visible(job.script.replace("\r\n", "\n"))
    lines = text.count("\n") + (not text.endswith("\n"))
    if failing is None or not 1 <= failing <= lines:
        return Script(text, "", "", lines, None)
    parts = text.split("\n")
    before = "".join(f"{line}\n" for line in parts[: failing - 1])
    after = "".join(f"\n{line}" for line in parts[failing:])
    return Script(before, parts[failing - 1], after, lines, failing)

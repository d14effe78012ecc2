"""`make bench-serving`: a table of ratios to `mlflow models serve`, and the amounts behind them.

Each round asks every peer in turn, so that what disturbs the machine disturbs all; the median of
the rounds counts. Fails for no figure, only where an answer is wrong.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.serving import load
from bench.serving.load import Sample
from bench.serving.peers import CACHE, JSON, PEERS, Peer, Rows, Running, ask, started
from deploy.report import step
from deploy.trial import TrialFailed

COLUMNS = 20
FLOOR = "mlflow"
MODELS = ("linear", "forest", "custom")
# Rows and connections: every load at three rows, the ends of the others.
CELLS = ((3, 1), (3, 8), (3, 32), (1, 1), (1, 32), (100, 1), (100, 8), (1000, 1), (1000, 8))


@dataclass(frozen=True)
class Cell:
    """The medians of one peer in one load."""

    model: str
    rows: int
    connections: int
    peer: str
    p50: float
    p99: float
    rate: float


@dataclass(frozen=True)
class Footprint:
    """What a peer needs for one model after the load, and how long its first answer took."""

    model: str
    peer: str
    megabytes: float
    first_answer_seconds: float


def main() -> int:
    arguments = _arguments()
    load.require_wrk()
    CACHE.mkdir(parents=True, exist_ok=True)
    peers = _installed(
        [peer for peer in PEERS if not arguments.only or peer.name in arguments.only]
    )
    cells: list[Cell] = []
    footprints: list[Footprint] = []
    for model in arguments.models:
        measured, needs = _measure(peers, model, rounds=arguments.rounds, seconds=arguments.seconds)
        cells += measured
        footprints += needs
        print(table(measured, needs), flush=True)
    if arguments.json:
        document = {"cells": [asdict(c) for c in cells], "needs": [asdict(f) for f in footprints]}
        arguments.json.write_text(json.dumps(document, indent=1))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.serving")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--only", nargs="+", help="names of peers")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _installed(peers: Sequence[Peer]) -> list[Peer]:
    """Those that could be installed."""
    found = []
    for peer in peers:
        with _left_out(peer):
            peer.install()
            found.append(peer)
    return found


@contextlib.contextmanager
def _left_out(peer: Peer) -> Iterator[None]:
    """A peer that fails is told of, and the others are measured."""
    try:
        yield
    except TrialFailed as error:
        print(f"{peer.name} is left out: {error}", file=sys.stderr, flush=True)


def inputs(rows: int) -> Rows:
    return [
        [round(0.1 * column * (-1) ** row + 0.01 * (row % 7), 3) for column in range(COLUMNS)]
        for row in range(rows)
    ]


def _measure(
    peers: Sequence[Peer], model: str, *, rounds: int, seconds: int
) -> tuple[list[Cell], list[Footprint]]:
    with tempfile.TemporaryDirectory() as folder:
        running: list[Running] = []
        try:
            for number, peer in enumerate(peers):
                step(f"{model}: starting {peer.name}")
                with _left_out(peer):
                    running.append(started(peer, model, inputs(3), Path(folder) / str(number)))
            _agree(running)
            cells = [
                cell
                for rows, connections in CELLS
                for cell in _cell(running, model, rows, connections, rounds=rounds, seconds=seconds)
            ]
            needs = [
                Footprint(model, one.peer.name, one.megabytes(), one.first_answer_seconds)
                for one in running
                if one.peer.footprint_known
            ]
            return cells, needs
        finally:
            for one in running:
                one.stop()


def _agree(running: Sequence[Running]) -> None:
    """Raises TrialFailed: who answers something else is not to be compared."""
    for rows in (1, 3, 100):
        answers = {one.peer.name: ask(one.peer, one.url, inputs(rows)) for one in running}
        if len({json.dumps(answer) for answer in answers.values()}) > 1:
            raise TrialFailed(f"The answers to {rows} rows differ: {answers}")


def _cell(
    running: Sequence[Running],
    model: str,
    rows: int,
    connections: int,
    *,
    rounds: int,
    seconds: int,
) -> list[Cell]:
    step(f"{model}: {rows} rows, {connections} connections")
    samples: dict[str, list[Sample]] = {one.peer.name: [] for one in running}
    for one in running:
        # What is opened at the first request of a size is no part of its load.
        with _left_out(one.peer):
            ask(one.peer, one.url, inputs(rows))
    for _ in range(rounds):
        for one in running:
            body = json.dumps(one.peer.body(inputs(rows))).encode()
            with _left_out(one.peer):
                samples[one.peer.name].append(
                    load.run(one.url, body, JSON, connections=connections, seconds=seconds)
                )
    return [
        Cell(
            model,
            rows,
            connections,
            name,
            p50=statistics.median(sample.p50 for sample in taken),
            p99=statistics.median(sample.p99 for sample in taken),
            rate=statistics.median(sample.rate for sample in taken),
        )
        for name, taken in samples.items()
        if taken
    ]


def table(cells: Sequence[Cell], needs: Sequence[Footprint]) -> str:
    """One line for each load and peer; the ratio is of requests a second, to mlflow's."""
    lines = [
        f"{'model':8}{'rows':>5}{'c':>4}  {'peer':23}{'p50 ms':>9}{'p99 ms':>9}{'req/s':>9}  ratio"
    ]
    for cell in cells:
        floor = [
            other.rate
            for other in cells
            if (other.rows, other.connections) == (cell.rows, cell.connections)
            and other.peer == FLOOR
        ]
        ratio = f"{cell.rate / floor[0]:6.1f}×" if floor else ""
        lines.append(
            f"{cell.model:8}{cell.rows:5}{cell.connections:4}  {cell.peer:23}"
            f"{cell.p50:9.2f}{cell.p99:9.2f}{cell.rate:9.0f} {ratio}"
        )
    for need in needs:
        lines.append(
            f"{need.model:8}  memory and start  {need.peer:23}"
            f"{need.megabytes:6.0f} MB{need.first_answer_seconds:8.2f} s to the first answer"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""What a container of a batch says is a stranger's: whatever it is, it is a table or refused."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inference.batch import record
from inference.batch.record import Done, Progress, RecordBroken, Refusal, parts_of, progress_in
from inference.batch.tables import Shape, TableTooLarge, write_table

CSV = Shape(form="csv", escape_formulas=True, most_bytes=10_000)
PARQUET = Shape(form="parquet", escape_formulas=True, most_bytes=100_000)


def line(kind: str, document: Any) -> bytes:
    text = json.dumps(document).encode()
    return kind.encode() + b" " + (base64.b64encode(text) if kind in "hdr" else text) + b"\n"


def head(inputs: Any = None, classes: Any = None) -> bytes:
    return line("h", {"inputs": inputs, "classes": classes})


def rows(at: int, predictions: Any, probabilities: Any = None, inputs: Any = None) -> bytes:
    told = {"at": at, "predictions": predictions, "probabilities": probabilities, "inputs": inputs}
    return line("d", told)


def end(count: int) -> bytes:
    return line("e", {"rows": count})


def written(folder: Path, record: Iterable[bytes], shape: Shape = CSV) -> str:
    said = list(record)
    came = write_table(folder / "table", lambda: parts_of(said), shape)
    assert isinstance(came, Done)
    return (folder / "table").read_text()


def test_a_record_in_pieces_of_any_size_is_a_table(tmp_path: Path) -> None:
    said = head(["a"], [0, 1]) + rows(0, [1, 0], [[0.1, 0.9], [0.5, 0.5]], [["x", None]])
    said += line("p", {"phase": "predicting"}) + rows(2, [1], [[0.1, 1e-17]], [[2.5]]) + end(3)
    pieces = [said[at : at + 7] for at in range(0, len(said), 7)]
    assert written(tmp_path, pieces) == (
        "a,prediction,probability_0,probability_1\nx,1,0.1,0.9\n,0,0.5,0.5\n2.5,1,0.1,1e-17\n"
    )


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\uff1d1", "'\uff1d1"),
        ("a=1", "a=1"),
        (-1, "-1"),
        (True, "true"),
        (None, '""'),
        ({"=x": -1}, '"{""=x"":-1}"'),
    ],
)
def test_no_cell_begins_a_formula(tmp_path: Path, cell: Any, told: str) -> None:
    said = [head(), rows(0, [cell]), end(1)]
    assert written(tmp_path, said) == f"prediction\n{told}\n"


def test_names_of_columns_that_are_taken_or_formulas_give_way(tmp_path: Path) -> None:
    said = [head(["prediction", "=a"], ["=b"]), rows(0, [1], [[1.0]], [[2], [3]]), end(1)]
    assert written(tmp_path, said) == "prediction,'=a,prediction_,probability_=b\n2,3,1,1.0\n"


@pytest.mark.parametrize(
    "said",
    [
        [],
        [b"nothing of ours\n"],
        [head()],
        [rows(0, [1]), end(1)],
        [head(), rows(1, [1]), end(1)],
        [head(), rows(0, [1]), rows(0, [1]), end(2)],
        [head(), rows(0, [1]), end(2)],
        [head(), rows(0, {"a": 1}), end(1)],
        [head(), rows(0, []), end(0)],
        [head(), rows(0, [1])],
        [head(None, [0, 1]), rows(0, [1], [[1.0]]), end(1)],
        [head(None, [0, 1]), rows(0, [1], None), end(1)],
        [head(None, [0, 1]), rows(0, [1], [7]), end(1)],
        [head(["a"]), rows(0, [1, 2], None, [[1]]), end(2)],
        [head(["a"] * 30_000), rows(0, [1]), end(1)],
        [head([["a"]]), rows(0, [1]), end(1)],
        [b"h !!!\n"],
        [b"h " + base64.b64encode(b"[1]") + b"\n"],
        [b"e NaN\n"],
        [head(), b"d " + base64.b64encode(b'{"at": 0, "predictions": [NaN]}') + b"\n"],
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, said: list[bytes]) -> None:
    for shape in (CSV, PARQUET):
        with pytest.raises(RecordBroken):
            write_table(tmp_path / "table", lambda: parts_of(said), shape)


def test_a_line_without_an_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LINE_BYTES", 1000)
    asked = iter([b"d " + b"A" * 600] * 1_000_000)
    with pytest.raises(RecordBroken):
        list(parts_of(asked))
    assert next(asked, None) is not None


def test_a_table_has_an_end(tmp_path: Path) -> None:
    said = [head(), *(rows(at, ["x" * 1000]) for at in range(100)), end(100)]
    with pytest.raises(TableTooLarge):
        write_table(tmp_path / "table", lambda: parts_of(said), CSV)


def test_a_refusal_is_bounded_and_leaves_no_file(tmp_path: Path) -> None:
    told = {"status": 400, "code": "c" * 900, "detail": "d\0" * 9000, "errors": [{}, 7] * 50}
    said = [head(), rows(0, [1]), line("r", told)]
    came = write_table(tmp_path / "table", lambda: parts_of(said), CSV)
    assert isinstance(came, Refusal)
    assert (len(came.code), "\0" in came.detail, len(came.errors)) == (200, False, 10)
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([1, 2, None], "int64"),
        ([1, 2.5], "double"),
        ([2**63, 1], "double"),
        ([True, None], "bool"),
        ([None], "string"),
        (["a", None], "string"),
        (["a", 1, {"b": 2}], "string"),
        ([True, 1], "string"),
    ],
)
def test_a_parquet_column_has_the_type_that_all_its_rows_have(
    tmp_path: Path, cells: list[Any], kind: str
) -> None:
    said = [head(), *(rows(at, [cell]) for at, cell in enumerate(cells)), end(len(cells))]
    write_table(tmp_path / "table", lambda: parts_of(said), PARQUET)
    table = pd.read_parquet(tmp_path / "table", dtype_backend="pyarrow")
    assert str(table["prediction"].dtype).startswith(kind)
    found = [None if pd.isna(cell) else cell for cell in table["prediction"]]
    as_text = [cell if isinstance(cell, str | None) else json.dumps(cell) for cell in cells]
    wanted = [None if cell is None else cell.replace(" ", "") for cell in as_text]
    assert found == (wanted if kind == "string" else cells)


def test_progress_is_the_last_line_of_its_kind_and_believed_within_bounds() -> None:
    said = line("p", {"phase": "a"}) + line("p", {"phase": "b" * 99, "done": -1, "share": 7})
    assert progress_in(b"cut off\n" + said + b'p {"phase": "hal') == Progress(
        "b" * 60, 0, None, 1.0
    )
    assert progress_in(b"nothing") is None

"""What a batch's container does with real models and real files; two are run as processes."""

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from inference.batch.record import Done, Part, Refusal, parts_of, progress_in
from inference.batch.tables import Shape, write_table
from sandbox.image.served_ends import Exit
from tests.fixtures.model_server import IMAGE_FOLDER, answers_ready, started, until

sys.path.append(str(IMAGE_FOLDER))

import batch_predict  # noqa: E402
import served_files  # noqa: E402
from batch_predict import Wishes  # noqa: E402
from served_cells import Columns  # noqa: E402
from served_inputs import Column, Expected, InputsRefused  # noqa: E402
from served_model import load  # noqa: E402
from served_record import Record  # noqa: E402

ROWS = 25_000
MOST = 64 * 1024**2
RNG = np.random.default_rng(3)
# The classes of this file are on the path of the model's process, as its own modules would be.
OURS = {**os.environ, "PYTHONPATH": str(IMAGE_FOLDER.parents[1])}
PEOPLE = pd.DataFrame(
    {
        "age": RNG.integers(18, 90, ROWS),
        "income": RNG.normal(50_000, 20_000, ROWS),
        "plan": RNG.choice(["basic", 'plus, with "extras"', "öko"], ROWS),
    }
)
LEFT = np.where(PEOPLE["age"] + RNG.normal(0, 20, ROWS) > 50, "=yes", "no")


@dataclass(frozen=True)
class Ran:
    """How the process ended, and all that it said."""

    code: int
    output: bytes
    errors: str

    def parts(self) -> list[Part]:
        return list(parts_of([self.output]))

    def table(self, folder: Path, form: str = "csv", *, escape: bool = False) -> pd.DataFrame:
        path = folder / f"predictions.{form}"
        shape = Shape(form=form, escape_formulas=escape, most_bytes=MOST)
        came = write_table(path, self.parts, shape)
        assert isinstance(came, Done), (came, self.errors)
        if form == "parquet":
            return pd.read_parquet(path)
        # As Python reads numbers; the usual way of pandas may miss the last bit.
        return pd.read_csv(path, float_precision="round_trip")

    def refusal(self) -> Refusal:
        assert self.code == Exit.REFUSED, self.errors
        last = self.parts()[-1]
        assert isinstance(last, Refusal)
        return last


def run(model: Path, file: Path, *, probabilities: bool = False, inputs: bool = False) -> Ran:
    """In this process, with the model opened once."""
    output = io.BytesIO()
    record, wishes = Record(output, most_bytes=MOST), Wishes(probabilities, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("served_model.load", lambda folder, report: loaded(folder))
        code = batch_predict.run(model, file, wishes, record)
    return Ran(code, output.getvalue(), "")


loaded = cache(lambda folder: load(folder, lambda phase: None))


def run_process(model: Path, file: Path, *options: str) -> Ran:
    """As the container does."""
    command = [sys.executable, "-u", str(IMAGE_FOLDER / "batch_predict.py")]
    command += ["--model", str(model), "--file", str(file), "--output-bytes", str(MOST), *options]
    done = subprocess.run(command, capture_output=True, timeout=300, env=OURS)
    return Ran(done.returncode, done.stdout, done.stderr.decode())


@pytest.fixture(scope="module", autouse=True)
def _quick_saving() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "0")
        yield


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: Any) -> Path:
    encode = (OneHotEncoder(handle_unknown="ignore"), ["plan"])
    columns = make_column_transformer(encode, remainder=StandardScaler())
    model = make_pipeline(columns, LogisticRegression()).fit(PEOPLE, LEFT)
    folder = tmp_path_factory.mktemp("pipeline") / "model"
    signature = mlflow.models.infer_signature(PEOPLE)
    mlflow.sklearn.save_model(
        model, folder, signature=signature, serialization_format="cloudpickle"
    )
    return folder


@pytest.fixture(scope="module")
def whole_csv(tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("files") / "people.csv"
    PEOPLE.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def predicted(pipeline: Path, whole_csv: Path) -> Ran:
    done = run_process(pipeline, whole_csv, "--probabilities", "--inputs")
    assert done.code == 0, done.errors
    return done


def test_a_file_of_several_chunks_gets_what_one_request_would_get(
    pipeline: Path, predicted: Ran, tmp_path: Path
) -> None:
    table = predicted.table(tmp_path)
    server = started(pipeline)
    try:
        until(lambda: answers_ready(server))
        inputs = {name: PEOPLE[name].tolist() for name in PEOPLE}
        said = server.predict({"inputs": inputs, "return_probabilities": True}).json()
    finally:
        server.process.kill()
        server.process.communicate()
    assert table["prediction"].tolist() == said["predictions"]
    chances = table[["probability_=yes", "probability_no"]].to_numpy().tolist()
    assert said["classes"] == ["=yes", "no"]
    assert chances == said["probabilities"]


def test_the_inputs_stand_before_the_predictions_in_their_order(
    predicted: Ran, tmp_path: Path
) -> None:
    table = predicted.table(tmp_path)
    assert list(table)[:4] == ["age", "income", "plan", "prediction"]
    pd.testing.assert_frame_equal(table[["age", "income", "plan"]], PEOPLE, check_dtype=False)


def test_text_that_a_spreadsheet_would_run_is_made_harmless(predicted: Ran, tmp_path: Path) -> None:
    table = predicted.table(tmp_path, escape=True)
    assert set(table["prediction"]) == {"'=yes", "no"}
    assert "probability_=yes" in table


def test_parquet_in_and_out_is_the_same_as_csv(
    pipeline: Path, predicted: Ran, tmp_path: Path
) -> None:
    PEOPLE.to_parquet(tmp_path / "people.parquet")
    done = run(pipeline, tmp_path / "people.parquet", probabilities=True, inputs=True)
    assert done.code == 0, done.errors
    by_csv, by_parquet = predicted.table(tmp_path), done.table(tmp_path, "parquet")
    pd.testing.assert_frame_equal(by_csv, by_parquet, check_dtype=False)


def test_its_last_words_say_how_far_it_is(predicted: Ran) -> None:
    told = progress_in(predicted.output[-200_000:])
    assert told is None or (told.phase, told.total) == ("predicting", ROWS)


@pytest.mark.parametrize(
    ("change", "code", "field", "told"),
    [
        (lambda rows: [row[:2] for row in rows], "columns_mismatch", "inputs.plan", "missing"),
        (
            lambda rows: [["more", *rows[0]], *([1, *row] for row in rows[1:])],
            "columns_mismatch",
            "inputs.more",
            "no such column",
        ),
        (
            lambda rows: [*rows[:12_001], ["old", "1.5", "basic"], *rows[12_001:]],
            "wrong_type",
            "inputs.age",
            "row 12000 (line 12002): expected a number, got 'old'",
        ),
        (lambda rows: rows[:1], "inputs_empty", "file", "no rows"),
        (lambda rows: [*rows[:3], ["1"]], "invalid_csv", "file", "Line 4 has 1 values"),
        (lambda rows: [["age"] * 3, *rows[1:]], "inputs_ragged", "file", "age"),
    ],
)
def test_all_of_the_file_is_checked_before_a_row_is_predicted(
    pipeline: Path,
    whole_csv: Path,
    tmp_path: Path,
    change: Any,
    code: str,
    field: str,
    told: str,
) -> None:
    with whole_csv.open(newline="") as stream:
        rows = change(list(csv.reader(stream)))
    written(tmp_path / "changed.csv", rows)
    done = run(pipeline, tmp_path / "changed.csv")
    (refused,) = done.parts()
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (400, code)
    assert [(error["field"], told in error["detail"]) for error in refused.errors] == [
        (field, True)
    ], refused


def written(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue())


def test_a_file_that_is_no_text_is_refused_in_words(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_bytes(b"age,income,plan\n1,2,\xff\xfe\n")
    refused = run(pipeline, tmp_path / "odd.csv").refusal()
    assert refused.code == "invalid_csv"
    (tmp_path / "odd.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    refused = run(pipeline, tmp_path / "odd.parquet").refusal()
    assert refused.code == "invalid_parquet"


class Odd(mlflow.pyfunc.PythonModel):
    """Does what its first cell says."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        print("a word that is no part of the record")
        return getattr(self, str(model_input.iloc[0, 0]))(model_input)

    def too_few(self, rows: Any) -> Any:
        return [1]

    def fail(self, rows: Any) -> Any:
        raise RuntimeError("no file /secret/place/here.txt")

    def leave(self, rows: Any) -> Any:
        sys.exit(0)

    def nested(self, rows: Any) -> Any:
        return [{"a": [1, None]}, [True, "x"], None][: len(rows)]

    def too_long(self, rows: Any) -> Any:
        return ["x" * 3_000_000] * len(rows)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "model"
    mlflow.pyfunc.save_model(folder, python_model=Odd(), pip_requirements=[])
    return folder


@pytest.mark.parametrize(
    ("wish", "code", "told"),
    [
        ("too_few", "answer_unusable", "1 answers for 3 rows"),
        ("fail", "model_failed", "RuntimeError: no file here.txt"),
        ("leave", "model_failed", "SystemExit"),
        ("too_long", "output_too_large", "One answer"),
    ],
)
def test_what_a_model_does_wrong_is_one_sentence(
    odd: Path, tmp_path: Path, wish: str, code: str, told: str
) -> None:
    (tmp_path / "wish.csv").write_text(f"do\n{wish}\n2\n3\n")
    refused = run(odd, tmp_path / "wish.csv").refusal()
    assert (refused.status, refused.code) == (500, code)
    assert told in refused.detail


def test_what_a_model_prints_is_no_part_of_its_answers(odd: Path, tmp_path: Path) -> None:
    (tmp_path / "wish.csv").write_text("do\nnested\n2\n3\n")
    done = run_process(odd, tmp_path / "wish.csv")
    assert done.code == 0, done.errors
    assert "a word that is no part" in done.errors
    assert done.table(tmp_path)["prediction"].fillna("").tolist() == [
        '{"a":[1,null]}',
        '[true,"x"]',
        "",
    ]


def test_a_model_that_cannot_be_loaded_ends_it_with_the_words_of_a_server(
    tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: nowhere\n")
    (tmp_path / "rows.csv").write_text("a\n1\n")
    assert run(tmp_path, tmp_path / "rows.csv").code == Exit.LOAD_FAILED
    told = capsys.readouterr().err
    assert told.endswith("model_server: ModuleNotFoundError: No module named 'nowhere'\n")


def test_a_model_of_other_versions_that_cannot_be_loaded_says_them_as_a_server_does(
    tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: nowhere\n")
    (tmp_path / "requirements.txt").write_text("numpy==0.1\n")
    (tmp_path / "rows.csv").write_text("a\n1\n")
    assert run(tmp_path, tmp_path / "rows.csv").code == Exit.OTHER_VERSIONS
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"model_server: it was made with numpy 0.1, and its environment has {np.__version__}: "
        "ModuleNotFoundError: No module named 'nowhere'"
    )


def test_a_model_of_other_versions_that_fails_says_them_as_a_server_does(
    odd: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(odd, folder)
    (folder / "requirements.txt").write_text("numpy==0.1\n")
    (tmp_path / "wish.csv").write_text("do\nfail\n")
    refused = run(folder, tmp_path / "wish.csv").refusal()
    assert refused.code == "model_failed"
    assert refused.detail.endswith(
        f"(it was made with numpy 0.1, and its environment has {np.__version__})"
    )


# -- cells ----------------------------------------------------------------------------------------
NUMBERS = Expected(columns=(Column("x", "double"),))


@pytest.mark.parametrize(
    ("texts", "cells"),
    [
        (["1", "", "-3"], [1, None, -3]),
        (["1", "2.5", "nan"], [1.0, 2.5, None]),
        (["1e3", " 7 "], [1000.0, 7.0]),
        (["1", "x", "true"], [1, "x", True]),
        (["1_000"], ["1_000"]),
        (["inf", "1"], ["inf", 1]),
        (["9" * 400], ["9" * 400]),
        ([str(2**64), str(2**63)], [float(2**64), float(2**63)]),
    ],
)
def test_a_cell_is_the_number_that_json_would_have(texts: list[str], cells: list[Any]) -> None:
    read = Columns(["x"], NUMBERS).read("x", texts)
    assert read == cells
    assert list(map(type, read)) == list(map(type, cells))


def test_a_column_that_nobody_described_is_what_all_of_it_can_be() -> None:
    columns = Columns(["x"], Expected(columns=(Column("x"),), nested_cells=True))
    assert columns.read("x", ["1", "2"]) == [1, 2]
    assert columns.read("x", ["1.5", ""]) == [1.5, None]
    assert columns.read("x", ["b"]) == ["b"]
    assert columns.read("x", ["1", "2"]) == ["1", "2"]


def test_booleans_and_text_are_read_by_the_signature() -> None:
    described = Expected(columns=(Column("on", "boolean"), Column("name", "string")))
    columns = Columns(["on", "name"], described)
    assert columns.read("on", ["True", "false", "", "1"]) == [True, False, None, "1"]
    assert columns.read("name", ["12", ""]) == ["12", None]


def test_a_wide_file_comes_in_smaller_chunks(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(served_files, "CHUNK_CELLS", 20)
    (tmp_path / "wide.csv").write_text("a,b\n" + "1,2\n\n" * 25)
    file = served_files.open_file(tmp_path / "wide.csv", Expected())
    chunks = list(file.chunks())
    assert [(chunk.first, chunk.rows) for chunk in chunks] == [(0, 10), (10, 10), (20, 5)]
    assert chunks[1].lines[0] == 22
    assert chunks[-1].share == 1.0


def test_rows_of_several_lines_have_no_line_and_those_of_another_chunk_have_theirs(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(served_files, "CHUNK_ROWS", 2)
    (tmp_path / "long.csv").write_text('a,b\n"x\ny",1\n2,3\n4,5\n\n6,7\n')
    chunks = list(served_files.open_file(tmp_path / "long.csv", Expected()).chunks())
    assert [list(chunk.lines) for chunk in chunks] == [[], [5, 7]]
    assert chunks[0].inputs == {"a": ["x\ny", "2"], "b": [1, 3]}


def test_parquet_needs_pyarrow_and_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputsRefused) as refused:
        served_files.open_file(tmp_path / "x.parquet", Expected())
    assert refused.value.code == "parquet_not_possible"


def test_a_model_of_numbers_without_names_takes_columns_by_their_order(tmp_path: Path) -> None:
    rows = RNG.normal(size=(300, 3))
    model = RandomForestRegressor(5, random_state=0).fit(rows, rows[:, 0])
    mlflow.sklearn.save_model(model, tmp_path / "model", serialization_format="cloudpickle")
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    table = run(tmp_path / "model", tmp_path / "rows.csv").table(tmp_path)
    assert table["prediction"].tolist() == model.predict(rows).tolist()

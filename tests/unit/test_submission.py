"""Reading an upload: every form of it, byte for byte, and every mistake with its field."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.api.submission import Submission, parse_upload
from training.api.upload_bodies import PASTED_WARNING
from training.api.upload_fields import UploadLimits
from training.api.upload_problems import UnsupportedUpload, UploadRejected
from training.limits import Bound, JobLimits

CONTRACT_SCRIPT = (Path(__file__).parents[1] / "fixtures" / "contract_train.py").read_text()
LIMITS = UploadLimits(
    script_max_bytes=1024 * 1024,
    allow_urls=False,
    timeout={"minimum": 60, "default": 300, "maximum": 3600},
    network={"default": "internet", "maximum": "internet"},
    job={
        "memory_mb": Bound(64, 2048, 4096, unit="MiB"),
        "cpus": Bound(0.1, 1.0, 4, whole=False, unit="CPUs"),
        "pids": Bound(16, 256, 1024, unit="processes and threads"),
        "scratch_mb": Bound(1, 1024, 2048, unit="MiB"),
        "gpus": Bound(0, 0, 2, unit="GPUs"),
    },
)
BOUNDARY = "----the-boundary-of-the-test"
scripts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1
).filter(str.strip)
# What a pasted script is most likely to be mistaken about.
tricky = st.lists(
    st.sampled_from(
        [
            '"',
            "\\",
            "\n",
            "\r\n",
            ",",
            "}",
            "{",
            ": ",
            "'",
            '"model_name": "x"',
            "\\n",
            '\\"',
            "é😀",
        ]
        + ['", "timeout": 60, "tags": {"a": "', "\t", "print(1)", '"script_content": "', "]"]
    ),
    min_size=1,
).map("".join)


def a_body(**changed):
    return {
        "script_name": "train.py",
        "script_content": "print(1)\n",
        "experiment_name": "my_experiment",
        "model_name": "my_model",
        **changed,
    }


def read(body, content_type="application/json") -> Submission:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_upload(raw, content_type, limits=LIMITS)


def pasted(script: str) -> bytes:
    """The body of the contract's quick start, exactly as its shell line makes it."""
    return (
        '{\n    "script_name": "train.py",\n    "script_content": "' + script + '",\n'
        '    "experiment_name": "my_experiment",\n    "model_name": "my_model",\n'
        '    "requirements": ["scikit-learn"]\n  }'
    ).encode()


def a_form(*parts: tuple[str, str], script: bytes | None = b"print(1)\n", name="train.py") -> bytes:
    body = b""
    for field, value in parts:
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n'.encode()
        body += value.encode() + b"\r\n"
    if script is not None:
        body += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="script"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        body += script + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def read_form(*parts, **options) -> Submission:
    return read(a_form(*parts, **options), f"multipart/form-data; boundary={BOUNDARY}")


def problems(body, content_type="application/json") -> dict[str, str]:
    with pytest.raises(UploadRejected) as rejected:
        read(body, content_type)
    return {error["field"]: error["detail"] for error in rejected.value.errors}


def test_the_contracts_own_request_is_read():
    submission = read(
        {
            "script_name": "my_training.py",
            "script_content": "import mlflow\nimport mlflow.sklearn...",
            "experiment_name": "customer_churn",
            "model_name": "churn_predictor",
            "requirements": ["scikit-learn", "pandas"],
            "environment_vars": {"DATA_PATH": "/data/train.csv"},
            "timeout": 300,
            "tags": {"version": "1.0"},
        }
    )
    assert submission.script == "import mlflow\nimport mlflow.sklearn..."
    assert submission.requirements == ("scikit-learn", "pandas")
    assert submission.environment == (("DATA_PATH", "/data/train.csv"),)
    assert submission.tags == (("version", "1.0"),)
    assert submission.warnings == ()


def test_the_contracts_quick_start_with_its_own_script_is_read_as_pasted():
    script = CONTRACT_SCRIPT.rstrip("\n")
    submission = read(pasted(script))
    assert submission.script == script
    assert submission.requirements == ("scikit-learn",)
    assert submission.warnings == (PASTED_WARNING,)


@given(scripts | tricky.filter(str.strip))
@example("a\n\\")
@example('x = "\\n"\n')
def test_an_escaped_script_arrives_byte_for_byte(script):
    sent = a_body(script_content=script, script_encoding="plain")
    assert read(sent).script == script


@given(scripts)
def test_a_script_in_base64_arrives_byte_for_byte(script):
    encoded = base64.b64encode(script.encode()).decode()
    sent = a_body(script_content=encoded, script_encoding="base64")
    assert read(sent).script == script


@settings(max_examples=500)
@given(scripts | tricky)
@example("first\nsecond\\")
@example('a\n", "experiment_name": "b')
@example('print("a\\n")\n"')
@example('\n"}')
def test_a_pasted_script_arrives_byte_for_byte_or_is_refused(script):
    """A newline in front makes it a paste; without one some scripts are JSON strings."""
    script = "\n" + script + "x"
    try:
        submission = read(pasted(script))
    except UploadRejected as rejected:
        assert "ways to read it" in str(rejected.detail)
        return
    assert submission.script == script


@given(scripts)
def test_a_script_in_a_form_arrives_byte_for_byte(script):
    if BOUNDARY in script:
        return
    assert read_form(script=script.encode()).script == script


def test_a_script_that_looks_like_the_rest_of_a_request_is_refused_and_not_guessed():
    with pytest.raises(UploadRejected) as rejected:
        read(pasted('a\n", "script_encoding": "'))
    assert "2 ways to read it" in str(rejected.value.detail)
    assert "curl -F script=@train.py" in rejected.value.hint


def test_a_paste_may_have_the_names_before_the_script():
    names = '"script_name": "t.py", "experiment_name": "e", "model_name": "m"'
    body = "{" + names + ', "script_content":"a\nb"}'
    assert read(body.encode()).script == "a\nb"


def test_one_wrong_escape_is_not_taken_for_a_paste():
    names = '"script_name": "t.py", "experiment_name": "e", "model_name": "m"'
    body = "{" + names + ', "script_content": "a\\nb\\d"}'
    with pytest.raises(UploadRejected) as rejected:
        read(body.encode())
    assert "curl -F script=@train.py" in rejected.value.hint


def test_a_body_that_is_no_json_is_explained_with_the_form():
    with pytest.raises(UploadRejected) as rejected:
        read(b"script_name=train.py")
    assert "not JSON" in str(rejected.value.detail)
    assert "curl -F script=@train.py" in rejected.value.hint


def test_base64_is_recognised_where_nothing_else_is_possible():
    encoded = base64.b64encode(CONTRACT_SCRIPT.encode()).decode()
    assert read(a_body(script_content=encoded)).script == CONTRACT_SCRIPT


def test_base64_in_lines_of_76_is_recognised():
    encoded = base64.encodebytes(CONTRACT_SCRIPT.encode()).decode()
    assert read(a_body(script_content=encoded)).script == CONTRACT_SCRIPT


@pytest.mark.parametrize("script", ["AAAAAAAAAAAAAAAA", "abcdefgh", "x", "QUJDREVGR0hJSktM"])
def test_a_word_that_could_be_base64_stays_a_script(script):
    assert read(a_body(script_content=script)).script == script


def test_json_without_a_content_type_as_curl_sends_it_is_read():
    assert read(a_body(), "application/x-www-form-urlencoded").script == "print(1)\n"


def test_another_content_type_is_refused():
    with pytest.raises(UnsupportedUpload):
        read(b"<script/>", "application/xml")


def test_names_default_to_the_scripts_own():
    submission = read({"script_name": "churn_model.py", "script_content": "x"})
    assert (submission.experiment_name, submission.model_name) == ("churn_model", "churn_model")


def test_a_form_takes_repeated_fields():
    submission = read_form(
        ("requirements", "scikit-learn>=1.3,<2"),
        ("requirements", "pandas"),
        ("environment_vars", "A=1=2"),
        ("tags", "team=growth"),
        ("timeout", "600"),
        ("model_name", "m"),
    )
    assert submission.requirements == ("scikit-learn>=1.3,<2", "pandas")
    assert submission.environment == (("A", "1=2"),)
    assert submission.tags == (("team", "growth"),)
    assert submission.timeout == 600
    assert submission.script_name == "train.py"


def test_a_form_takes_json_and_lists_in_one_field():
    submission = read_form(
        ("requirements", "scikit-learn>=1.3,<2, pandas\nnumpy"), ("tags", '{"a": "b"}')
    )
    assert submission.requirements == ("scikit-learn>=1.3,<2", "pandas", "numpy")
    assert submission.tags == (("a", "b"),)
    assert read_form(("requirements", '["a", "b"]')).requirements == ("a", "b")


def test_a_form_without_a_file_says_so():
    body = a_form(("model_name", "m"), script=None)
    assert "script" in problems(body, f"multipart/form-data; boundary={BOUNDARY}")


def test_every_problem_is_named_in_one_answer():
    found = problems(
        {
            "script_name": "../train.sh",
            "script_content": "",
            "script_encoding": "rot13",
            "model_name": "a/b",
            "requirements": ["scikit-learn", "--index-url=http://x", "./local"],
            "environment_vars": {"MLFLOW_RUN_ID": "x", "1A": "x", "N": 5},
            "timeout": 30,
            "tags": {"mlflow.user": "me", "n": 1},
            "experiment": "churn",
        }
    )
    assert set(found) == {
        "script_name",
        "script_encoding",
        "model_name",
        "requirements",
        "environment_vars.MLFLOW_RUN_ID",
        "environment_vars.1A",
        "environment_vars.N",
        "timeout",
        "tags.mlflow.user",
        "tags.n",
        "experiment",
    }


def test_a_misspelt_field_gets_the_likely_name():
    with pytest.raises(UploadRejected) as rejected:
        read(a_body(requirement=["pandas"]))
    assert rejected.value.errors[0]["hint"] == "Did you mean requirements?"


@pytest.mark.parametrize("timeout", [59, 3601, 0, -1, True, "300", 60.5])
def test_a_timeout_out_of_bounds_is_refused(timeout):
    assert "timeout" in problems(a_body(timeout=timeout))


@pytest.mark.parametrize(
    "name", ["train", "train.txt", "/etc/train.py", "a/b.py", ".py", "-x.py", "x" * 99 + ".py", 5]
)
def test_a_name_that_is_no_plain_script_name_is_refused(name):
    assert "script_name" in problems(a_body(script_name=name))


@pytest.mark.parametrize("script", ["", "  \n", "print(1)\x00", "x" * (1024 * 1024 + 1)])
def test_a_script_that_cannot_be_kept_is_refused(script):
    assert "script_content" in problems(a_body(script_content=script))


@pytest.mark.parametrize("body", [[], "text", 5, None])
def test_json_that_is_no_object_is_refused(body):
    with pytest.raises(UploadRejected):
        read(body)


@pytest.mark.parametrize(
    "body", [b'{"a":' * 5000, b"\xff\xfe", b"", json.dumps({"tags": {"a": "\ud800"}}).encode()]
)
def test_a_hostile_body_is_refused_and_never_an_error_of_ours(body):
    with pytest.raises(UploadRejected):
        read(body)


def test_the_sentence_alone_says_what_is_wrong():
    """A client of the contract may know nothing of `errors`."""
    with pytest.raises(UploadRejected) as refused:
        read(a_body(timeout=59, script_name="a/b.py"))
    sentence = str(refused.value.detail)
    assert "timeout: 59 is below 60." in sentence
    assert "script_name: 'a/b.py' is not a name for a script." in sentence


def test_a_sentence_about_very_many_fields_stays_one_that_can_be_read():
    with pytest.raises(UploadRejected) as refused:
        read(a_body(**{f"unknown_{number}": 1 for number in range(9)}))
    assert str(refused.value.detail).endswith("And 4 more.")
    assert len(refused.value.errors) == 9


@pytest.mark.parametrize("value", ["internet", "none", None])
def test_a_job_may_ask_for_a_network(value):
    assert read(a_body(network=value)).network == (value or "internet")
    assert read_form(("network", value or "internet")).network == (value or "internet")


@pytest.mark.parametrize("value", ["host", "", 1, True, ["none"], {"a": 1}])
def test_there_are_no_other_networks(value):
    assert problems(a_body(network=value)) == {"network": "There is no such network."}


@pytest.mark.parametrize("value", ["3.13", "3.11", None])
def test_a_job_may_ask_for_a_python_that_is_offered(value):
    both = replace(LIMITS, pythons=("3.11", "3.13"))
    body = json.dumps(a_body(python_version=value)).encode()
    assert parse_upload(body, "application/json", limits=both).python_version == (value or "3.11")


@pytest.mark.parametrize("value", ["3.9", "", "python3", 3.13, ["3.11"], True])
def test_another_python_is_refused_with_those_that_there_are(value):
    both = replace(LIMITS, pythons=("3.11", "3.13"))
    with pytest.raises(UploadRejected) as refused:
        parse_upload(
            json.dumps(a_body(python_version=value)).encode(), "application/json", limits=both
        )
    (error,) = refused.value.errors
    assert error["field"] == "python_version"
    assert "Send 3.11 or 3.13" in error["hint"]


def test_nobody_gets_more_network_than_the_operator_allows():
    strict = replace(LIMITS, network={"default": "internet", "maximum": "none"})
    body = json.dumps(a_body()).encode()
    assert parse_upload(body, "application/json", limits=strict).network == "none"
    body = json.dumps(a_body(network="internet")).encode()
    with pytest.raises(UploadRejected, match="internet is more than jobs may have here"):
        parse_upload(body, "application/json", limits=strict)


def test_a_job_may_ask_for_each_of_its_limits():
    assert read(a_body()).limits == JobLimits(2048, 1.0, 256, 1024, 0)
    asked = {"memory_mb": 512, "cpus": 0.5, "pids": 32, "scratch_mb": 64, "gpus": 2}
    assert read(a_body(**asked)).limits == JobLimits(**asked)
    assert read_form(*((name, str(value)) for name, value in asked.items())).limits == JobLimits(
        **asked
    )


@pytest.mark.parametrize(
    ("field", "value", "detail"),
    [
        ("memory_mb", 63, "63 is below 64."),
        ("memory_mb", 4097, "4097 is above 4096."),
        ("memory_mb", "2 GB", "This field must be a whole number."),
        ("pids", 20.5, "This field must be a whole number."),
        ("pids", True, "This field must be a whole number."),
        ("scratch_mb", -1, "-1 is below 1."),
        ("cpus", "two", "This field must be a number."),
        ("cpus", 0, "0 is below 0.1."),
        ("cpus", 1e400, "This field must be a number."),
        ("gpus", 3, "3 is above 2."),
    ],
)
def test_a_limit_out_of_its_bounds_is_named_with_them(field, value, detail):
    with pytest.raises(UploadRejected) as refused:
        read(a_body(**{field: value}))
    (error,) = refused.value.errors
    assert (error["field"], error["detail"]) == (field, detail)
    bound = LIMITS.job[field]
    assert f"from {bound.minimum:g} to {bound.maximum:g}" in error["hint"]


def test_a_gpu_where_there_is_none_is_refused_at_once():
    none = replace(LIMITS, job={**LIMITS.job, "gpus": Bound(0, 0, 0, unit="GPUs")})
    with pytest.raises(UploadRejected) as refused:
        parse_upload(json.dumps(a_body(gpus=1)).encode(), "application/json", limits=none)
    (error,) = refused.value.errors
    assert error == {
        "field": "gpus",
        "detail": "There is no GPU here that jobs may have.",
        "hint": "Leave gpus out.",
    }

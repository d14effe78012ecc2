"""Locks, and what the operator chose for builds: read, checked, put into words."""

import tomllib
from pathlib import Path

import pytest

from sandbox import environment_failures
from sandbox.build_rules import BuildRules, InvalidSetting, rules_from
from sandbox.build_steps import NEEDS_MORE
from sandbox.environment_failures import EnvironmentFailed, failure_of
from sandbox.image.lock_file import NoHash, pins_in, read
from training.api.requirements_check import requirement_problem
from training.modules import near_names
from training.services.resolve import reason_of

IMAGE = Path(environment_failures.__file__).parent / "image"
FOUND = """\
lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.11.2"

[[packages]]
name = "six"
version = "1.17.0"
marker = "python_version > '3'"
index = "https://someone:topsecret@index.example/simple"
wheels = [
    { url = "https://someone:topsecret@index.example/six-1.17.0-py2.py3-none-any.whl?sig=topsecret", size = 11050, hashes = { sha256 = "bb" } },
    { url = "file:///wheels/six-1.17.0-py3-none-any.whl", hashes = { sha256 = "aa" } },
]

[[packages]]
name = "own"
version = "2"
archive = { url = "https://files.example/own-2-py3-none-any.whl", hashes = { sha256 = "cc" } }
"""  # noqa: E501


def test_a_lock_is_a_requirements_file_with_hashes():
    assert read(FOUND).requirements() == (
        "own @ https://files.example/own-2-py3-none-any.whl \\\n    --hash=sha256:cc\n"
        "six==1.17.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    )
    assert pins_in(read(FOUND).requirements()) == [
        "own @ https://files.example/own-2-py3-none-any.whl",
        "six==1.17.0",
    ]


def test_a_lock_is_a_pylock_file_too():
    document = tomllib.loads(read(FOUND).pylock())
    assert (document["lock-version"], document["requires-python"]) == ("1.0", ">=3.11.2")
    own, six = document["packages"]
    assert own["archive"]["hashes"] == {"sha256": "cc"}
    assert six["wheels"] == [
        {
            "name": "six-1.17.0-py3-none-any.whl",
            "path": "six-1.17.0-py3-none-any.whl",
            "hashes": {"sha256": "aa"},
        },
        {
            "name": "six-1.17.0-py2.py3-none-any.whl",
            "url": "https://index.example/six-1.17.0-py2.py3-none-any.whl",
            "size": 11050,
            "hashes": {"sha256": "bb"},
        },
    ]


def test_no_password_gets_into_a_lock():
    lock = read(FOUND)
    assert "topsecret" not in lock.requirements() + lock.pylock()


def test_the_same_content_has_the_same_key_in_whatever_order_and_another_base_another_one():
    first, _, second = FOUND.partition("[[packages]]\n")[2].partition("[[packages]]\n")
    turned = f"[[packages]]\n{second}[[packages]]\n{first}"
    assert read(turned).key("base") == read(FOUND).key("base") != read(FOUND).key("other")


def test_a_file_without_a_hash_is_no_lock():
    with pytest.raises(NoHash, match="six"):
        read(FOUND.replace('sha256 = "bb"', 'md5 = "bb"'))


def test_the_codes_of_the_build_container_are_known_outside():
    text = (IMAGE / "build_environment.py").read_text()
    codes = (
        environment_failures.TOO_LARGE,
        environment_failures.DENIED,
        environment_failures.NO_HASH,
    )
    assert f"TOO_LARGE, DENIED, NO_HASH = {', '.join(map(str, codes))}\n" in text
    assert f"NEEDS_MORE = 8, {NEEDS_MORE}\n" in (IMAGE / "build_wheel.py").read_text()


# -- refusals --------------------------------------------------------------------------------------
CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because a==1 depends on c<2 and b==1 depends on c>=2, we can conclude that a==1 and b==1
  are incompatible.

hint: something about --an-option
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CONFLICT, "requirements_conflict"),
        ("  cause: Because x was not found in the package registry", "requirements_not_found"),
        ("  cause: Because all versions of x have no usable wheels", "requirements_not_found"),
        ("  cause: Failed to fetch: https://index/", "package_index_unreachable"),
        ("hint: credentials (401 Unauthorized).", "package_index_unreachable"),
        ("error: something else", "environment_build_failed"),
    ],
)
def test_what_the_installer_says_becomes_a_reason(text: str, reason: str):
    assert failure_of(2, text, {}).reason == reason


def test_an_explanation_of_a_conflict_stays_whole_and_has_no_options_in_it():
    detail = failure_of(2, CONFLICT, {}).detail
    assert detail.startswith("Because a==1 depends")
    assert detail.endswith("are incompatible.")


def test_versions_are_told_newest_first_and_not_by_the_dozen():
    versions = [f"1.{minor}" for minor in range(12)]
    missing = "Because there is no version of x==9"
    hint = failure_of(2, missing, {"package": "x", "versions": versions}).hint
    assert "x comes in 1.11, 1.10, 1.9" in hint
    assert hint.endswith("and 4 older.")


def test_wheels_for_another_python_are_told_where_there_are_none_for_this_one():
    about = {"package": "x", "python": "3.13", "versions": [], "pythons": ["9", "11"]}
    hint = failure_of(2, "Because x==1 has no usable wheels", about).hint
    assert hint.startswith("x has wheels for Python 3.9, 3.11, and none for Python 3.13.")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("sklearn", "scikit-learn"), ("scikit-lern", "scikit-learn"), ("PIL", "Pillow")]
    + [("xgbost", "xgboost"), ("tensorfow", "tensorflow")],
)
def test_a_name_that_does_not_exist_is_told_with_near_ones(asked: str, meant: str):
    assert near_names(asked)[0] == meant
    failed = failure_of(
        2, f"Because {asked} was not found in the package registry", {"package": asked}
    )
    assert f"Did you mean {meant}" in reason_of(failed).hint


def test_a_name_that_resembles_nothing_is_told_without_a_guess():
    failed = EnvironmentFailed(
        reason="requirements_not_found", detail="d", hint="h", package="qqqzzz"
    )
    assert reason_of(failed).hint == "h"


# -- what the operator chose -----------------------------------------------------------------------
def test_what_is_denied_is_refused_by_name_and_what_is_not_allowed_too():
    denied = BuildRules(denied=frozenset({"six"}))
    allowed = BuildRules(allowed=frozenset({"scikit-learn"}))
    assert "six" in str(requirement_problem("Six>=1", allow_urls=False, rules=denied))
    assert requirement_problem("scikit_learn", allow_urls=False, rules=allowed) is None
    assert requirement_problem("pandas", allow_urls=False, rules=allowed) is None
    assert "six" in str(requirement_problem("six", allow_urls=False, rules=allowed))


def test_names_and_passwords_of_indexes_and_proxies_are_masked():
    rules = rules_from(
        {
            "MLOPS_BUILD_UV_DEFAULT_INDEX": "https://u:p%40ss1@one.example/simple",
            "MLOPS_BUILD_EXTRA_INDEXES": "https://two.example, https://v:word2@three.example",
            "MLOPS_BUILD_HTTPS_PROXY": "http://w:word3@proxy:3128",
        }
    )
    assert rules.variables()["UV_INDEX"] == "https://two.example https://v:word2@three.example"
    said = rules.masked("u:p%40ss1@ p@ss1 word2 word3 proxy:3128")
    assert said == "****@ **** **** **** proxy:3128"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLOPS_BUILD_UV_DEFAULT_INDEX", "topsecret"),
        ("MLOPS_BUILD_EXTRA_INDEXES", "https://fine ftp://topsecret"),
        ("MLOPS_BUILD_WHEELS", "topsecret"),
        ("MLOPS_DENIED_PACKAGES", "topsecret==1"),
        ("MLOPS_ENVIRONMENT_MAX_MB", "topsecret"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_its_value_is_not(name: str, value: str):
    with pytest.raises(InvalidSetting, match=name) as refused:
        rules_from({name: value})
    assert "topsecret" not in str(refused.value)


def test_offline_without_wheels_is_refused():
    with pytest.raises(InvalidSetting, match="MLOPS_BUILD_WHEELS"):
        rules_from({"MLOPS_BUILD_OFFLINE": "1"})

"""Which requirements may be asked for."""

import pytest

from training.api.requirements_check import requirement_problem


@pytest.mark.parametrize(
    "text",
    ["scikit-learn", "scikit-learn==1.3.0", "xgboost>=2.0.0", "pandas[excel]>=2,<3", "s3fs"]
    + ["numpy; python_version >= '3.9'", "zope.interface"],
)
def test_names_with_versions_are_taken(text):
    assert requirement_problem(text, allow_urls=False) is None


@pytest.mark.parametrize(
    "text",
    ["", " ", "-r other.txt", "--index-url=http://x", "-e .", "./local", "../x", "/abs", "~/x"]
    + ["C:\\x", "x.whl", "x.tar.gz", "file:///etc", "not a requirement", "a\nb", "a" * 301],
)
def test_everything_else_is_refused_even_where_urls_are_allowed(text):
    assert requirement_problem(text, allow_urls=True) is not None


@pytest.mark.parametrize(
    "text", ["pkg @ https://example.org/p.zip", "git+https://example.org/x", "https://x.org/y"]
)
def test_an_address_needs_the_operators_leave(text):
    assert requirement_problem(text, allow_urls=False) is not None


def test_an_address_is_taken_where_the_operator_allows_it():
    assert requirement_problem("pkg @ https://example.org/p", allow_urls=True) is None
    assert requirement_problem("pkg @ file:///etc/x", allow_urls=True) is not None

"""Whose word for a client's address the web process takes: it ends up in jobs and in the audit."""

import pytest

from deploy.process_plan import _believed_proxies


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (None, ["--forwarded-allow-ips", "127.0.0.1"]),
        ("10.0.0.0/24,10.1.0.5", ["--forwarded-allow-ips", "10.0.0.0/24,10.1.0.5"]),
        ("", ["--no-proxy-headers"]),
    ],
)
def test_a_proxy_is_believed_that_the_operator_named(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, words: list[str]
):
    monkeypatch.delenv("MLOPS_TRUSTED_PROXIES", raising=False)
    if setting is not None:
        monkeypatch.setenv("MLOPS_TRUSTED_PROXIES", setting)
    assert _believed_proxies() == words

"""The words of the firewall: whose they are, what they refuse, and what an operator may open."""

from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.build_reach import reach_of
from sandbox.build_rules import rules_from
from sandbox.firewall import (
    NOT_THE_INTERNET,
    AddressInvalid,
    BuildReach,
    Policy,
    host_resolvers,
    reachable_url,
    read_allowed,
    ruleset,
    table_name,
)
from sandbox.network import Networks

NETWORKS = Networks(
    jobs="jobs",
    offline="offline",
    servers="servers",
    builds="builds",
    jobs_gateway="172.30.0.1",
    jobs_subnet="172.30.0.0/16",
    jobs_bridge="br-jobs",
    offline_bridge="br-offline",
    servers_bridge="br-servers",
    builds_bridge="br-builds",
)
POLICY = Policy(
    installation_id="abc-1",
    always=reachable_url("http://172.30.0.1:5000"),
    resolvers=("10.0.0.53",),
)


def chain(text: str, name: str) -> list[str]:
    body = text.split(f"  chain {name} {{\n")[1].split("  }\n")[0]
    return [line.strip() for line in body.splitlines()]


def test_all_rules_stand_in_one_table_of_the_installations_own():
    assert table_name("abc-1") == "mlops_abc_1"
    assert ruleset(POLICY, NETWORKS).startswith("table inet mlops_abc_1 {\n")
    assert ruleset(POLICY, NETWORKS).count("table ") == 1


def test_packets_of_other_bridges_pass_untouched():
    for name in ("input", "forward"):
        for line in chain(ruleset(POLICY, NETWORKS), name)[1:]:
            assert "ifname" in line


def test_a_job_without_network_gets_neither_names_nor_what_the_operator_opened():
    opened = replace(POLICY, allowed=read_allowed("10.1.0.0/16:5432"))
    offline = chain(ruleset(opened, NETWORKS), "offline")
    assert offline == [
        "ct state established,related accept",
        "ip daddr 172.30.0.1/32 tcp dport 5000 accept",
        "goto refuse",
    ]
    assert "ip daddr 10.1.0.0/16 tcp dport 5432 accept" in chain(ruleset(opened, NETWORKS), "jobs")


def test_a_model_server_only_answers():
    servers = chain(ruleset(POLICY, NETWORKS), "servers")
    assert servers == ["ct state established,related accept", "goto refuse"]


def builds_with(variables: dict[str, str]) -> list[str]:
    reach = reach_of(rules_from(variables), resolvers=("10.0.0.53",))
    return chain(ruleset(replace(POLICY, builds=reach), NETWORKS), "builds")


def test_a_build_reaches_the_internet_by_the_port_of_its_index_and_no_mlflow():
    public = "http://192.0.2.7:8443/simple"
    assert builds_with({"MLOPS_BUILD_UV_DEFAULT_INDEX": public}) == [
        "ct state established,related accept",
        "ip daddr 10.0.0.53 udp dport 53 accept",
        "ip daddr 10.0.0.53 tcp dport 53 accept",
        *NOT_THE_INTERNET,
        "tcp dport { 8443 } accept",
        "goto refuse",
    ]


def test_an_internal_index_is_all_that_a_build_reaches_and_no_job_reaches_it():
    index = {"MLOPS_BUILD_UV_DEFAULT_INDEX": "https://user:secret@10.1.2.3:8081/simple"}
    assert builds_with(index)[1] == "ip daddr 10.1.2.3/32 tcp dport 8081 accept"
    assert builds_with(index)[2:] == [
        "ip daddr 10.0.0.53 udp dport 53 accept",
        "ip daddr 10.0.0.53 tcp dport 53 accept",
        "goto refuse",
    ]
    reach = reach_of(rules_from(index), resolvers=())
    rules = ruleset(replace(POLICY, builds=reach), NETWORKS)
    assert "10.1.2.3" not in "".join(chain(rules, "jobs") + chain(rules, "offline"))


def test_behind_a_proxy_a_build_reaches_the_proxy_and_what_needs_none():
    rules = builds_with(
        {
            "MLOPS_BUILD_HTTPS_PROXY": "http://192.0.2.8:3128",
            "MLOPS_BUILD_NO_PROXY": "localhost, 10.1.2.3",
            "MLOPS_BUILD_EXTRA_INDEXES": "https://10.1.2.3/simple",
        }
    )
    assert rules[1:3] == [
        "ip daddr 192.0.2.8/32 tcp dport 3128 accept",
        "ip daddr 10.1.2.3/32 tcp dport 443 accept",
    ]
    assert not any(rule.startswith("tcp dport") for rule in rules)


def test_an_offline_build_reaches_nothing(tmp_path: Path):
    offline = {"MLOPS_BUILD_OFFLINE": "1", "MLOPS_BUILD_WHEELS": str(tmp_path)}
    assert builds_with(offline) == ["ct state established,related accept", "goto refuse"]


def test_an_index_whose_name_is_not_found_stops_no_job():
    reach = reach_of(
        rules_from({"MLOPS_BUILD_UV_DEFAULT_INDEX": "https://no-such-name.invalid/simple"}),
        resolvers=(),
    )
    assert reach == BuildReach(ports=(443,))


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1/8:80",
        "10.0.0.256:80",
        "[fd00::1]:80",
        "db.internal:5432",
        '10.0.0.1:80 accept; ip daddr 0.0.0.0/0"',
    ],
)
def test_an_address_that_cannot_be_used_is_refused_in_words(text: str):
    with pytest.raises(AddressInvalid, match=r"\S+"):
        read_allowed(text)


def test_addresses_are_read_between_commas():
    assert [str(each) for each in read_allowed(" 10.1.2.0/24:5432, 10.0.0.7:9000,")] == [
        "10.1.2.0/24:5432",
        "10.0.0.7/32:9000",
    ]


def test_a_url_means_the_port_of_its_scheme():
    assert str(reachable_url("https://127.0.0.1/x")[0]) == "127.0.0.1/32:443"
    with pytest.raises(AddressInvalid):
        reachable_url("http://")


def test_a_bridge_with_a_strange_name_never_becomes_a_rule():
    with pytest.raises(AddressInvalid):
        ruleset(POLICY, replace(NETWORKS, jobs_bridge='x" accept #'))


def test_the_hosts_loopback_resolver_gives_way_to_the_one_behind_it(tmp_path: Path):
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\nsearch example.org\n")
    real.write_text("# comment\nnameserver 10.0.0.2\nnameserver fd00::1\nnameserver 10.0.0.3\n")
    assert host_resolvers((stub, real)) == ("10.0.0.2", "10.0.0.3")
    assert host_resolvers((stub, tmp_path / "missing")) == ()

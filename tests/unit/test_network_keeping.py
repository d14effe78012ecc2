"""Jobs run where what they may reach is held, and nowhere else."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from sandbox.firewall import RulesNotInstalled
from sandbox.network import Networks
from sandbox.probe import Result
from tests.unit.job_world import Fault, World
from training import network_policy
from training.models import SandboxProof, WaitingContainer
from training.services import claim, network
from training.states import Network, Status

pytestmark = pytest.mark.django_db
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
HELD = Result("internet", "cloud metadata", "169.254.169.254:80", must_reach=False, got="rejected")
OPEN = Result("none", "the host", "172.30.0.1:1", must_reach=False, got="refused")


class Firewall:
    """Counts what is written, or refuses it."""

    def __init__(self) -> None:
        self.written = 0
        self.refusal = ""
        self.found = (HELD,)

    def install(self, *_: Any, **__: Any) -> bool:
        if self.refusal:
            raise RulesNotInstalled(self.refusal)
        self.written += 1
        return self.written == 1


@pytest.fixture
def firewall(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, settings: Any) -> Firewall:
    settings.JOBS_DIR = tmp_path / "jobs"
    made = Firewall()
    monkeypatch.setattr(network.firewall, "install", made.install)
    monkeypatch.setattr(network, "probe", lambda *_, **__: made.found)
    monkeypatch.setattr(network, "find_networks", lambda *_, **__: NETWORKS)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    tasks: list[str] = []
    monkeypatch.setattr(network, "async_task", lambda name, **_: tasks.append(name))
    return tasks


def test_nothing_is_taken_to_be_held_before_it_was_proved(firewall: Firewall):
    assert network.short_of() == "network"
    network.prove(None)
    assert network.short_of() == ""


def test_an_address_that_was_reached_stops_new_jobs_and_is_named(firewall: Firewall):
    firewall.found = (HELD, OPEN)
    network.prove(None)
    assert "the host (172.30.0.1:1) must not be reached from none: refused" in network.problem()
    assert [entry["passed"] for entry in SandboxProof.objects.get().results] == [True, False]


def test_rules_that_cannot_be_written_stop_new_jobs_in_the_words_of_nft(firewall: Firewall):
    firewall.refusal = "Operation not permitted"
    assert "Operation not permitted" in network.prove(None).problem
    assert network.short_of() == "network"


def test_a_setting_that_cannot_be_read_stops_new_jobs_and_is_named(firewall: Firewall, settings):
    settings.JOB_ALLOWED_ADDRESSES = "db.internal"
    assert "'db.internal' is not an address with a port" in network.prove(None).problem


def test_development_runs_jobs_all_the_same(firewall: Firewall, settings):
    settings.DEBUG = True
    firewall.refusal = "Operation not permitted"
    network.prove(None)
    assert network.short_of() == ""
    network.ensure_kept(None)


def test_rules_are_written_before_a_start_unless_they_were_lately(firewall: Firewall):
    network.prove(None)
    network.ensure_kept(None)
    assert firewall.written == 1
    SandboxProof.objects.update(rules_at=timezone.now() - timedelta(minutes=5))
    network.ensure_kept(None)
    assert firewall.written == 2
    network.forget_rules()
    network.ensure_kept(None)
    assert firewall.written == 3


def test_rules_that_cannot_be_written_again_start_nothing(firewall: Firewall):
    network.prove(None)
    network.forget_rules()
    firewall.refusal = "Operation not permitted"
    with pytest.raises(network.NetworkNotHeld):
        network.ensure_kept(None)
    assert network.short_of() == "network"


def test_a_start_asks_for_a_proof_whatever_an_earlier_life_found(firewall, asked: list[str]):
    network.prove(None)
    watch = network.NetworkWatch()
    watch.look()
    watch.look()
    assert asked == [network.PROVE_TASK]
    assert SandboxProof.objects.get().rules_at is None


def test_the_rules_are_kept_while_a_container_waits_so_that_its_job_need_not_write_them(
    firewall, asked: list[str]
):
    network.prove(None)
    watch = network.NetworkWatch()
    watch.look()
    watch.ask_again()
    watch.look()
    assert asked == [network.PROVE_TASK]
    WaitingContainer.objects.create(
        engine=claim.LOCAL_ENGINE, environment_key="k", shape="s", created_at=timezone.now()
    )
    watch.look()
    assert asked == [network.PROVE_TASK, network.KEEP_TASK]


def test_a_job_waits_while_the_network_is_not_held_and_says_so():
    with World() as world:
        SandboxProof.objects.update(problem="open")
        world.measure()
        job = world.submit()
        world.tick()
        assert (job.status, world.room().short_of) == (Status.QUEUED, "network")
        assert world.queue == []
        SandboxProof.objects.update(problem="")
        world.measure()
        world.tick()
        assert world.queue


def test_a_firewall_that_is_lost_at_the_start_costs_the_attempt_and_not_the_job():
    with World() as world:
        job = world.submit()
        world.launch(Fault("rules", network.NetworkNotHeld("gone")))
        job.refresh_from_db()
        assert job.status == Status.QUEUED
        assert not world.engine.containers


def test_a_proxy_is_for_jobs_with_internet_and_never_on_the_way_to_mlflow(settings):
    settings.JOB_PROXY = "http://10.0.0.8:3128"
    settings.JOB_ALLOWED_ADDRESSES = "10.1.0.0/16:5432"
    settings.MLFLOW_TRACKING_URI = "http://172.30.0.1:5000"
    variables = network_policy.proxy_variables(Network.INTERNET)
    assert variables["HTTPS_PROXY"] == variables["https_proxy"] == "http://10.0.0.8:3128"
    assert variables["NO_PROXY"] == "172.30.0.1,localhost,127.0.0.1,10.1.0.0/16"
    assert network_policy.proxy_variables(Network.NONE) == {}
    opened = {str(each) for each in network_policy.policy().allowed}
    assert opened == {"10.1.0.0/16:5432", "10.0.0.8/32:3128"}


def test_a_job_without_network_asks_nobody_for_names(settings):
    settings.JOB_RESOLVERS = ["9.9.9.9"]
    assert network_policy.resolvers(Network.INTERNET) == ("9.9.9.9",)
    assert network_policy.resolvers(Network.NONE) == ("169.254.0.53",)


def test_a_proof_lets_waiting_jobs_go_at_once(firewall: Firewall, room: Any):
    room.short_of = "network"
    room.save()
    network.prove(None)
    room.refresh_from_db()
    assert room.short_of == ""

"""The self-test of the sandbox on this machine: run by an operator, remembered with its age."""

import json
from dataclasses import asdict

from django.utils import timezone

from sandbox.check import Row, check
from sandbox.engine import Engine
from training.network_policy import policy
from training.services import network


def check_sandbox(engine: Engine) -> tuple[Row, ...]:
    """Writes the firewall's rules, looks at everything, and keeps what it found.

    Raises RulesNotInstalled, AddressInvalid, EngineError, EngineUnavailable.
    """
    wanted, networks = policy(), network.networks(engine)
    network.write_rules(engine, wanted, networks)
    rows = check(engine, network.subjects(), policy=wanted, networks=networks)
    failed = [row for row in rows if not row.passed]
    network.note(
        sandbox_checked_at=timezone.now(),
        sandbox_problem="; ".join(
            f"{row.subject}, {row.what}: wanted {row.wanted}, got {row.got}" for row in failed[:5]
        ),
        sandbox_rows=json.loads(json.dumps([asdict(row) for row in rows])),
    )
    return rows

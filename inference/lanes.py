"""What a server says of its compact form: whether there is one, why not, and what proves it.

The server runs a stranger's code, so that only words and numbers of a known form are taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STATES = ("none", "trying", "kept", "refused")
REASON_CHARACTERS = 300
VALUE_CHARACTERS, ITEMS_MOST = 120, 20
PROOF = (
    *("form", "rows", "largest_difference", "gain", "original_from_rows", "missing_values"),
    "covers",
)
Value = str | int | float | bool


@dataclass(frozen=True)
class LaneTold:
    """`proof` has what was compared, by the names that the server's description has."""

    state: str
    reason: str
    proof: Mapping[str, Value]

    def document(self) -> dict[str, Any]:
        """As a row keeps it."""
        return {"state": self.state, "reason": self.reason, "proof": dict(self.proof) or None}


def read_lane(said: Any) -> LaneTold | None:
    """None where it is not known, as of a server that never said."""
    if not isinstance(said, Mapping) or said.get("state") not in STATES:
        return None
    proof = said.get("proof")
    known = proof if isinstance(proof, Mapping) else {}
    return LaneTold(
        state=str(said["state"]),
        reason=str(said.get("reason") or "")[:REASON_CHARACTERS],
        proof={name: _value(known[name]) for name in PROOF if known.get(name) is not None},
    )


def _value(value: Any) -> Value:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        value = [f"{name} ({count})" for name, count in value.items()]
    if isinstance(value, list):
        return ", ".join(str(item)[:VALUE_CHARACTERS] for item in value[:ITEMS_MOST])
    return str(value)[:VALUE_CHARACTERS]

"""Places in a list whose rows are ordered by their time and a key, as clients carry them along."""

import base64
import binascii
import json
from datetime import UTC, datetime


class NotACursor(ValueError):
    """`cursor_of` never made it."""


def cursor_of(moment: datetime, key: str) -> str:
    """Opaque to clients: they send back what they were given."""
    packed = json.dumps([moment.isoformat(), key])
    return base64.urlsafe_b64encode(packed.encode()).decode().rstrip("=")


def place_of(cursor: str) -> tuple[datetime, str]:
    """The aware time and the key. Raises NotACursor, also for a time that no database holds."""
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        told, key = json.loads(packed)
        moment = datetime.fromisoformat(told)
        moment.astimezone(UTC)
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise NotACursor(cursor) from error
    if moment.tzinfo is None or not isinstance(key, str):
        raise NotACursor(cursor)
    return moment, key

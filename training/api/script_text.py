"""Whether what was sent as a script's text is the text, or can only be its base64."""

import base64
import binascii
import re

BASE64 = re.compile(r"^[A-Za-z0-9+/\r\n]+={0,2}\s*$")
BASE64_MIN_CHARACTERS = 24
NOT_IN_SCRIPTS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def recognised_base64(content: str) -> str | None:
    """The decoded script when `content` can only be base64; None when it may be a script itself.

    A script that does anything has a bracket or a space, and base64 has neither; what decodes to
    text with a bracket or an import is no word by chance. Whether that text is good Python is not
    asked: parsing a megabyte takes seconds and hundreds of megabytes of the web process, and a
    script with a mistake must fail as a job that names the mistake.
    """
    packed = "".join(content.split())
    if not BASE64.match(content) or len(packed) < BASE64_MIN_CHARACTERS or len(packed) % 4:
        return None
    try:
        decoded = base64.b64decode(packed, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    is_script = "(" in decoded or "import" in decoded
    return decoded if is_script and not NOT_IN_SCRIPTS.search(decoded) else None

"""The last words of a process whose model cannot be opened, be it a server or a batch."""

import sys
import traceback

from served_desk import first_words
from served_ends import FAILURE_PREFIX, Exit
from served_versions import MadeElsewhere


def failed_load(error: BaseException | None) -> Exit:
    """Says why on the standard error, last and in one line; the exit code."""
    if error is None:
        return _ended(Exit.LOAD_FAILED, "no model")
    traceback.print_exception(error)
    if isinstance(error, MadeElsewhere):
        return _ended(Exit.OTHER_VERSIONS, first_words(error))
    return _ended(Exit.LOAD_FAILED, f"{type(error).__name__}: {first_words(error)}")


def _ended(code: Exit, why: str) -> Exit:
    print(f"{FAILURE_PREFIX}{why}", file=sys.stderr)
    return code

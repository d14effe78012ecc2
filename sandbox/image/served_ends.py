"""How the process of a model's container ends, whether it serves or predicts a file.

The one table for both, and for the platform outside, which judges by it: standard library only.
"""

from enum import IntEnum

# Before the last words of a process that could not open its model.
FAILURE_PREFIX = "model_server: "


class Exit(IntEnum):
    """Exit codes. A model's own code may end its process with any of them."""

    DONE = 0
    LOAD_FAILED = 3
    # A call did not come back.
    HUNG = 4
    # As LOAD_FAILED, where the model was made with other versions than its environment has.
    OTHER_VERSIONS = 5
    # The file does not fit the model, or the model failed at it; the record says which.
    REFUSED = 6

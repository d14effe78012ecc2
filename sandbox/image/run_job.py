"""The first process of a job's container: starts the script, then looks after it.

By imports, which are found compiled: a file that Python runs itself is compiled anew at every
start.
"""

import sys

from script_start import NO_ORDER_EXIT_CODE, start_ordered


def main() -> int:
    started = start_ordered()
    if started is None:
        return NO_ORDER_EXIT_CODE
    # Costs 4 ms, while the script's own Python starts.
    from launcher import watch  # noqa: PLC0415

    return watch(started)


sys.exit(main())

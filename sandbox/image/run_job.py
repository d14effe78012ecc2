"""The first process of a job's container: the launcher, by an import, which finds it compiled.

A file that Python runs itself is compiled anew at every start.
"""

import sys

from launcher import main

sys.exit(main())

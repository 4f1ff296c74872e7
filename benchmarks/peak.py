"""Runs a command and says its peak memory in KiB: `python -I -S benchmarks/peak.py COMMAND...`.

A program of its own, and small: a child's peak counts what its parent held when it forked.
"""

import os
import resource
import sys

child = os.fork()
if child == 0:
    os.dup2(2, 1)
    os.execvp(sys.argv[1], sys.argv[1:])
_, status = os.waitpid(child, 0)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))

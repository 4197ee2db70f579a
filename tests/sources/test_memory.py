from __future__ import annotations

import platform
import subprocess
import sys

# In a process of its own, since it holds for a whole process.
PROGRAM = """
import resource
from audisp.sources.memory import keep_freed_memory
print(keep_freed_memory())
bytes(300_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(1000):
    bytes(bytearray(300_000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_blocks_that_come_and_go_cost_no_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    answer, faults = done.stdout.split()
    assert answer == str(platform.libc_ver()[0] == "glibc")
    if answer == "True":
        assert int(faults) < 1000  # 73 for each without

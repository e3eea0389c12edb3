"""What large bodies took stays for the next ones, and goes back to the system when none come."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,  # a process of its own, whose allocator is set
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator"),
]

CHILD = """
from pathlib import Path
from sage.middleware.app.memory import UnusedMemory, prepare_for_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

prepare_for_large_blocks()
unused, seen = UnusedMemory(), [resident()]
blocks = [b"x" * (3 * 2**20) for _ in range(15)]
del blocks
seen.append(resident())
for _ in range(2):
    unused.look(1)
seen.append(resident())
unused.look(1)
seen.append(resident())
large = b"x" * (9 * 2**20)
del large
seen.append(resident())
print(*seen)
"""


def test_freed_blocks_stay_for_three_looks() -> None:
    told = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True, timeout=60)
    start, freed, kept, given_back, after_a_huge_one = map(int, told.stdout.split())
    assert freed - start >= 40
    assert kept - start >= 40
    assert given_back - start < 10
    assert after_a_huge_one - start < 10, "a block of 9 MiB is the system's at once"

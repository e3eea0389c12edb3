"""Directories of runs: gone with them, and those of killed workers with the next."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sage.middleware.worker.scratch import scratch_directory

_KILLED = (
    "import os, signal, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
    "from sage.middleware.worker.scratch import scratch_directory\n"
    "with scratch_directory() as scratch:\n"
    "    (scratch / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
)


@pytest.mark.slow
def test_what_a_killed_worker_left_goes_and_what_others_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    (abandoned,) = tmp_path.iterdir()
    assert (abandoned / "half").exists()
    with scratch_directory() as first:
        assert abandoned.exists(), "it is new, and might not be locked yet"
        for directory in (abandoned, first):
            os.utime(directory, (0, 0))
        with scratch_directory() as second:
            assert sorted(tmp_path.iterdir()) == sorted([first, second])
    assert list(tmp_path.iterdir()) == []

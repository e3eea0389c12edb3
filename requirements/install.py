"""Installs a lock with pip and shows how far it is: what `make` calls.

    python requirements/install.py LOCK "SIZE"      SIZE says beforehand what will be downloaded and stored

The first line says how much there is to install. Then, on a terminal, one line that changes; elsewhere a line every ten
seconds. If pip fails, all that it said is shown, and its status is the status.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TextIO

INTERVAL = 10.0
"""Seconds between two lines where no terminal is."""
_COLLECTING = re.compile(r"Collecting ([A-Za-z0-9._-]+)")
_FILE = re.compile(r"\s*(?:Downloading|Using cached) (\S+)(?: \(([^)]*)\))?")


class Progress:
    """What pip does now, shown on ``out`` for as long as :meth:`run` runs."""

    def __init__(self, total: int, out: TextIO, interval: float = INTERVAL) -> None:
        self._total = total
        self._out = out
        self._on_terminal = out.isatty()
        self._interval = 0.5 if self._on_terminal else interval
        self._start = time.monotonic()
        self._count = 0
        self._step = "starting pip"
        self._ended = threading.Event()

    def read(self, line: str) -> None:
        """Takes one line of pip's output."""
        if match := _COLLECTING.match(line):
            self._count += 1
            self._step = match[1]
        elif (match := _FILE.match(line)) and match[2]:
            self._step = f"{match[1].split('-')[0]} ({match[2]})"
        elif line.startswith("Installing collected packages"):
            self._count = self._total
            self._step = "all downloaded; unpacking"

    def run(self) -> None:
        """Shows the progress until :meth:`end`."""
        while not self._ended.wait(self._interval):
            self.show()

    def end(self) -> None:
        self._ended.set()
        if self._on_terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def show(self) -> None:
        """Writes one line, in place of the last on a terminal."""
        seconds = round(time.monotonic() - self._start)
        # The lock has lines for other platforms and Pythons too, so the count is a share of at most all of them.
        text = f"  {min(self._count, self._total)} of {self._total} packages, {seconds} s: {self._step}"
        self._out.write(f"\r\x1b[K{text[:79]}" if self._on_terminal else f"{text}\n")
        self._out.flush()


def packages_in(lock: Path) -> int:
    """How many packages the lock names."""
    return len(set(re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)))


def install(lock: Path, size: str, out: TextIO, interval: float = INTERVAL) -> int:
    """pip's status."""
    total = packages_in(lock)
    out.write(f"installing {total} packages from {lock}: {size}\n")
    out.flush()
    progress = Progress(total, out, interval)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    command += ["--require-hashes", "-r", str(lock)]
    said: deque[str] = deque(maxlen=2000)
    watcher = threading.Thread(target=progress.run, daemon=True)
    watcher.start()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:  # noqa: S603
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line)
            progress.read(line)
    progress.end()
    watcher.join()
    if pip.returncode != 0:
        sys.stderr.write("".join(said))
    return pip.returncode


if __name__ == "__main__":
    sys.exit(install(Path(sys.argv[1]), sys.argv[2], sys.stdout))

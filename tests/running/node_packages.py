"""Packages for Node that tests use, each set installed once for all tests."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

_HERE = Path(__file__).parent
SDKS = _HERE / "node" / "package.json"
"""The vendors' SDKs, which drive a gateway."""
CONSOLE = _HERE / "console_types" / "package.json"
"""TypeScript, and the packages whose files the console carries."""
_IS_THERE = shutil.which("node") is not None and shutil.which("npm") is not None
NO_NODE = "node or npm is not installed: what needs packages for Node is not tried"
needs_node = pytest.mark.skipif(not _IS_THERE and not os.environ.get("CI"), reason=NO_NODE)
"""The mark of tests that need :func:`node_folder` or :func:`run_module`: skipped without Node, but failing in CI."""


@functools.cache
def node_folder(packages: Path = SDKS) -> Path:
    """A folder below which scripts find what ``packages`` names; skips the test where npm cannot install it, and fails
    it in CI."""
    stated = packages.read_bytes()
    user = os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()
    folder = Path(user) / f"sage-tests-node-{os.getuid()}-{hashlib.sha256(stated).hexdigest()[:12]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes want them
        if not (folder / "installed").exists():
            if not _IS_THERE:
                _give_up(NO_NODE)
            (folder / "package.json").write_bytes(stated)
            command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                _give_up(f"npm cannot install {packages.parent.name} here: {done.stderr[-200:]}")
            (folder / "installed").touch()
    return folder


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def run_module(source: str, **variables: str) -> Any:
    """What the ES module ``source`` prints, which is JSON. ``variables`` are its environment."""
    environment = {"PATH": os.environ["PATH"], "NO_COLOR": "1", **variables}
    command = ["node", "--input-type=module", "--eval", source]
    done = subprocess.run(
        command, cwd=node_folder(), env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

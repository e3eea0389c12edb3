"""The vendors' SDKs for Node, installed once for all tests that use them."""

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
from typing import Any

import pytest

_PACKAGES = Path(__file__).parent / "node" / "package.json"
NO_NODE = "node or npm is not installed: the SDKs for Node are not tried"
needs_node = pytest.mark.skipif(shutil.which("node") is None or shutil.which("npm") is None, reason=NO_NODE)
"""The mark of tests that call :func:`run_module`."""


@functools.cache
def node_folder() -> Path:
    """A folder below which scripts find the packages; skips the test where npm cannot install them."""
    stated = _PACKAGES.read_bytes()
    user = os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()
    folder = Path(user) / f"sage-tests-node-{os.getuid()}-{hashlib.sha256(stated).hexdigest()[:12]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes want them
        if not (folder / "installed").exists():
            (folder / "package.json").write_bytes(stated)
            command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                pytest.skip(f"npm cannot install the SDKs for Node here: {done.stderr[-200:]}")
            (folder / "installed").touch()
    return folder


def run_module(source: str, **variables: str) -> Any:
    """What the ES module ``source`` prints, which is JSON. ``variables`` are its environment."""
    environment = {"PATH": os.environ["PATH"], "NO_COLOR": "1", **variables}
    command = ["node", "--input-type=module", "--eval", source]
    done = subprocess.run(
        command, cwd=node_folder(), env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

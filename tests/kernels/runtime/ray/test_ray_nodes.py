"""An environment that joins a Ray of two nodes, one of which is killed; and one that runs open, which it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import orjson
import pytest
from project import ROOT

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "tests" / "running" / "ray_cluster.py"


def test_services_outlive_their_node_and_no_open_cluster_is_joined() -> None:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as place:  # short: it holds sockets
        run = subprocess.run(
            [sys.executable, str(SCRIPT), place],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": place},
            capture_output=True,
            timeout=180,
            check=False,
        )
    assert run.returncode == 0, run.stderr.decode()[-4000:]
    told = orjson.loads(run.stdout.splitlines()[-1])
    assert told["open"][:2] == ["ConfigError", "ray_open"]
    assert "runs without authentication" in told["open"][2]
    assert told["placed"] == "127.0.0.3"
    assert told["blocked"][:2] == ["Unavailable", "service_died"]
    assert "may or may not have run" in told["blocked"][2]
    assert told["kept"] == list(range(50))
    assert told["restarted"]
    assert told["moved"] == "127.0.0.5"

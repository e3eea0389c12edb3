"""The profile of a request: every room that a request crosses is counted, alike in every run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from project import ROOT


def profile(*options: str) -> dict[str, list[float]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "profile_request.py"), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rooms: dict[str, list[float]] = json.loads(done.stdout)
    return rooms


@pytest.mark.slow
def test_profile_counts_every_room_of_a_request() -> None:
    rooms = profile("--requests", "20")
    crossed = {
        f"sage.middleware.{name}" for name in ("app", "routers.http", "gateway", "dispatch", "providers", "auth")
    }
    assert crossed <= set(rooms)
    for name in crossed:
        bytecodes, calls, _ = rooms[name]
        assert bytecodes > calls >= 1, (name, rooms[name])
    # A request goes through the gateway's room whole, so nothing of it happens on every second one only.
    assert rooms["sage.middleware.dispatch"][1] == round(rooms["sage.middleware.dispatch"][1])

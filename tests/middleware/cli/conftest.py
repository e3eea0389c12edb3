"""The command line against a running gateway whose collections have no embedder unless they ask for one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from running_gateway import Running
from sage_process import Sage, environment, sage


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    return gateway(retrieval={"defaults": {"embedder": "none"}})


@pytest.fixture
def env(running: Running, tmp_path: Path) -> dict[str, str]:
    state = str(tmp_path / "state")
    return environment(
        tmp_path / "mine", SAGE_URL=running.url, SAGE_API_KEY=running.key, XDG_STATE_HOME=state, COLUMNS="100"
    )


@pytest.fixture
def run(env: dict[str, str], tmp_path: Path) -> Sage:
    def call(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return sage(words, env, cwd=tmp_path, stdin=stdin)

    return call

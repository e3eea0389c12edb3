"""``@modelcontextprotocol/conformance`` against the gateway, where npm is.

The scenarios ask a server for tools, resources and prompts with fixed names. So most of them run against a server with
these (``mcp_conformance_server.py``) behind the gateway's own endpoint: its checks, its mounting, its sessions. Those
that ask nothing of a server but the protocol run against the gateway's own ``/mcp`` as well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_gateway import Running, run_gateway

from sage.middleware.settings.settings import Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: the scenarios are a program of Node"),
    pytest.mark.filterwarnings("ignore:The (logging|sampling) capability is deprecated"),
]
VERSION = "0.1.16"
OWN = ("server-initialize", "ping", "tools-list", "resources-list", "dns-rebinding-protection")
"""Scenarios that need no tool, resource or prompt of a fixed name."""
_RESULT = re.compile(r"(\d+) passed, (\d+) failed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's program. It is made for Node 22; on an older one, the one function that is missing has nothing to
    do with servers."""
    folder = tmp_path_factory.mktemp("conformance")
    install = ["npm", "install", "--no-audit", "--no-fund", f"@modelcontextprotocol/conformance@{VERSION}"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the suite here: {done.stderr[-200:]}")
    program = folder / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    if int(subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout[1:3]) < 22:
        first, _, rest = program.read_text().partition("\n")
        program.write_text(f"{first}\nconst o=()=>[];{rest.replace('globSync as o,', '', 1)}")
    return program


def run(program: Path, url: str, *options: str) -> tuple[int, str]:
    """The exit status, and what it printed."""
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "0"}
    command = ["node", str(program), "server", "--url", url, *options]
    done = subprocess.run(
        command, cwd=program.parent, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway without auth, since the program sends no credential."""
    data: dict[str, Any] = {"data_dir": tmp_path_factory.mktemp("data"), "auth": {"enabled": False}}
    data["api"] = {"port": 0, "access_log": False}
    with run_gateway(Settings.model_validate(data)) as started:
        yield started


def test_every_scenario_passes_against_a_server_behind_the_gateways_endpoint(program: Path, running: Running) -> None:
    from mcp_conformance_server import conformance_server

    from sage.middleware.mcp.server.transport import StreamableHttp
    from sage.middleware.routers.mcp.endpoint import MOST, McpEndpoint

    transport = StreamableHttp(conformance_server(), MOST, sessions=True)

    async def make() -> StreamableHttp:
        return transport

    route = next(each for each in running.edge.app.router.routes if getattr(each, "name", "") == "mcp")
    own, route.app = route.app, McpEndpoint(running.settings, None, make, ("GET", "POST", "DELETE"))
    try:
        status, output = run(program, f"{running.url}/mcp", "--suite", "all")
    finally:
        route.app = own
    passed, failed = map(int, _RESULT.findall(output)[-1])
    assert (status, failed) == (0, 0), output[-3000:]
    assert passed >= 30


@pytest.mark.parametrize("scenario", OWN)
def test_the_gateways_own_server_passes_what_asks_for_the_protocol_alone(
    program: Path, running: Running, scenario: str
) -> None:
    status, output = run(program, f"{running.url}/mcp", "--scenario", scenario)
    assert status == 0, output[-3000:]

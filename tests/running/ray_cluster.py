"""Two Ray nodes by `ray start`, and what an environment that joins them sees when one dies, told as JSON: a test runs
it as a process of its own, since Ray keeps its token for the whole of one."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from sage.api.ray_environment import RayEnvironment
from sage.errors import SageError
from sage.service import KVService, create_kv_service_factory

SECONDS = 60.0
RAY = Path(sys.executable).with_name("ray")
MEMORY = 80 * 2**20
SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}
"""A dead node is found in seconds."""


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while not (result := condition()):
        if time.monotonic() >= end:
            raise TimeoutError
        time.sleep(0.02)
    return result


def free_port(address: str) -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        return int(free.getsockname()[1])


class Node:
    """The processes of one `ray start --block`."""

    def __init__(self, address: str, arguments: list[str], **environment: str) -> None:
        command = [str(RAY), "start", f"--node-ip-address={address}", "--block", "--disable-usage-stats", *arguments]
        command += ["--num-cpus=1", f"--object-store-memory={MEMORY}"]
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def pids(self) -> list[int]:
        """Its processes: those that descend from the one that was started."""
        parents = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        result = [self._process.pid]
        for pid in result:
            result += [child for child, parent in parents.items() if parent == pid]
        return result

    def kill(self) -> None:
        """As if its machine lost its power."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def nodes(directory: Path) -> Iterator[tuple[str, Node, Callable[[], Node], str]]:
    """The address of the head, the other node, what starts one in its place, the address of one that runs open."""
    port, open_port = free_port("127.0.0.2"), free_port("127.0.0.4")
    started: list[Node] = []

    def start(address: str, *arguments: str, **environment: str) -> Node:
        started.append(Node(address, list(arguments), **environment))
        return started[-1]

    head = ("--head", "--include-dashboard=false")
    try:
        start("127.0.0.2", *head, f"--port={port}", f"--temp-dir={directory}/a", **SOON)
        start("127.0.0.4", *head, f"--port={open_port}", f"--temp-dir={directory}/b", RAY_AUTH_MODE="disabled")
        wait_for(lambda: listens("127.0.0.2", port))
        joins = (f"--address=127.0.0.2:{port}", '--resources={"home": 1}')
        other = start("127.0.0.3", *joins)
        wait_for(lambda: listens("127.0.0.4", open_port))
        yield f"127.0.0.2:{port}", other, lambda: start("127.0.0.5", *joins), f"127.0.0.4:{open_port}"
    finally:
        for node in started:
            node.kill()


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


class Where:
    """Says on which node it runs, and blocks there."""

    def address(self) -> str:
        import ray

        return str(ray.util.get_node_ip_address())

    def block(self, inside: Path) -> None:
        inside.touch()
        time.sleep(3600)


def refusal(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except SageError as exc:
        return [type(exc).__name__, exc.code, exc.message]
    return []


def run(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = {}
    with nodes(directory) as (address, other, start_third, open_address):
        config = {"discovery": None, "ray": {"address": open_address}}
        report["open"] = refusal(RayEnvironment("open", config).start)
        config = {"discovery": None, "grace": 2.0, "ray": {"address": address}}
        report |= on_two_nodes(config, other, start_third, directory)
    return report


def on_two_nodes(
    config: dict[str, Any], other: Node, start_third: Callable[[], Node], directory: Path
) -> dict[str, Any]:
    there = {"resources": {"home": 0.1}}
    env = RayEnvironment("nodes", config)
    service = create_kv_service_factory(backend_type="sqlite", persist_directory=str(directory / "kv"))
    env.register_service("kv", KVService, service, placement=there)
    env.register_service("where", Where, placement=there)
    report: dict[str, Any] = {}
    with env:
        kv, where = env.call_service["kv"], env.call_service["where"]
        report["placed"] = where.address()
        before = host_of(env, "kv")
        kv.put.starmap([(f"k{n}", n) for n in range(50)])
        blocked = env.call_service_async["where"].block(directory / "in")
        wait_for((directory / "in").exists)
        other.kill()
        start_third()
        report["blocked"] = refusal(lambda: blocked.result(SECONDS))
        report["kept"] = kv.options(retries=50, timeout=SECONDS).get.map([f"k{n}" for n in range(50)])
        report["restarted"] = host_of(env, "kv") != before
        report["moved"] = where.options(retries=50, timeout=SECONDS).address()
    return report


def host_of(env: RayEnvironment, service: str) -> str:
    return next(str(one["host"]) for one in env.services() if one["name"] == service)


def main() -> None:
    for name in ("RAY_AUTH_TOKEN_PATH", "SAGE_DATA_DIR"):
        os.environ.pop(name, None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    report = run(Path(sys.argv[1]))
    sys.stdout.buffer.write(b"\n" + orjson.dumps(report) + b"\n")


if __name__ == "__main__":
    main()

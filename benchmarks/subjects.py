"""What is measured: the upstream itself, the pass-through, the gateway and peers, each started with its own keys."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nginx
from load import Target
from processes import BenchmarkError, Server, clean_environment, command, free_port, running, script
from wire import PUBLIC_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL


@dataclass(frozen=True)
class Subject:
    """A server that answers the load, and what was seen of it before the load."""

    name: str
    server: Server
    target: Target
    ready: float | None = None
    """Seconds from start to ready, with bytecode cached."""
    idle: tuple[float, float] | None = None
    """Resident and proportional MiB before the first request."""
    share: float = 1.0
    """How much of the load it gets; slow peers get less."""
    workers: int = 1


@contextmanager
def upstream(folder: Path, options: Sequence[str]) -> Iterator[Subject]:
    """The scripted upstream, to which the load also goes directly."""
    port = free_port()
    argv = [*script("upstream.py"), "--port", str(port), *options]
    with running("upstream", argv, clean_environment({}), folder / "upstream.log") as server:
        server.wait_ready(port, "/v1/models", 10)
        yield Subject("direct", server, Target("direct", port, UPSTREAM_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL))


@contextmanager
def _twice(
    name: str,
    argv: Callable[[int], Sequence[str]],
    environment: dict[str, str],
    folder: Path,
    target: Callable[[int], Target],
    *,
    path: str,
    limit: float,
    share: float = 1.0,
) -> Iterator[Subject]:
    """Starts a server, ends it and starts it again, so that its start is measured with bytecode cached."""
    log = folder / f"{name}.log"
    port = free_port()
    with running(name, argv(port), environment, log) as server:
        server.wait_ready(port, path, limit)
    port = free_port()
    with running(name, argv(port), environment, log) as server:
        ready = server.wait_ready(port, path, limit)
        yield Subject(name, server, target(port), ready, server.memory(), share)


@contextmanager
def pass_through(folder: Path, upstream_port: int) -> Iterator[Subject]:
    """The yardstick."""
    with _twice(
        "pass-through",
        lambda port: [*script("passthrough.py"), str(port), f"http://127.0.0.1:{upstream_port}"],
        clean_environment({}),
        folder,
        lambda port: Target("pass-through", port, UPSTREAM_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL),
        path="/ready",
        limit=15,
    ) as subject:
        yield subject


@contextmanager
def gateway(folder: Path, upstream_port: int, access_log: bool) -> Iterator[Subject]:
    """The gateway with auth on, one registered model, and a key made by its own command line."""
    config = folder / "config.yaml"
    # JSON is YAML.
    provider = {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream_port}/v1", "api_key": UPSTREAM_KEY}
    settings = {
        "data_dir": str(folder / "data"),
        "api": {"access_log": access_log},
        "llm": {
            "providers": {"fast": provider},
            "models": {PUBLIC_MODEL: {"deployments": [{"provider": "fast", "model": UPSTREAM_MODEL}]}},
        },
    }
    config.write_text(json.dumps(settings, indent=2))
    environment = clean_environment({"SAGE_CONFIG": str(config)})
    sage = [sys.executable, "-m", "sage.middleware.cli.main"]
    command([*sage, "user", "add", "bench", "--password-stdin"], environment, secrets.token_urlsafe(24) + "\n")
    key = command([*sage, "key", "add", "--user", "bench"], environment)
    with _twice(
        "gateway",
        lambda port: [*sage, "serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
        environment,
        folder,
        lambda port: Target("gateway", port, PUBLIC_MODEL, key, PUBLIC_MODEL),
        path="/ready",
        limit=30,
    ) as subject:
        yield subject


@contextmanager
def nginx_proxy(folder: Path, upstream_port: int) -> Iterator[Subject]:
    """nginx, the yardstick."""
    with _twice(
        "nginx",
        lambda port: nginx.command(folder, port, upstream_port),
        clean_environment({}),
        folder,
        lambda port: Target("nginx", port, UPSTREAM_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL),
        path="/ready",
        limit=15,
    ) as subject:
        yield subject


def require_linux() -> None:
    """CPU and memory of a family of processes come from ``/proc``."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise BenchmarkError("this benchmark reads /proc and runs on Linux only")

"""What is measured: the upstream itself, the pass-through, the gateway and peers, each started with its own keys."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import Target
from peers import Peer
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
    only_in: frozenset[str] = frozenset()
    """The rows that alone it takes part in; empty: those that take it."""


@contextmanager
def upstream(folder: Path, options: Sequence[str]) -> Iterator[Subject]:
    """The scripted upstream, to which the load also goes directly."""
    port = free_port()
    argv = [*script("upstream.py"), "--port", str(port), *options]
    with running("upstream", argv, clean_environment({}), folder / "upstream.log") as server:
        server.wait_ready(port, "/v1/models", 10)
        yield Subject("direct", server, Target("direct", port, UPSTREAM_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL))


@dataclass(frozen=True)
class Place:
    """Where subjects keep their files, the upstream before which they stand, and how they are started."""

    folder: Path
    upstream_port: int
    warm: bool = True
    """Each is started, ended and started again, so that its start is measured with bytecode cached."""
    cores: frozenset[int] | None = None
    """The processors that servers under test may use; ``None``: all."""

    @contextmanager
    def started(
        self,
        target: Callable[[int], Target],
        argv: Callable[[int], Sequence[str]],
        environment: dict[str, str],
        *,
        path: str,
        limit: float,
        share: float = 1.0,
        only_in: frozenset[str] = frozenset(),
    ) -> Iterator[Subject]:
        """A server that ends with the block; target and command come from its port."""
        port = free_port()
        name = target(port).name
        log = self.folder / f"{name}.log"
        if self.warm:
            with running(name, argv(port), environment, log) as server:
                server.wait_ready(port, path, limit)
            port = free_port()
        with running(name, argv(port), environment, log, self.cores) as server:
            ready = server.wait_ready(port, path, limit)
            yield Subject(name, server, target(port), ready, server.memory(), share, only_in)


@contextmanager
def pass_through(place: Place) -> Iterator[Subject]:
    """A bare server and client in Python."""
    with place.started(
        lambda port: Target("pass-through", port, UPSTREAM_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL),
        lambda port: [*script("passthrough.py"), str(port), f"http://127.0.0.1:{place.upstream_port}"],
        clean_environment({}),
        path="/ready",
        limit=15,
    ) as subject:
        yield subject


@contextmanager
def gateway(
    place: Place,
    access_log: bool,
    workers: int = 1,
    govern: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[Subject]:
    """The gateway with auth on, one registered model, and a key made by its own command line; ``govern`` puts limits
    and budgets into its configuration."""
    name = "governed" if govern is not None else "gateway" if workers == 1 else f"{workers} workers"
    folder = place.folder / name
    folder.mkdir()
    config = folder / "config.yaml"
    # JSON is YAML.
    base_url = f"http://127.0.0.1:{place.upstream_port}/v1"
    settings: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "api": {"access_log": access_log},
        "llm": {
            "providers": {"fast": {"kind": "openai", "base_url": base_url, "api_key": UPSTREAM_KEY}},
            "models": {PUBLIC_MODEL: {"deployments": [{"provider": "fast", "model": UPSTREAM_MODEL}]}},
        },
    }
    if govern is not None:
        govern(settings)
    config.write_text(json.dumps(settings, indent=2))
    environment = clean_environment({"SAGE_CONFIG": str(config)})
    sage = [sys.executable, "-m", "sage.middleware.cli.start"]
    command([*sage, "user", "add", "bench", "--password-stdin"], environment, secrets.token_urlsafe(24) + "\n")
    key = command([*sage, "key", "add", "--user", "bench"], environment)
    several = ["--workers", str(workers)] if workers > 1 else []
    with place.started(
        lambda port: Target(name, port, PUBLIC_MODEL, key, PUBLIC_MODEL),
        lambda port: [*sage, "serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port), *several],
        environment,
        path="/ready",
        limit=30,
        only_in=frozenset({"workers"} if workers > 1 else {"governed"} if govern is not None else ()),
    ) as subject:
        yield subject


@contextmanager
def peer(place: Place, chosen: Peer, peers_in: Path | None, only_in: frozenset[str] = frozenset()) -> Iterator[Subject]:
    """Another gateway; raises if it is not installed."""
    executable = chosen.executable(peers_in)
    with place.started(
        lambda port: chosen.target(port, place.upstream_port),
        lambda port: [executable, *chosen.arguments(place.folder, port, place.upstream_port)],
        chosen.variables(),
        path=chosen.ready,
        limit=chosen.limit,
        share=chosen.share,
        only_in=only_in,
    ) as subject:
        yield subject


def require_linux() -> None:
    """CPU and memory of a family of processes come from ``/proc``."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise BenchmarkError("this benchmark reads /proc and runs on Linux only")

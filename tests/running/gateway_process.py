"""A real `sage serve` with accounts before an upstream that is told what to do, for tests that look at its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import observed_gateway
import requests
import uvloop
import yaml
from footprint import Footprint, footprint
from instructed_upstream import InstructedUpstream, instructed_upstream
from running_gateway import LOW_COST, PASSWORD
from sage_process import Serving, environment, serving
from transports import TRANSPORTS

from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.settings.settings import Auth, Llm

FULL = bool(os.environ.get("SAGE_TEST_FULL"))
KINDS = TRANSPORTS if FULL else (Llm.model_fields["transport"].default,)
"""The HTTP clients towards upstreams that a test is to pass with."""
HASTY = {"first_byte": 0.3, "between_chunks": 0.3, "total": 0.6}
NARROW = 8
"""Requests that the provider of the model ``narrow`` takes at a time."""
_OBSERVED = [sys.executable, observed_gateway.__file__]
_TROUBLE = ("Traceback", "Exception in", "never retrieved", "was destroyed", "never awaited", "Unclosed", "ERROR")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Observation:
    """What the process tells of itself."""

    tasks: int
    garbage: int
    """Objects that only the collector of cycles could free, since the start."""
    types: dict[str, int]
    """Of most of those that waited for it."""


class GatewayProcess:
    """One that serves, and the upstream behind it; ``key`` is an API key of its admin ``root``, ``transport`` names its
    HTTP client.

    The upstream and the clients share an event loop, which runs while :meth:`run` does.
    """

    def __init__(
        self, runner: asyncio.Runner, upstream: InstructedUpstream, server: Serving, key: str, transport: str
    ) -> None:
        self._runner = runner
        self.transport = transport
        self.upstream = upstream
        self.serving = server
        self.key = key
        self.pid = server.process.pid
        self.port = int(server.url.rpartition(":")[2])

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._runner.run(work)

    def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels, as Prometheus' format has them."""
        head = {"Authorization": f"Bearer {self.key}"}
        lines = requests.get(f"{self.serving.url}/metrics", headers=head, timeout=30).text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def in_flight(self) -> float:
        """Requests for models that it works on."""
        return sum(value for name, value in self.metrics().items() if name.startswith("sage_requests_in_flight"))

    def counted(self, status: int) -> float:
        """Requests that it has counted under ``status``."""
        end = f'status="{status}"}}'
        return sum(v for name, v in self.metrics().items() if name.startswith("sage_requests_total") and end in name)

    def footprint(self) -> Footprint:
        return footprint(self.pid)

    async def settled(self) -> Footprint:
        """What it takes once it works on nothing, and the upstream neither."""
        end = time.monotonic() + 20
        while (in_flight := await asyncio.to_thread(self.in_flight)) or self.upstream.working:
            assert time.monotonic() < end, (in_flight, self.upstream.working)
            await asyncio.sleep(0.05)
        return await asyncio.to_thread(self.footprint)

    def observe(self) -> Observation:
        """What it tells of itself now."""
        file = _observations(self.serving)
        before = file.stat().st_size
        os.kill(self.pid, signal.SIGUSR1)
        end = time.monotonic() + 20
        while not (new := file.read_bytes()[before:]).endswith(b"\n"):
            assert time.monotonic() < end
            time.sleep(0.01)
        return Observation(**json.loads(new))

    def check_log(self) -> None:
        """Nothing went wrong in it that no answer tells of."""
        with self.serving.log.open() as log:
            trouble = [line for line in log if any(word in line for word in _TROUBLE)]
        assert trouble == [], "".join(trouble[:5])


def _observations(server: Serving) -> Path:
    return server.log.with_name("observations")


@contextmanager
def gateway_process(
    directory: Path, transport: str = KINDS[0], arguments: tuple[str, ...] = (), **api: Any
) -> Iterator[GatewayProcess]:
    """Its models are ``bench``, ``hasty``, which gives up soon, and ``narrow``; ends with the block."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        upstream = runner.run(stack.enter_async_context(instructed_upstream()))
        try:
            key = root_key(directory)
            config = directory / "config.yaml"
            config.write_text(yaml.safe_dump({"api": {"port": 0, **api}, "llm": _models(upstream.url, transport)}))
            (directory / "observations").touch()
            env = environment(directory / "data", OBSERVATIONS=str(directory / "observations"))
            options = ["--config", str(config), *arguments]
            with serving(options, env, directory, timeout=60, command=_OBSERVED) as server:
                yield GatewayProcess(runner, upstream, server, key, transport)
        finally:
            runner.run(stack.aclose())


def root_key(directory: Path) -> str:
    """Makes the user `root` in the data directory of a gateway that is to come; a key of theirs for everything."""
    accounts = Accounts(directory / "data", Auth(), hash_cost=LOW_COST)
    accounts.users.add("root", PASSWORD, role="admin")
    key = accounts.keys.create_for("root", KeyRequest("tests", scopes=list(Scope))).secret
    accounts.close()
    return key


def _models(upstream: str, transport: str) -> dict[str, Any]:
    common = {"kind": "openai", "base_url": upstream, "api_key": "sk-upstream"}
    providers = {
        "bench": common,
        "hasty": {**common, "timeouts": HASTY},
        "narrow": {**common, "max_concurrency": NARROW},
        "local": {"models": {"gemma-3-270m": None}},
    }
    models = {name: {"deployments": [{"provider": name, "model": "m"}]} for name in ("bench", "hasty", "narrow")}
    routing = {"breaker_failures": 1_000_000_000}
    return {"providers": providers, "models": models, "routing": routing, "transport": transport}

"""Models at a server that loads them itself (Ollama, a vLLM that sleeps): what it holds now, and the switch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sage.errors import SageError
from sage.middleware.dispatch.deployment import Deployment
from sage.middleware.providers.base import ModelHost

_FRESH = 1.0
_SILENT = 5.0
_PATIENCE = 1.5
_Held = Mapping[str, Mapping[str, Any]]


class HostedModels:
    """Keeps ``Deployment.hosted_state`` of such models; not on a request's way."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, _Held | None]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def refresh(self, deployments: Iterable[Deployment]) -> None:
        """Asks each server what it holds; an answer is good for a second, and who does not answer leaves it unknown.

        That is good for five, so that a list with a server that swallows everything is slow once in a while only.
        """
        hosted = [(d, d.provider.host) for d in deployments if d.managed is None and d.provider.host is not None]
        await asyncio.gather(*(self._ask(name, host) for name, host in {d.provider.name: h for d, h in hosted}.items()))
        for deployment, _ in hosted:
            known = self._known.get(deployment.provider.name)
            if known is not None and deployment.hosted_state != "loading":  # else a load has ended meanwhile
                _note(deployment, known[1])

    async def load(self, deployment: Deployment, host: ModelHost) -> None:
        """Returns once the model is in memory there; its failure is told until a load succeeds."""
        deployment.hosted_state, deployment.hosted_error = "loading", None
        try:
            await host.load(deployment.model, pin=deployment.target.pin)
            deployment.hosted_state = "ready"
        except SageError as exc:
            deployment.hosted_error = {"message": exc.message, "at": time.time(), "log": []}
            raise
        finally:
            if deployment.hosted_state == "loading":
                deployment.hosted_state = None
            self._known.pop(deployment.provider.name, None)

    async def unload(self, deployment: Deployment, host: ModelHost) -> None:
        """Returns once the server has let the model go."""
        try:
            await host.unload(deployment.model)
            deployment.hosted_state, deployment.hosted_error = "unloaded", None
        finally:
            self._known.pop(deployment.provider.name, None)

    async def _ask(self, name: str, host: ModelHost) -> None:
        known = self._known.get(name)
        if known is not None and known[0] > time.monotonic():
            return
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._asked(name, host))
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        await asyncio.shield(task)

    async def _asked(self, name: str, host: ModelHost) -> None:
        held: _Held | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
                held = await host.loaded()
        except (SageError, TimeoutError):
            pass  # /ready tells that the server is down
        self._known[name] = time.monotonic() + (_SILENT if held is None else _FRESH), held


def _note(deployment: Deployment, held: _Held | None) -> None:
    facts = None if held is None else held.get(deployment.model)
    deployment.hosted_state = None if held is None else "unloaded" if facts is None else "ready"
    size = facts.get("size") if facts is not None else None
    deployment.hosted_memory = size if isinstance(size, int) else None

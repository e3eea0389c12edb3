"""Models at a server that loads them itself (Ollama, a vLLM that can sleep): their state, loading and unloading."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sage.errors import SageError
from sage.middleware.dispatch.deployment import Deployment
from sage.middleware.providers.base import ModelHost

_FRESH = 1.0
"""Seconds for which a server's answer is used."""
_SILENT = 5.0
"""Seconds for which a server that did not answer is not asked again."""
_TIMEOUT = 1.5
"""Seconds that a server may take to answer."""
_Loaded = Mapping[str, Mapping[str, Any]]


class HostedModels:
    """The owner of ``Deployment.hosted_state``. No request for a model passes here."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[float, _Loaded | None]] = {}
        """By provider: until when the answer is used, and the loaded models; ``None`` means no answer."""
        self._pending: dict[str, asyncio.Task[None]] = {}

    async def refresh(self, deployments: Iterable[Deployment]) -> None:
        """Asks each server which models it has loaded; where a server does not answer, the state is unknown.

        An answer is used for one second, a missing one for five: a server that never answers slows a listing down only
        once in a while.
        """
        hosted = [(d, d.provider.host) for d in deployments if d.managed is None and d.provider.host is not None]
        await asyncio.gather(*(self._ask(name, host) for name, host in {d.provider.name: h for d, h in hosted}.items()))
        for deployment, _ in hosted:
            answer = self._answers.get(deployment.provider.name)
            if answer is not None and deployment.hosted_state != "loading":  # `load` drops the answer at its end
                _note(deployment, answer[1])

    async def load(self, deployment: Deployment, host: ModelHost) -> None:
        """Returns once the model is in the server's memory; a failure is shown until a load succeeds."""
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
            self._answers.pop(deployment.provider.name, None)

    async def unload(self, deployment: Deployment, host: ModelHost) -> None:
        """Returns once the server has unloaded the model."""
        try:
            await host.unload(deployment.model)
            deployment.hosted_state, deployment.hosted_error = "unloaded", None
        finally:
            self._answers.pop(deployment.provider.name, None)

    async def _ask(self, name: str, host: ModelHost) -> None:
        answer = self._answers.get(name)
        if answer is not None and answer[0] > time.monotonic():
            return
        task = self._pending.get(name)
        if task is None:
            task = self._pending[name] = asyncio.create_task(self._fetch(name, host))
            task.add_done_callback(lambda _: self._pending.pop(name, None))
        await asyncio.shield(task)

    async def _fetch(self, name: str, host: ModelHost) -> None:
        loaded: _Loaded | None = None
        try:
            async with asyncio.timeout(_TIMEOUT):
                loaded = await host.loaded()
        except (SageError, TimeoutError):
            pass  # /ready reports that the server is down
        self._answers[name] = time.monotonic() + (_SILENT if loaded is None else _FRESH), loaded


def _note(deployment: Deployment, loaded: _Loaded | None) -> None:
    facts = None if loaded is None else loaded.get(deployment.model)
    deployment.hosted_state = None if loaded is None else "unloaded" if facts is None else "ready"
    size = facts.get("size") if facts is not None else None
    deployment.hosted_memory = size if isinstance(size, int) else None

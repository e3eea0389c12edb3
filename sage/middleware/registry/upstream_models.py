"""Which models an upstream says it has: asked when a name is known to nobody else, and remembered for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.providers.base import Provider, UpstreamRequest
from sage.middleware.providers.transport import Transport, sending
from sage.middleware.settings.providers import Timeouts

_FRESH = 60.0
_FRESH_FAILURE = 5.0
_TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, between_chunks=5.0, total=5.0)


class ModelLists:
    """Asks ``GET /models`` of providers; an answer is good for a minute, a failure for five seconds."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._known: dict[str, tuple[float, frozenset[str]]] = {}
        self._asking: dict[str, asyncio.Task[frozenset[str]]] = {}

    async def providers_of(self, model: str, providers: Iterable[Provider]) -> list[Provider]:
        """The providers that list ``model``; one that does not answer lists nothing."""
        candidates = list(providers)
        listed = await asyncio.gather(*(self.models(provider) for provider in candidates))
        return [provider for provider, names in zip(candidates, listed, strict=True) if model in names]

    async def models(self, provider: Provider) -> frozenset[str]:
        """What ``provider`` lists now; concurrent callers share one question."""
        known = self._known.get(provider.name)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        task = self._asking.get(provider.name)
        if task is None:
            task = self._asking[provider.name] = asyncio.create_task(self._ask(provider))
            task.add_done_callback(lambda _: self._asking.pop(provider.name, None))
        return await asyncio.shield(task)

    def forget(self, provider: Provider) -> None:
        """What it lists has changed."""
        self._known.pop(provider.name, None)

    async def _ask(self, provider: Provider) -> frozenset[str]:
        url = provider.models_url()
        if url is None:
            return frozenset(provider.known_models())
        names: frozenset[str] = frozenset()
        fresh = _FRESH_FAILURE
        request = UpstreamRequest(provider.name, "GET", url, provider.endpoints[0].headers, b"", _TIMEOUTS)
        try:
            async with sending(self._transport, request) as response:
                names = provider.model_names(_json(await response.read())) if response.status == 200 else names
                fresh = _FRESH if response.status == 200 else fresh
        except SageError:
            pass  # an upstream that is down lists nothing; /ready tells that it is down
        self._known[provider.name] = (time.monotonic() + fresh, names)
        return names


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None

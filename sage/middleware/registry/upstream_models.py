"""The lists of models that upstreams report: asked for when a name is not known otherwise, and cached for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from sage.errors import SageError
from sage.middleware.providers.base import Provider, UpstreamRequest
from sage.middleware.providers.transport import Transport, sending
from sage.middleware.providers.wire import lenient_json
from sage.middleware.settings.providers import Timeouts

_FRESH = 60.0
_FRESH_FAILURE = 5.0
_TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, between_chunks=5.0, total=5.0)


class ModelLists:
    """Asks providers for ``GET /models``; an answer is cached for a minute, a failure for five seconds."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._cache: dict[str, tuple[float, frozenset[str]]] = {}
        self._pending: dict[str, asyncio.Task[frozenset[str]]] = {}

    async def providers_of(self, model: str, providers: Iterable[Provider]) -> list[Provider]:
        """The providers that list ``model``; one that does not answer counts as listing none."""
        candidates = list(providers)
        listed = await asyncio.gather(*(self.models(provider) for provider in candidates))
        return [provider for provider, names in zip(candidates, listed, strict=True) if model in names]

    async def models(self, provider: Provider) -> frozenset[str]:
        """The models that ``provider`` lists now; concurrent callers share one request."""
        cached = self._cache.get(provider.name)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        task = self._pending.get(provider.name)
        if task is None:
            task = self._pending[provider.name] = asyncio.create_task(self._fetch(provider))
            task.add_done_callback(lambda _: self._pending.pop(provider.name, None))
        return await asyncio.shield(task)

    def forget(self, provider: Provider) -> None:
        """Drops the cached list of ``provider``, which has changed."""
        self._cache.pop(provider.name, None)

    async def _fetch(self, provider: Provider) -> frozenset[str]:
        url = provider.models_url()
        if url is None:
            return frozenset(provider.known_models())
        names: frozenset[str] = frozenset()
        fresh = _FRESH_FAILURE
        endpoint = provider.endpoints[0]
        request = UpstreamRequest(provider.name, "GET", url, endpoint.headers, b"", _TIMEOUTS, proxy=endpoint.proxy)
        try:
            async with sending(self._transport, request) as response:
                names = provider.model_names(_json(await response.read())) if response.status == 200 else names
                fresh = _FRESH if response.status == 200 else fresh
        except SageError:
            pass  # an upstream that is down lists nothing; /ready reports that it is down
        self._cache[provider.name] = (time.monotonic() + fresh, names)
        return names


def _json(body: bytes) -> Any:
    try:
        return lenient_json.read(body)
    except ValueError:
        return None

"""A vLLM server that the gateway did not start: its models, and sleep and wake, where the server has them.

The server has ``/sleep``, ``/wake_up`` and ``/is_sleeping`` in developer mode only (``VLLM_SERVER_DEV_MODE=1``, with
``--enable-sleep-mode``). Asleep, it has moved the weights from the accelerator to main memory.

Source: docs.vllm.ai, *Sleep Mode*, and ``GET /v1/models``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from sage.errors import Conflict, InvalidRequest, NotFound, SageError, UpstreamFailed
from sage.middleware.providers.base import Endpoint, PullProgress, UpstreamRequest
from sage.middleware.providers.clients import make_transport
from sage.middleware.providers.transport import Transport, sending
from sage.middleware.providers.wire import lenient_json
from sage.middleware.settings.providers import Timeouts

MakeError = Callable[[int, Any, Mapping[str, str]], SageError]


def root_of(base_url: str) -> str:
    """The server's root, where the routes are that are not OpenAI's: ``/tokenize``, ``/sleep``, ``/health``."""
    return base_url.removesuffix("/v1")


class VllmHost:
    """The :class:`~sage.middleware.providers.base.ModelHost` of one vLLM server, which has one model."""

    def __init__(self, provider: str, endpoint: Endpoint, timeouts: Timeouts, make_error: MakeError) -> None:
        """``make_error`` makes our error of a status, a parsed body and headers."""
        self._provider = provider
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._make_error = make_error
        self.asleep = False
        """The gateway has sent it to sleep; a request would wait until it is woken."""
        self._waking: asyncio.Task[None] | None = None

    async def loaded(self) -> Mapping[str, Mapping[str, Any]]:
        """The models that it serves, and LoRA adapters; none while it sleeps."""
        return {} if await self._is_sleeping() else await self._served()

    async def load(self, model: str, *, pin: bool = False) -> None:
        """Wakes the server if it sleeps. Raises :class:`NotFound` if it does not serve ``model``."""
        served = await self._served()
        if model not in served:
            raise NotFound(
                f"the provider '{self._provider}' does not serve '{model}' but "
                f"{', '.join(sorted(served)) or 'nothing'}; start its server with that model, or give the deployment "
                "an 'engine'",
                param="model",
                code="model_not_found",
            )
        await self.wake()

    async def wake(self) -> None:
        """Returns once the server is awake. Concurrent callers share one call, which goes on if they are cancelled."""
        if self._waking is None:
            self._waking = asyncio.create_task(self._wake())
            self._waking.add_done_callback(lambda task: task.cancelled() or task.exception())  # all callers may be gone
        waking = self._waking
        await asyncio.wait((waking,))
        waking.result()

    async def _wake(self) -> None:
        try:
            if await self._is_sleeping():
                await self._ask("POST", "/wake_up")
            self.asleep = False
        finally:
            self._waking = None

    async def unload(self, model: str) -> None:
        """Sends the server to sleep after its running requests; raises :class:`Conflict` if it cannot sleep."""
        asleep = await self._is_sleeping()
        if asleep is None:
            raise Conflict(
                f"model '{model}' runs at the provider '{self._provider}', whose vLLM server cannot sleep; end it "
                "where it runs, start it with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode on a private network, or "
                "give the deployment an 'engine'",
                code="not_managed",
            )
        if not asleep:
            await self._ask("POST", "/sleep?level=1&mode=wait")
        self.asleep = True

    async def pull(self, model: str) -> AsyncIterator[PullProgress]:
        """Raises: vLLM fetches a model only when it is started with it."""
        raise InvalidRequest(
            f"the provider '{self._provider}' (vllm) cannot pull '{model}': vLLM fetches a model when it is started "
            "with it",
            param="model",
            code="unsupported_operation",
        )
        yield  # makes this an async generator

    async def show(self, model: str) -> Mapping[str, Any]:
        """The model's entry in ``GET /v1/models``, and the server's version."""
        served = await self._served()
        if model not in served:
            raise NotFound(
                f"the provider '{self._provider}' does not serve '{model}'", param="model", code="model_not_found"
            )
        version = await self._ask("GET", "/version", absent=404)
        return {**served[model], **({"version": version["version"]} if version and "version" in version else {})}

    async def _served(self) -> dict[str, Mapping[str, Any]]:
        answer = await self._ask("GET", "/v1/models")
        entries = answer.get("data") if answer is not None else None
        if not isinstance(entries, list):
            raise UpstreamFailed(f"the provider '{self._provider}' gave no list of models", code="upstream_nonsense")
        return {str(entry.get("id")): entry for entry in entries if isinstance(entry, dict)}

    async def _is_sleeping(self) -> bool | None:
        """``None`` means that the server has no sleep mode."""
        answer = await self._ask("GET", "/is_sleeping", absent=404)
        return None if answer is None else answer.get("is_sleeping") is True

    async def _ask(self, method: str, path: str, *, absent: int | None = None) -> dict[str, Any] | None:
        """The server's answer as an object; ``None`` for the status ``absent``. Each call has its own connection."""
        endpoint = self._endpoint
        is_openai = path.startswith("/v1/")
        root = endpoint.base_url if is_openai else root_of(endpoint.base_url)
        url = endpoint.url(path.removeprefix("/v1") if is_openai else path, root)
        request = UpstreamRequest(
            self._provider, method, url, endpoint.headers, b"", self._timeouts, proxy=endpoint.proxy
        )
        transport = make_transport()
        try:
            return await ask(transport, request, self._make_error, absent=absent)
        finally:
            await transport.close()


async def ask(
    transport: Transport, request: UpstreamRequest, make_error: MakeError, *, absent: int | None = None
) -> dict[str, Any] | None:
    """The JSON object in the answer, empty if a good answer has none; ``None`` for the status ``absent``."""
    async with sending(transport, request) as response:
        body = await response.read()
        try:
            parsed = lenient_json.read(body)
        except ValueError:
            parsed = None
        if response.status == absent:
            return None
        if response.status >= 300:
            raise make_error(response.status, parsed, response.headers)
    return parsed if isinstance(parsed, dict) else {}

"""LoRA adapters as models of their own: each is loaded into, and unloaded from, the server that has its base.

To the owner of its state (:class:`~sage.middleware.engines.managed_model.ManagedModel`) an adapter is an engine like
any other: loading once, ``keep_alive`` and draining come from there. While it is loaded it holds a lease on its base,
if the gateway runs that too, and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sage.errors import InvalidRequest, NotFound, SageError, UpstreamFailed
from sage.middleware.engines.lease import ModelLease
from sage.middleware.engines.managed_model import ManagedModel
from sage.middleware.engines.process import EngineFailed
from sage.middleware.providers.base import Endpoint, Provider, RunningEngine, UpstreamRequest
from sage.middleware.providers.transport import Transport
from sage.middleware.providers.vllm.host import ask
from sage.middleware.settings.settings import DeploymentSettings


@runtime_checkable
class AdapterServer(Protocol):
    """A provider whose servers take adapters while they run."""

    name: str
    endpoints: tuple[Endpoint, ...]

    def adapter(self, name: str) -> Path:
        """The directory of the adapter ``name``; raises if there is no such adapter."""
        ...

    def adapter_request(self, verb: str, endpoint: Endpoint, body: Mapping[str, Any]) -> UpstreamRequest:
        """The request that loads or unloads an adapter (``verb``) at the server behind ``endpoint``."""
        ...

    def adapters_request(self, endpoint: Endpoint) -> UpstreamRequest:
        """The request for the list of models and adapters that it serves."""
        ...

    def model_names(self, body: Any) -> frozenset[str]: ...

    def make_error(self, status: int, body: Any, headers: Mapping[str, str]) -> SageError: ...

    def no_server(self, model: str) -> NotFound: ...


def adapter_server(provider: Provider) -> AdapterServer:
    """``provider``, known to take adapters; raises :class:`InvalidRequest` if it does not."""
    if not isinstance(provider, AdapterServer):
        raise InvalidRequest(
            f"the provider '{provider.name}' ({provider.kind}) takes no LoRA adapters; only vllm does", param="lora"
        )
    return provider


class LoraAdapter:
    """The :class:`~sage.middleware.providers.base.RunningEngine` of one adapter."""

    def __init__(
        self,
        server: AdapterServer,
        deployment: DeploymentSettings,
        base: ManagedModel | None,
        transport: Transport,
        patience: float = 5.0,
    ) -> None:
        """``base`` is the owner of the base's engine; ``None`` means that it is at the provider's own server.

        ``patience``: seconds that the server has to unload it, so that a server that hangs does not keep us waiting.
        """
        assert deployment.lora is not None
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The status of the base's engine once that has ended."""
        self._server = server
        self._name = deployment.lora
        self._model = deployment.model
        self._base = base
        self._transport = transport
        self._patience = patience
        self._lease: ModelLease | None = None
        self._engine: RunningEngine | None = None
        self._endpoint: Endpoint | None = None
        self._releasing: asyncio.Task[None] | None = None

    @property
    def log_tail(self) -> tuple[str, ...]:
        return self._engine.log_tail if self._engine is not None else ()

    @property
    def pids(self) -> tuple[int, ...]:
        """Empty: its memory is its base's."""
        return ()

    async def health(self, within: float) -> int:
        """404 when the provider's own server no longer has it; a server of ours is watched as an engine."""
        if self._base is not None or self._endpoint is None:
            return 200
        try:
            async with asyncio.timeout(within):
                return 200 if self._name in await self._listed(self._endpoint) else 404
        except (SageError, TimeoutError):
            return 200  # requests show that it is down; here only a server that came back without the adapter counts

    async def start(self) -> Endpoint:
        """Makes the base ready and loads the adapter into it; raises :class:`EngineFailed` if it refuses."""
        try:
            endpoint = await self._base_endpoint()
            await self._load(endpoint)
        except BaseException:
            await self._release_base()
            raise
        self._endpoint = endpoint
        return endpoint

    async def stop(self) -> None:
        """Unloads it, unless the server has ended, and releases the base."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None and not (self._engine is not None and self._engine.exited.done()):
            request = self._server.adapter_request("unload", endpoint, {"lora_name": self._name})
            with contextlib.suppress(SageError, TimeoutError):  # the adapter or the server has gone
                async with asyncio.timeout(self._patience):
                    await ask(self._transport, request, self._server.make_error)
        await self._release_base()

    async def _base_endpoint(self) -> Endpoint:
        if self._base is None:
            if not self._server.endpoints:
                raise self._server.no_server(self._model)
            return self._server.endpoints[0]
        lease = self._base.lease()
        endpoint = await lease.__aenter__()
        self._lease, self._engine = lease, self._base.engine
        if self._engine is not None:
            self._engine.exited.add_done_callback(self._base_ended)
        return endpoint

    async def _load(self, endpoint: Endpoint) -> None:
        try:
            if self._name in await self._listed(endpoint):
                return
            body = {"lora_name": self._name, "lora_path": str(self._server.adapter(self._name))}
            await ask(self._transport, self._server.adapter_request("load", endpoint, body), self._server.make_error)
        except (InvalidRequest, NotFound, UpstreamFailed) as exc:  # not the fault of the request for the model
            hint = "; its server needs --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            where = hint if exc.code == "unsupported_operation" else f": {exc.message}"
            raise EngineFailed(f"the LoRA adapter '{self._name}' cannot be loaded{where}", self.log_tail) from exc

    async def _listed(self, endpoint: Endpoint) -> frozenset[str]:
        answer = await ask(self._transport, self._server.adapters_request(endpoint), self._server.make_error)
        return self._server.model_names(answer)

    def _base_ended(self, exited: asyncio.Future[int]) -> None:
        if not self.exited.done() and not exited.cancelled():
            self.exited.set_result(exited.result())
        # The owner of this adapter's state gives it up now, without calling stop.
        self._releasing = asyncio.ensure_future(self._release_base())

    async def _release_base(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

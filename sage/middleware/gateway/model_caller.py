"""What threads need of a running gateway to ask its models: collections that embed, and the memory service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.deadlines import Deadlines
from sage.middleware.providers.base import ModelCall
from sage.middleware.registry.registry import Registry


class ModelAnswer(Protocol):
    """An answer of a model."""

    @property
    def body(self) -> bytes:
        """The complete answer, or the first events of the stream."""

    @property
    def deployment(self) -> str:
        """The name of the deployment that answered."""


class ModelCaller(Protocol):
    """A gateway, as far as a caller of models is concerned."""

    @property
    def registry(self) -> Registry: ...

    @property
    def deadlines(self) -> Deadlines:
        """What watches over calls are entered in."""

    def call(self, principal: Principal, call: ModelCall) -> AbstractAsyncContextManager[ModelAnswer]:
        """See :meth:`sage.middleware.gateway.gateway.Gateway.call`."""


RunningGateway = Callable[[], tuple[ModelCaller, asyncio.AbstractEventLoop]]
"""Gives the gateway and the event loop that it runs on. Raises :class:`sage.errors.Unavailable` before it runs."""

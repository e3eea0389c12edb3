"""The holds of callers on a managed model, and the wait for the last of them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING

from sage.errors import SageError
from sage.middleware.engines.process import EngineFailed, describe_status
from sage.middleware.providers.base import Endpoint, RunningEngine

if TYPE_CHECKING:
    from sage.middleware.engines.managed_model import ManagedModel


class ModelLease:
    """One caller's hold on a model; takes no lock and makes no task when the model is ready."""

    __slots__ = ("_engine", "_model")

    def __init__(self, model: ManagedModel) -> None:
        self._model = model
        self._engine: RunningEngine | None = None

    async def __aenter__(self) -> Endpoint:
        model = self._model
        endpoint = model.endpoint
        if endpoint is None:
            endpoint = await model.made_ready()
        model.in_flight += 1
        self._engine = model.engine
        return endpoint

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """The same as the end of the block, for who holds it without one."""
        self._model.released()

    async def lost(self, within: float = 3.0) -> SageError | None:
        """Why the engine under this lease is gone (503); none if it lives, which takes ``within`` seconds to say.

        For who has seen its connection to the engine break: the process may be known to be dead only a little later.
        """
        engine, model = self._engine, self._model
        if engine is None:
            return None
        await asyncio.wait((engine.exited,), timeout=within)
        await asyncio.sleep(0)  # the model hears of it first
        lost = model.lost
        if lost is not None and lost[0] is engine:
            return lost[1].with_traceback(None)
        if engine.exited.done():
            status = describe_status(engine.exited.result())
            return EngineFailed(f"the engine of model '{model.name}' {status} while it answered", engine.log_tail)
        return None


class Drain:
    """The wait for the last lease of a model that unloads."""

    def __init__(self) -> None:
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """No lease is left, or nobody is waited for any longer."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait(self, exited: asyncio.Future[int]) -> None:
        """Returns when the wait is over, or the engine is."""
        await asyncio.wait((self._ended, exited), return_when=asyncio.FIRST_COMPLETED)

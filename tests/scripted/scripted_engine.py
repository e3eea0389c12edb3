"""An engine without a process, for tests of those that own engines."""

from __future__ import annotations

import asyncio

from sage.middleware.engines.process import EngineFailed
from sage.middleware.providers.base import Endpoint


class Machine:
    """Counts what runs: at most one engine of a name at any time."""

    def __init__(self) -> None:
        self.running: dict[str, ScriptedEngine] = {}
        self.started: list[str] = []
        self.faults: list[str] = []

    def engine(self, name: str, *, load: float = 1.0, end: float = 0.1, fails: bool = False) -> ScriptedEngine:
        """``load`` and ``end``: seconds that it takes to come and to go."""
        return ScriptedEngine(self, name, load, end, fails)


class ScriptedEngine:
    """A :class:`~sage.middleware.providers.base.RunningEngine` that takes its time."""

    log_tail = ("log",)
    pids = ()

    def __init__(self, machine: Machine, name: str, load: float, end: float, fails: bool) -> None:
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.hangs = False
        self._machine = machine
        self._name = name
        self._load = load
        self._end = end
        self._fails = fails

    async def start(self) -> Endpoint:
        if self._name in self._machine.running:
            self._machine.faults.append(f"two processes of {self._name} at once")
        self._machine.running[self._name] = self
        self._machine.started.append(self._name)
        try:
            await asyncio.sleep(self._load)
            if self._fails:
                raise EngineFailed("it was scripted to fail", self.log_tail)
        except BaseException:
            await self.stop()
            raise
        return Endpoint("http://127.0.0.1:1")

    async def health(self, within: float) -> int:
        if self.hangs:
            await asyncio.sleep(within)
            return 0
        return 200

    async def stop(self) -> None:
        await asyncio.sleep(self._end)
        self.die(0)

    def die(self, status: int = 137) -> None:
        if self._machine.running.get(self._name) is self:
            del self._machine.running[self._name]
        if not self.exited.done():
            self.exited.set_result(status)

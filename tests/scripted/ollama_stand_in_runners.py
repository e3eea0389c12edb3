"""The processes of the stand-in for an Ollama server: a model's engines, and when they go."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from project import ROOT

from sage.middleware.engines.process import Engine
from sage.middleware.providers.base import Endpoint, EngineSpec

_FOR_GOOD = 3e9
"""Seconds: what Ollama shows of a model that stays."""


@dataclass(frozen=True)
class StandInModel:
    """A model in its store, or one that can be pulled into it: what the local engine is told of it."""

    path: Path | None = None
    package: str | None = None
    template: str | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    context: int = 2048
    task: str = "generate"
    """Or ``embed``: such a model does not write text."""

    @property
    def capabilities(self) -> list[str]:
        if self.task == "embed":
            return ["embedding"]
        words = {"tools": "tools", "thinking": "reasoning_content"}
        return ["completion", *(name for name, word in words.items() if word in (self.template or ""))]


@dataclass
class Runner:
    """One model in memory: its engines, one for each task that it was asked for."""

    model: StandInModel
    engines: dict[str, tuple[Engine, Endpoint]] = field(default_factory=dict)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    keep: float | None = None
    """Seconds after the last use; none: for good."""
    expires: datetime = field(default_factory=lambda: datetime.now(UTC))
    timer: asyncio.TimerHandle | None = None


class Runners:
    """Every runner of one server, on its event loop."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._runners: dict[str, Runner] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def loaded(self) -> list[tuple[str, Runner]]:
        return [(name, runner) for name, runner in self._runners.items() if runner.engines]

    def pids(self, name: str) -> tuple[int, ...]:
        runner = self._runners.get(name)
        return tuple(pid for engine, _ in runner.engines.values() for pid in engine.pids) if runner else ()

    async def close(self) -> None:
        for name in list(self._runners):
            await self._drop(name)
        await asyncio.gather(*self._ending)

    @asynccontextmanager
    async def using(self, name: str, model: StandInModel, task: str, keep: float | None) -> AsyncIterator[Endpoint]:
        """That model in memory for as long as the block runs, and ``keep`` seconds after it."""
        runner = self._runners.setdefault(name, Runner(model))
        runner.users += 1
        runner.keep = keep
        if runner.timer is not None:
            runner.timer.cancel()
        try:
            async with runner.loading:
                if task not in runner.engines:
                    engine = Engine(self._spec(name, model, task), name)
                    runner.engines[task] = (engine, await engine.start())
            yield runner.engines[task][1]
        finally:
            runner.users -= 1
            self._set_clock(name, runner)

    async def unload(self, name: str) -> None:
        """Ends that model's processes, once nobody uses them; returns when they are gone if nobody does."""
        runner = self._runners.get(name)
        if runner is None:
            return
        runner.keep = 0
        if not runner.users:
            await self._drop(name)

    def _set_clock(self, name: str, runner: Runner) -> None:
        if runner.users or self._runners.get(name) is not runner:
            return
        keep = runner.keep if runner.engines else 0
        runner.expires = datetime.now(UTC) + timedelta(seconds=_FOR_GOOD if keep is None else keep)
        if keep is not None:
            runner.timer = asyncio.get_running_loop().call_later(keep, self._expire, name, runner)

    def _expire(self, name: str, runner: Runner) -> None:
        if self._runners.get(name) is runner and not runner.users:
            ending = asyncio.create_task(self._drop(name))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _drop(self, name: str) -> None:
        """Takes that model out; whoever asks for it from now on gets a new one."""
        runner = self._runners.pop(name)
        if runner.timer is not None:
            runner.timer.cancel()
        for engine, _ in runner.engines.values():
            await engine.stop()

    def _spec(self, name: str, model: StandInModel, task: str) -> EngineSpec:
        options = {
            "alias": name,
            "path": str(model.path) if model.path is not None else None,
            "package": model.package,
            "directory": str(self._store),
            "template": model.template,
            "context": model.context,
            "temperature": model.temperature,
            "task": task,
            "pooling": "mean" if task == "embed" else None,
        }
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {"SAGE_ENGINE_OPTIONS": json.dumps(options), "PYTHONPATH": path}
        return EngineSpec((sys.executable, "-m", "sage.middleware.providers.local.engine"), environment)

"""The gateway's own worker: a child process that runs jobs, started when there are some, and again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable

from sage.middleware.engines.process import describe_status, engine_environment
from sage.middleware.engines.supervisor import __file__ as supervisor
from sage.middleware.gateway.jobs.own_worker import own_worker_name
from sage.middleware.queue.celery_app import is_celery_installed
from sage.middleware.queue.worker_options import ENVIRONMENT, WorkerOptions
from sage.middleware.settings.settings import Settings

_log = logging.getLogger("sage")
_PROGRAM = ("-m", "sage.middleware.worker.main")
_GRACE = 8.0
"""Seconds between SIGTERM and SIGKILL: it finishes the lines that it is at."""
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_LIVES = 1.0
"""A worker that has lived so long did not die of its start."""


class WorkerProcess:
    """Belongs to one event loop. The worker's family ends with this process, however it ends."""

    def __init__(self, settings: Settings, credential: str) -> None:
        """``credential``: what the worker shows the gateway."""
        self.on_exit: Callable[[str], Awaitable[object]] | None = None
        """Called with the name of a worker that has ended."""
        self._settings = settings
        self._credential = credential
        self._url = ""
        self._listening = asyncio.Event()
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._closing = False
        self._number = 0

    @property
    def pid(self) -> int | None:
        """The pid of its supervisor; ``None`` while none runs."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    def reachable_at(self, url: str) -> None:
        """The gateway listens there: from now on a worker can start."""
        self._url = url
        self._listening.set()

    def ensure(self) -> None:
        """Starts it if it does not run, and can: without the extra nothing starts, and who submits a job is told so."""
        if self._keeping is None and not self._closing and is_celery_installed():
            self._keeping = asyncio.create_task(self._keep(), name="own worker")

    async def close(self) -> None:
        """Ends it. What it was at goes back into the queue."""
        self._closing = True
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return
        if self._process is None:
            keeping.cancel()
        else:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        await asyncio.wait([keeping])

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        await self._listening.wait()
        while not self._closing:
            self._number += 1
            name = own_worker_name(self._number)
            began = time.monotonic()
            status = await self._run(name)
            if self.on_exit is not None:
                with contextlib.suppress(Exception):  # the queue is closing
                    await self.on_exit(name)
            if self._closing:
                return
            pause = _FIRST_PAUSE if time.monotonic() - began > _LIVES else min(2 * pause, _LONGEST_PAUSE)
            _log.warning("the worker of jobs %s; another starts in %.1f s", describe_status(status), pause)
            await asyncio.sleep(pause)

    async def _run(self, name: str) -> int:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(supervisor), str(_GRACE), sys.executable, *_PROGRAM),
                env=engine_environment(os.environ, {ENVIRONMENT: self._options(name).to_environment()}),
                stdin=PIPE,
                stdout=DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is the gateway's to handle
            )
        except OSError as exc:
            _log.error("the worker of jobs cannot be started: %s", exc)
            return 127
        if self._closing:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            return await self._process.wait()
        finally:
            self._process = None

    def _options(self, name: str) -> WorkerOptions:
        settings = self._settings
        return WorkerOptions(
            self._url, self._credential, name, settings.queue, settings.data_dir.absolute(), settings.queue.concurrency
        )

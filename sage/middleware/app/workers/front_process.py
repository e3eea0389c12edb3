"""One front as its owner sees it: a child that is started, stood in for while it is not there, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from typing import Protocol

from sage.middleware.app.workers.forwarded_requests import ForwardedConnection
from sage.middleware.app.workers.frames import frame
from sage.middleware.app.workers.front_link import FrontLink
from sage.middleware.app.workers.messages import Begin, encode
from sage.middleware.app.workers.passed_sockets import PassedSockets
from sage.middleware.engines.process import describe_status

_log = logging.getLogger("sage")
_PROGRAM = ("-P", "-m", "sage.middleware.app.workers.front_program")
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_MOST_UNANSWERED = 80
"""States, of which a front is told four to eight a second. It says at once that it goes by one, unless its event loop
stands still. They are counted, not timed, since it may be the owner that stood still."""
_READ_WITHIN = 5.0
"""Seconds for reading what a front that has ended has told last."""
_LIVES = 5.0
"""A front that has served for so many seconds did not die of its start."""


class FrontOwner(Protocol):
    """What a front needs of the process that has everything."""

    def begin(self, index: int) -> Begin:
        """What to tell a front first."""

    def link(self, ready: Callable[[], None]) -> FrontLink:
        """The owner's end of the connection to a front."""

    def forwarded(self, index: int) -> ForwardedConnection:
        """Takes a connection over which a front forwards requests."""

    def takes_connections(self) -> asyncio.Protocol:
        """Takes a connection of a client in the place of a front."""

    def front_ended(self, link: FrontLink) -> None:
        """A front is no more."""

    def front_began(self, link: FrontLink) -> None:
        """A front begins."""


class FrontProcess:
    """Belongs to the owner's event loop. ``listening`` is the socket of this front, which its owner keeps open: while
    no process of the front runs, the owner takes the connections, so none is lost or kept waiting."""

    def __init__(
        self, index: int, listening: socket.socket, owner: FrontOwner, program: Sequence[str] = _PROGRAM
    ) -> None:
        """``program`` are Python's arguments that run a front."""
        self.index = index
        self._program = program
        self.ready = asyncio.Event()
        """Set once it serves for the first time, or has failed to."""
        self._listening = listening
        self._owner = owner
        self._process: Process | None = None
        self._link: FrontLink | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._stand_in: asyncio.Server | None = None
        self._ending = False
        self._adopting: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """``None`` while none runs."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def is_running(self) -> bool:
        return self._keeping is not None and not self._keeping.done()

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep(), name=f"front {self.index}")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; none starts again from now on."""
        self._ending = True
        self._leave()
        if self._process is None and self._keeping is not None:
            self._keeping.cancel()
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.send_signal(number)

    def end_if_stuck(self) -> None:
        """Ends a front that has not answered for a while, so that another takes its place: it would keep all those
        waiting whose connections it has."""
        link, process = self._link, self._process
        if link is None or process is None or link.unanswered < _MOST_UNANSWERED:
            return
        _log.error("worker %d does not answer; it is ended", self.index)
        self._link = None
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    async def close(self) -> None:
        """Returns when it has ended."""
        if self._keeping is not None:
            await asyncio.wait([self._keeping])
        self._listening.close()

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while not self._ending:
            await self._take_over()
            began = time.monotonic()
            status = await self._run()
            self.ready.set()
            if self._ending:
                return
            pause = _FIRST_PAUSE if time.monotonic() - began > _LIVES else min(2 * pause, _LONGEST_PAUSE)
            _log.warning(
                "worker %d %s; another starts in %.1f s, and this process takes its connections meanwhile",
                *(self.index, describe_status(status), pause),
            )
            await self._take_over()
            await asyncio.sleep(pause)

    async def _take_over(self) -> None:
        if self._stand_in is None:
            loop = asyncio.get_running_loop()
            self._stand_in = await loop.create_server(self._owner.takes_connections, sock=self._listening.dup())

    def _leave(self) -> None:
        stand_in, self._stand_in = self._stand_in, None
        if stand_in is not None:
            stand_in.close()

    def _serves(self) -> None:
        self._leave()
        self.ready.set()

    async def _run(self) -> int:
        control, its_control = socket.socketpair()
        doorway, its_doorway = socket.socketpair()
        link = self._link = self._owner.link(self._serves)
        passed: PassedSockets | None = None
        try:
            self._process = await self._spawn(its_control, its_doorway)
            its_control.close()
            its_doorway.close()
            loop = asyncio.get_running_loop()
            control.setblocking(False)
            await loop.create_unix_connection(lambda: link, sock=control)
            link.write(frame(0, encode(self._owner.begin(self.index))))
            self._owner.front_began(link)
            passed = PassedSockets(doorway, self._forwards)
            status = await self._process.wait()
            await _read_to_its_end(link)
            return status
        except OSError as exc:
            _log.error("worker %d cannot be started: %s", self.index, exc)
            return 127
        finally:
            self._process = self._link = None
            for sock in (its_control, its_doorway):
                sock.close()
            if passed is None:
                doorway.close()
            else:
                passed.close()
            self._owner.front_ended(link)
            link.close()

    async def _spawn(self, control: socket.socket, doorway: socket.socket) -> Process:
        passed = (self._listening.fileno(), control.fileno(), doorway.fileno())
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *self._program, *map(str, passed), str(os.getpid())),
            pass_fds=passed,
            stdin=DEVNULL,
            stdout=DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is the owner's to handle
        )

    def _forwards(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._adopt(sock))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopt(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._owner.forwarded(self.index), sock=sock)


async def _read_to_its_end(link: FrontLink) -> None:
    """That a process has ended may be known before its last words were read: the calls that it has settled."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READ_WITHIN):
            await link.closed()

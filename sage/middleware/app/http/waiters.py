"""Tasks that wait until something happens. A future is made for those that really wait, and for no others."""

from __future__ import annotations

import asyncio


class Waiters:
    """The tasks that wait for one thing; unlike :class:`asyncio.Event` it costs nothing as long as there are none."""

    __slots__ = ("_futures", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._futures: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Returns after the next :meth:`wake`."""
        future = self._loop.create_future()
        self._futures.append(future)
        try:
            await future
        finally:
            self._futures.remove(future)

    def wake(self) -> None:
        """Lets all go on that wait."""
        for future in self._futures:
            if not future.done():
                future.set_result(None)

"""``?watch=true`` of ``/models``: the states of models as server-sent events, whenever they have changed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.dispatch.deployment import PublicModel

_PAUSE = 0.5
"""Seconds from one look at the states to the next."""
_SHARE = 20
"""One part in so many of the time may go to looks: those at very many models are further apart."""
_BATCH = 200
"""Models that are looked at before other work has its turn."""
_QUIET = 15.0
"""Seconds without an event after which a comment is sent: who is between notices that the client has left."""
_KEEP_ALIVE = b": nothing has changed\n\n"

NO_BUFFERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
State = dict[str, Any]


async def watch_list(
    models: Callable[[], Awaitable[Iterable[PublicModel]]],
    rest: Callable[[], State],
    shown: set[str],
    ending: asyncio.Event,
) -> AsyncIterator[bytes]:
    """Events ``{"models", "removed", "whole", …}`` with what ``rest`` tells: the first one is ``whole`` and has every
    model, a later one those that have changed and the names of those that are gone.

    ``shown`` is kept as the names that the client knows.
    """
    known: dict[str, int] = {}
    rest_before, is_first = b"", True
    async for is_due in _looks(ending):
        changed: list[bytes] = []
        present: set[str] = set()
        for number, model in enumerate(await models(), 1):
            state = orjson.dumps(model.describe())
            present.add(model.name)
            if known.get(model.name) != (mark := hash(state)):
                known[model.name] = mark
                changed.append(state)
            if number % _BATCH == 0:
                await asyncio.sleep(0)
        removed = sorted(known.keys() - present)
        for name in removed:
            del known[name]
        shown.clear()
        shown |= present
        about = orjson.dumps({"removed": removed, "whole": is_first, **rest()})
        if changed or removed or about != rest_before:
            yield b'data: {"models":[' + b",".join(changed) + b"]," + about[1:] + b"\n\n"
        elif is_due:
            yield _KEEP_ALIVE
        rest_before = orjson.dumps({"removed": [], "whole": False, **rest()})
        is_first = False


async def watch_one(state: Callable[[], Awaitable[State]], ending: asyncio.Event) -> AsyncIterator[bytes]:
    """An event with the whole ``state`` whenever it has changed; an error ends them, as an event."""
    before = b""
    try:
        async for is_due in _looks(ending):
            now = orjson.dumps(await state())
            if now != before:
                yield b"data: " + now + b"\n\n"
            elif is_due:
                yield _KEEP_ALIVE
            before = now
    except SageError as error:
        yield b"data: " + orjson.dumps(error.envelope()) + b"\n\n"


async def _looks(ending: asyncio.Event) -> AsyncIterator[bool]:
    """One item for each look until the gateway ends; true where none has been for so long that a comment is due."""
    told = time.monotonic()
    while not ending.is_set():
        began = time.monotonic()
        is_due = began - told >= _QUIET
        if is_due:
            told = began
        yield is_due
        pause = max(_PAUSE, (time.monotonic() - began) * _SHARE)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), pause)

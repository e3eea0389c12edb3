"""Limits that several processes count in one Redis; each counts for itself while Redis does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import cast

from sage.middleware.limits import scripts
from sage.middleware.limits.local_limiter import Admitted, LocalLimiter
from sage.middleware.limits.over_limit import (
    Excess,
    LimitKind,
    Standing,
    bounds_of,
    least_left,
    refuse,
)
from sage.middleware.limits.redis_link import LinkLost, OnReply, RedisLink, RedisServer
from sage.middleware.limits.redis_wire import Part, RedisError, Reply, encode, encode_part
from sage.middleware.settings.limits import SubjectLimits

_log = logging.getLogger("sage")

PATIENCE = 0.08
"""Seconds that an answer may take; a request pays them once at most, before limits of this process hold."""
_ASKED_AT_ONCE = 200
_STAY_EVERY = 5.0
_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds before the next attempts to reach the server; the last one goes on."""
_PREFIX = b"sage:limits:"
_HOLDERS = _PREFIX + b"holders"
_HOLDERS_PART = encode_part(_HOLDERS)


class SharedAdmitted(Admitted):
    """What a call has taken; ``slot`` is the one in Redis, ``None`` if it was admitted without Redis."""

    __slots__ = ("_shared", "_shared_slot")

    def __init__(self, own: Admitted, shared: SharedLimiter, slot: int | None) -> None:
        super().__init__(own._subjects, own._slot, own.tokens, own._left)
        self._shared = shared
        self._shared_slot = slot

    def settle(self, tokens: int) -> None:
        super().settle(tokens)
        self._shared.give_back(self._subjects.limits, self._shared_slot, 0, self.tokens - tokens)

    def cancel(self) -> None:
        super().cancel()
        self._shared.give_back(self._subjects.limits, self._shared_slot, 1, self.tokens)


class SharedLimiter:
    """Exact over all processes on one Redis, by its clock, with one round trip a call.

    What this process admits it counts itself, too: when Redis is lost, its own counts go on from there.
    """

    def __init__(self, server: RedisServer, patience: float = PATIENCE) -> None:
        self.fault: str | None = f"{server} was not reached yet"
        self._server = server
        self._patience = patience
        self._own = LocalLimiter()
        self._link: RedisLink | None = None
        """While Redis answers."""
        self._holder = ""
        self._admit_head = self._give_back_head = self._holder_part = self._stay_sha = b""
        self._is_told = False
        """Whether the log says that Redis is lost."""
        self._task: asyncio.Task[None] | None = None

    @property
    def link(self) -> RedisLink | None:
        """The connection, while Redis answers."""
        return self._link

    def begin(self) -> None:
        """Keeps a connection from now on, on the running event loop."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._link = None
            self._task = loop.create_task(self._keep_connected())

    async def close(self) -> None:
        """Ends the connection, and with it what this process holds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._link is not None:
            with contextlib.suppress(LinkLost, RedisError):
                await self._link.ask("ZREM", _HOLDERS, self._holder)
            self._link.lose("this process ends")
            self._link = None

    def admit(self, limits: Sequence[SubjectLimits], prompt: int, answer: int) -> Admitted | Awaitable[Admitted]:
        """As :meth:`sage.middleware.limits.local_limiter.Limiter.admit`."""
        link = self._link
        return self._alone(limits, prompt, answer) if link is None else self._together(link, limits, prompt, answer)

    def _alone(self, limits: Sequence[SubjectLimits], prompt: int, answer: int) -> Admitted:
        return SharedAdmitted(self._own.admit(limits, prompt, answer), self, None)

    async def _together(self, link: RedisLink, limits: Sequence[SubjectLimits], prompt: int, answer: int) -> Admitted:
        tokens = self._own.reserved(limits, prompt + answer)
        reply = await self._ask(link, limits, prompt, tokens)
        if reply is None:
            return self._alone(limits, prompt, answer)
        admitted, first, kind, wait = reply[:4]
        standings = _standings(reply[4:])
        if not admitted:
            excess = Excess(limits[first], LimitKind(scripts.KINDS[kind]), wait / 1000, standings[first])
            raise refuse(excess, max(prompt, tokens), limits, standings)
        left = least_left(map(bounds_of, limits), standings)
        return SharedAdmitted(self._own.take(limits, tokens, left), self, first)

    async def _ask(
        self, link: RedisLink, limits: Sequence[SubjectLimits], prompt: int, tokens: int
    ) -> list[int] | None:
        """The answer of :data:`scripts.ADMIT`; ``None`` means that Redis was lost. What was taken for a caller that is
        gone meanwhile is given back."""
        answered: asyncio.Future[list[int] | None] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Reply) -> None:
            if isinstance(reply, RedisError):
                link.lose(f"it answers '{reply}'")
                reply = None
            numbers = cast("list[int] | None", reply)
            if not answered.done():
                answered.set_result(numbers)
            elif numbers is not None:
                self._undo(link, limits, numbers, tokens)

        count = len(limits)
        command = [b"*%d\r\n" % (7 + 5 * count), self._admit_head, encode_part(1 + 2 * count), _HOLDERS_PART]
        command += [_keys_part(each.subject) for each in limits]
        command += (self._holder_part, encode_part(prompt), encode_part(tokens))
        command += [_bounds_part(each.limits.rpm, each.limits.tpm, each.limits.concurrent) for each in limits]
        link.send(on_reply, b"".join(command))
        try:
            return await answered
        except asyncio.CancelledError:
            if answered.done() and not answered.cancelled() and (numbers := answered.result()) is not None:
                self._undo(link, limits, numbers, tokens)
            raise

    def _undo(self, link: RedisLink, limits: Sequence[SubjectLimits], reply: list[int], tokens: int) -> None:
        if reply[0] and link is self._link:
            self.give_back(limits, reply[1], 1, tokens)

    async def standings(self, subjects: Sequence[str]) -> list[Standing]:
        """As :meth:`sage.middleware.limits.local_limiter.Limiter.standings`: of all processes, while Redis answers."""
        found: list[Standing] = []
        while (link := self._link) is not None and len(found) < len(subjects):
            asked = subjects[len(found) : len(found) + _ASKED_AT_ONCE]
            keys = [key for subject in asked for key in (_window_key(subject), _running_key(subject))]
            try:
                reply = await link.ask("EVAL", scripts.READ, 1 + len(keys), _HOLDERS, *keys, self._holder)
            except (LinkLost, RedisError):
                break
            found += _standings(cast("list[int]", reply))
        return found if len(found) == len(subjects) else await self._own.standings(subjects)

    def give_back(self, limits: Sequence[SubjectLimits], slot: int | None, requests: int, tokens: int) -> None:
        """A call has ended that took so many too many. Nothing is waited for."""
        link = self._link
        if link is None:
            return  # the next connection begins with what this process runs then
        if slot is None:
            slot = requests = tokens = 0
        count = len(limits)
        command = [b"*%d\r\n" % (7 + 2 * count), self._give_back_head, encode_part(2 * count)]
        command += [_keys_part(each.subject) for each in limits]
        command += (self._holder_part, encode_part(slot), encode_part(-requests), encode_part(-tokens))
        link.send(self._checked(link), b"".join(command))

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            try:
                link = await self._server.connect(self._patience)
                try:
                    await self._load(link)
                    failures = 0
                    self._take_over(link)
                    await self._stay(link)
                finally:
                    if link is not self._link:
                        link.lose("it was not used")
            except (OSError, TimeoutError, LinkLost, RedisError) as exc:
                self._link = None
                self._failed(str(exc) if isinstance(exc, LinkLost | RedisError) else "no connection")
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1

    async def _load(self, link: RedisLink) -> None:
        wanted = (scripts.ADMIT, scripts.GIVE_BACK, scripts.STAY)
        admit, give_back, self._stay_sha = [cast(bytes, await link.ask("SCRIPT", "LOAD", each)) for each in wanted]
        self._admit_head = encode_part("EVALSHA") + encode_part(admit)
        self._give_back_head = encode_part("EVALSHA") + encode_part(give_back)

    def _take_over(self, link: RedisLink) -> None:
        """From now on calls go over ``link``. It is told first what this process runs: no call begins or ends between,
        since all this is one step."""
        running = dict(self._own.running())
        keys = [_running_key(subject) for subject in running]
        before, self._holder = self._holder, secrets.token_hex(8)
        command: list[Part] = ["EVAL", scripts.BEGIN, 1 + len(keys), _HOLDERS, *keys]
        command += (before or "none", self._holder, *running.values())
        link.send(self._checked(link), encode(command))
        self._holder_part = encode_part(self._holder)
        self._link, self.fault = link, None
        if self._is_told:
            _log.warning("rate limits: %s is back", self._server)
        self._is_told = False

    async def _stay(self, link: RedisLink) -> None:
        """Says that this process lives, until the connection is lost: raises :class:`LinkLost`."""
        while True:
            await asyncio.wait((link.lost,), timeout=_STAY_EVERY)
            keys = [_running_key(subject) for subject, _ in self._own.running()]
            if not await link.ask("EVALSHA", self._stay_sha, 1 + len(keys), _HOLDERS, *keys, self._holder):
                link.lose("it has given up this process")

    def _checked(self, link: RedisLink) -> OnReply:
        """Takes a reply that must not be an error."""

        def on_reply(reply: Reply) -> None:
            if isinstance(reply, RedisError):
                link.lose(f"it answers '{reply}'")

        return on_reply

    def _failed(self, why: str) -> None:
        self.fault = f"{self._server}: {why}; each process counts rates for itself until it is back"
        if not self._is_told:
            _log.warning("rate limits: %s", self.fault)
        self._is_told = True


def _standings(numbers: Sequence[int]) -> list[Standing]:
    """What a script answers of subjects: of each its requests, tokens, running requests and milliseconds."""
    return [
        Standing(requests, tokens, running, reset / 1000)
        for requests, tokens, running, reset in zip(*[iter(numbers)] * 4, strict=True)
    ]


@lru_cache(4096)
def _keys_part(subject: str) -> bytes:
    """The keys of a subject in a command: of its window and of its running requests."""
    return encode_part(_window_key(subject)) + encode_part(_running_key(subject))


@lru_cache(4096)
def _bounds_part(*bounds: int | None) -> bytes:
    """Limits in a command."""
    return b"".join(encode_part("" if bound is None else bound) for bound in bounds)


def _window_key(subject: str) -> bytes:
    return _PREFIX + b"window:" + subject.encode()


def _running_key(subject: str) -> bytes:
    return _PREFIX + b"running:" + subject.encode()

"""Failed logins that several gateways count together in one Redis, and the places that users log in from.

Counts of an account from one address, of an account, and of an address: each has how many failures, and when the last
one was by the server's clock. Keys are digests: a name may be a password that was typed into the wrong field.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import cast

from sage.middleware.limits.redis_link import RedisLink
from sage.middleware.limits.redis_wire import Part, Reply, encode
from sage.middleware.limits.shared_limiter import SharedLimiter

FORGET_AFTER = 900.0
"""Seconds since the last failure."""
KNOWN_FOR = 30 * 86400.0
"""Seconds since the last login for which Redis knows a place that a user logs in from."""
_PREFIX = "sage:limits:logins:"

_ASK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = ARGV[1] == '1' or redis.call('EXISTS', KEYS[4]) == 1
local wait = 0
for i = 1, (known and 1 or 3) do
  local count = redis.call('HMGET', KEYS[i], 'failures', 'last')
  local failures, free = tonumber(count[1]) or 0, tonumber(ARGV[2 * i + 1])
  if failures >= free then
    local delay = math.min(1000 * 2 ^ math.min(failures - free, 30), tonumber(ARGV[2 * i + 2]))
    wait = math.max(wait, math.min(delay, tonumber(count[2]) + delay - now))
  end
end
if wait <= 0 then
  for i = 1, 3 do
    redis.call('HINCRBY', KEYS[i], 'failures', 1)
    redis.call('HSET', KEYS[i], 'last', now)
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end
return {math.ceil(wait), known and 1 or 0}
"""

_TAKE_BACK = """
local success = ARGV[1] == '1'
for i = 1, 3 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    local failures = redis.call('HINCRBY', KEYS[i], 'failures', -1)
    if failures <= 0 or (success and i == 1) then redis.call('DEL', KEYS[i]) end
  end
end
if success then redis.call('SET', KEYS[4], '', 'PX', ARGV[2]) end
return 1
"""


class LoginCounts:
    """Counts over the connection of ``limiter``; ``bounds`` are those of :mod:`sage.middleware.auth.login_throttle`: of
    an account from one address, an account, and an address, the failures without a delay, and its most seconds."""

    def __init__(self, limiter: SharedLimiter, bounds: Sequence[tuple[int, float]]) -> None:
        self._limiter = limiter
        self._bounds = [part for free, longest in bounds for part in (free, _ms(longest))]

    async def ask(self, account: str, address: str, is_known: bool) -> tuple[float, bool] | None:
        """Seconds to wait, and whether ``account`` has logged in from ``address`` before. If there is nothing to wait
        for, a failure is counted, which is taken back when the caller is gone meanwhile. ``None`` means that Redis does
        not answer: the connection's patience is spent once at most."""
        link = self._limiter.link
        if link is None:
            return None
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Reply) -> None:
            if not answered.done():
                answered.set_result(reply)
            elif isinstance(reply, list) and reply[0] == 0:
                self._take_back(link, account, address, is_success=False)

        keys = _keys(account, address)
        link.send(on_reply, _command(_ASK, keys, int(is_known), _ms(FORGET_AFTER), *self._bounds))
        reply = await answered
        if not isinstance(reply, list):
            return None
        wait, known = cast("list[int]", reply)
        return wait / 1000, known == 1

    def take_back(self, account: str, address: str, *, is_success: bool) -> None:
        """What was counted was no failure; a success forgets the others of the account from there, and remembers that
        place. Nothing is waited for."""
        if self._limiter.link is not None:
            self._take_back(self._limiter.link, account, address, is_success=is_success)

    def _take_back(self, link: RedisLink, account: str, address: str, *, is_success: bool) -> None:
        command = _command(_TAKE_BACK, _keys(account, address), int(is_success), _ms(KNOWN_FOR))
        link.send(lambda _: None, command)


def _command(script: str, keys: Sequence[str], *arguments: Part) -> bytes:
    return encode(["EVAL", script, len(keys), *keys, *arguments])


def _keys(account: str, address: str) -> list[str]:
    pair = _digest(account, address)
    return [
        f"{_PREFIX}pair:{pair}",
        f"{_PREFIX}account:{_digest(account)}",
        f"{_PREFIX}address:{_digest(address)}",
        f"{_PREFIX}known:{pair}",
    ]


def _digest(*texts: str) -> str:
    text = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)

"""Entries in Redis (or Valkey), each under our own prefix: other keys of the database are never touched."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sage.errors import InvalidRequest, MissingExtra, Unavailable
from sage.service.kv.backends import MISSING, add, decode, encode, page

_TIMEOUT = 3.0
"""Seconds after which a server that does not answer counts as unavailable."""
_BATCH = 500
"""Keys in one step of a scan or a deletion."""
_ATTEMPTS = 1000
_SWAP = """
local current = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then
    if current then return 0 end
elseif current ~= ARGV[2] then
    return 0
end
if ARGV[4] == 'keep' then
    redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
elseif ARGV[4] == '' then
    redis.call('SET', KEYS[1], ARGV[3])
else
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
return 1
"""


class RedisBackend:
    """A key in Redis is ``prefix``, the tenant percent-encoded, ``:`` and the key. The server limits how many entries
    there are (``maxmemory``). Listing, clearing and counting scan its database."""

    def __init__(self, url: str, prefix: str) -> None:
        try:
            import redis
        except ImportError:
            raise MissingExtra("the key-value service on Redis", "redis") from None
        self._refusals, self._failures = redis.ResponseError, (redis.RedisError, OSError)
        try:
            self._client = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=None, health_check_interval=30
            )
        except ValueError:
            raise InvalidRequest(
                "redis_url is not an address of Redis; write redis://host:6379/0, rediss://… or unix://…",
                param="redis_url",
            ) from None
        self._prefix = prefix
        self._swap = self._client.register_script(_SWAP)
        with self._unavailable_on_failure():
            self._client.ping()

    @contextmanager
    def _unavailable_on_failure(self) -> Iterator[None]:
        try:
            yield
        except self._refusals as exc:  # no memory left, read only, not allowed…
            raise Unavailable(f"the Redis of the key-value service refuses: {exc}", code="kv_unavailable") from exc
        except self._failures as exc:  # without its address, which may contain a password
            raise Unavailable(
                f"the Redis of the key-value service does not answer ({type(exc).__name__}); is it running, and does "
                "redis_url name it?",
                code="kv_unavailable",
            ) from exc

    def _key(self, tenant: str, key: str) -> bytes:
        return f"{self._prefix}{quote(tenant, safe='')}:{key}".encode()

    def get(self, tenant: str, key: str) -> Any:
        with self._unavailable_on_failure():
            stored: Any = self._client.get(self._key(tenant, key))
        return MISSING if stored is None else decode(stored)

    def put(self, tenant: str, key: str, value: Any, ttl: float | None) -> None:
        stored = encode(value)
        with self._unavailable_on_failure():
            self._client.set(self._key(tenant, key), stored, px=_milliseconds(ttl))

    def put_many(self, tenant: str, entries: Mapping[str, Any], ttl: float | None) -> None:
        stored = {self._key(tenant, key): encode(value) for key, value in entries.items()}
        with self._unavailable_on_failure(), self._client.pipeline(transaction=True) as pipeline:
            for key, value in stored.items():
                pipeline.set(key, value, px=_milliseconds(ttl))
            pipeline.execute()

    def delete(self, tenant: str, key: str) -> bool:
        with self._unavailable_on_failure():
            return bool(self._client.unlink(self._key(tenant, key)))

    def keys(self, tenant: str, prefix: str, after: str | None, limit: int | None) -> list[str]:
        start = len(self._key(tenant, ""))
        return page([key[start:].decode() for key in self._scan(tenant, prefix)], after, limit)

    def _scan(self, tenant: str, prefix: str) -> set[bytes]:
        pattern = re.sub(rb"([\\*?\[\]^-])", rb"\\\1", self._key(tenant, prefix)) + b"*"
        with self._unavailable_on_failure():
            return set(self._client.scan_iter(match=pattern, count=_BATCH))  # a scan may return a key twice

    def clear(self, tenant: str, prefix: str) -> int:
        keys, deleted = list(self._scan(tenant, prefix)), 0
        with self._unavailable_on_failure():
            for start in range(0, len(keys), _BATCH):
                deleted += int(self._client.unlink(*keys[start : start + _BATCH]))
        return deleted

    def size(self, tenant: str) -> int:
        return len(self._scan(tenant, ""))

    def exists(self, tenant: str, key: str) -> bool:
        with self._unavailable_on_failure():
            return bool(self._client.exists(self._key(tenant, key)))

    def incr(self, tenant: str, key: str, amount: int, ttl: float | None) -> int:
        # Not Redis's own INCR: its numbers have 64 bits, and it takes bytes that look like a number for one.
        for _ in range(_ATTEMPTS):
            with self._unavailable_on_failure():
                stored: Any = self._client.get(self._key(tenant, key))
            total = add(key, MISSING if stored is None else decode(stored), amount)
            lifetime = _lifetime(ttl) if stored is None else "keep"
            if self._swapped(tenant, key, stored, encode(total), lifetime):
                return total
        raise Unavailable(f"'{key}' is changed by too many writers at once, so nothing could be added; try again")

    def compare_and_set(self, tenant: str, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        stored = None if expected is MISSING else encode(expected)
        return self._swapped(tenant, key, stored, encode(value), _lifetime(ttl))

    def _swapped(self, tenant: str, key: str, expected: bytes | None, stored: bytes, lifetime: str | int) -> bool:
        """Sets ``stored`` if the entry has the bytes ``expected``; returns whether it did."""
        arguments = ["0" if expected is None else "1", expected or b"", stored, lifetime]
        with self._unavailable_on_failure():
            return bool(self._swap(keys=[self._key(tenant, key)], args=arguments))

    def health(self) -> dict[str, Any]:
        with self._unavailable_on_failure():
            self._client.ping()
        return {"backend": "redis"}

    def close(self) -> None:
        self._client.close()


def _milliseconds(ttl: float | None) -> int | None:
    return None if ttl is None else max(1, math.ceil(ttl * 1000))


def _lifetime(ttl: float | None) -> str | int:
    return _milliseconds(ttl) or ""

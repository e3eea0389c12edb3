"""Entries in this process's memory: any objects, by reference."""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from sage.service.kv.backends import MISSING, add, page

_SWEEP_LIMIT = 16
"""The most expired entries that one write removes, so that no write is slow."""
_SPARE_EXPIRIES = 1024
"""How many expiry times of replaced entries may pile up before they are removed."""
Entry = tuple[Any, float | None]
"""A value and the time at which it expires."""


class MemoryBackend:
    """At most ``max_size`` entries a tenant; a new one displaces the least recently used one."""

    def __init__(self, max_size: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_size = max_size
        self._clock = clock
        self._lock = threading.RLock()  # a value's own __del__ or __eq__ may call this backend
        self._tenants: dict[str, OrderedDict[str, Entry]] = {}
        self._expiries: list[tuple[float, str, str]] = []  # a heap; also has the times of replaced entries
        self._expiries_limit = _SPARE_EXPIRIES

    def get(self, tenant: str, key: str) -> Any:
        with self._lock:
            return self._live(tenant, key)[0]

    def _live(self, tenant: str, key: str) -> Entry:
        entries = self._tenants.get(tenant)
        entry = entries.get(key) if entries is not None else None
        if entry is None or entries is None:
            return MISSING, None
        if entry[1] is not None and entry[1] <= self._clock():
            self._drop(tenant, key)
            return MISSING, None
        if self._max_size is not None:
            entries.move_to_end(key)
        return entry

    def _drop(self, tenant: str, key: str) -> None:
        entries = self._tenants.get(tenant, OrderedDict())
        entries.pop(key, None)
        if not entries:
            self._tenants.pop(tenant, None)

    def put(self, tenant: str, key: str, value: Any, ttl: float | None) -> None:
        with self._lock:
            self._put(tenant, key, value, None if ttl is None else self._clock() + ttl)

    def put_many(self, tenant: str, entries: Mapping[str, Any], ttl: float | None) -> None:
        with self._lock:
            expires_at = None if ttl is None else self._clock() + ttl
            for key, value in entries.items():
                self._put(tenant, key, value, expires_at)

    def _put(self, tenant: str, key: str, value: Any, expires_at: float | None) -> None:
        entries = self._tenants.get(tenant)
        if entries is None:
            entries = self._tenants[tenant] = OrderedDict()
        entries[key] = (value, expires_at)
        if expires_at is not None:
            self._add_expiry(expires_at, tenant, key)
        if self._max_size is not None:
            entries.move_to_end(key)
            if len(entries) > self._max_size:
                self._sweep()
                while len(entries) > self._max_size:
                    entries.popitem(last=False)
        elif self._expiries:
            self._sweep(_SWEEP_LIMIT)

    def _add_expiry(self, expires_at: float, tenant: str, key: str) -> None:
        heapq.heappush(self._expiries, (expires_at, tenant, key))
        if len(self._expiries) > self._expiries_limit:
            self._expiries = [
                (expires_at, name, key)
                for name, entries in self._tenants.items()
                for key, (_, expires_at) in entries.items()
                if expires_at is not None
            ]
            heapq.heapify(self._expiries)
            self._expiries_limit = 2 * len(self._expiries) + _SPARE_EXPIRIES

    def _sweep(self, limit: int | None = None) -> None:
        """Removes expired entries: at most ``limit``, or all."""
        now, expiries = self._clock(), self._expiries
        while expiries and expiries[0][0] <= now and limit != 0:
            _, tenant, key = heapq.heappop(expiries)
            entries = self._tenants.get(tenant)
            entry = entries.get(key) if entries is not None else None
            if entry is not None and entry[1] is not None and entry[1] <= now:
                self._drop(tenant, key)
            limit = None if limit is None else limit - 1

    def delete(self, tenant: str, key: str) -> bool:
        with self._lock:
            if self._live(tenant, key)[0] is MISSING:
                return False
            self._drop(tenant, key)
            return True

    def keys(self, tenant: str, prefix: str, after: str | None, limit: int | None) -> list[str]:
        with self._lock:
            return page(self._keys(tenant, prefix), after, limit)

    def _keys(self, tenant: str, prefix: str) -> list[str]:
        self._sweep()
        return [key for key in self._tenants.get(tenant, ()) if key.startswith(prefix)]

    def clear(self, tenant: str, prefix: str) -> int:
        with self._lock:
            keys = self._keys(tenant, prefix)
            for key in keys:
                self._drop(tenant, key)
            return len(keys)

    def size(self, tenant: str) -> int:
        with self._lock:
            self._sweep()
            return len(self._tenants.get(tenant, ()))

    def exists(self, tenant: str, key: str) -> bool:
        return self.get(tenant, key) is not MISSING

    def incr(self, tenant: str, key: str, amount: int, ttl: float | None) -> int:
        with self._lock:
            value, expires_at = self._live(tenant, key)
            if value is MISSING and ttl is not None:
                expires_at = self._clock() + ttl
            total = add(key, value, amount)
            self._put(tenant, key, total, expires_at)
            return total

    def compare_and_set(self, tenant: str, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        with self._lock:
            current = self._live(tenant, key)[0]
            if (current is MISSING) != (expected is MISSING):
                return False
            if current is not expected and not _same(current, expected):
                return False
            self._put(tenant, key, value, None if ttl is None else self._clock() + ttl)
            return True

    def health(self) -> dict[str, Any]:
        return {"backend": "memory", "entries": sum(map(len, list(self._tenants.values())))}

    def close(self) -> None:
        with self._lock:
            self._tenants.clear()
            self._expiries.clear()


def _same(current: Any, expected: Any) -> bool:
    return type(current) is type(expected) and bool(current == expected)  # 1 is not True

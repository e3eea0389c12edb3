"""Entries in this process's memory: any objects, by reference."""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from sage.service.kv.backends import MISSING, added, page

_SOME = 16
"""Expired entries that one write takes away at most, so that none of them waits for many."""
_SPARE = 1024
"""Ends of replaced entries that are kept at least, before they are sorted out."""
Entry = tuple[Any, float | None]
"""A value, and when it ends."""


class MemoryBackend:
    """``max_size`` entries a tenant; the least recently used one goes for a new one."""

    def __init__(self, max_size: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_size = max_size
        self._clock = clock
        self._lock = threading.RLock()  # a value's own __del__ or __eq__ may call us from within
        self._tenants: dict[str, OrderedDict[str, Entry]] = {}
        self._ends: list[tuple[float, str, str]] = []  # a heap; also of entries that were replaced since
        self._most_ends = _SPARE

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

    def _put(self, tenant: str, key: str, value: Any, end: float | None) -> None:
        entries = self._tenants.get(tenant)
        if entries is None:
            entries = self._tenants[tenant] = OrderedDict()
        entries[key] = (value, end)
        if end is not None:
            self._note_end(end, tenant, key)
        if self._max_size is not None:
            entries.move_to_end(key)
            if len(entries) > self._max_size:
                self._sweep()
                while len(entries) > self._max_size:
                    entries.popitem(last=False)
        elif self._ends:
            self._sweep(_SOME)

    def _note_end(self, end: float, tenant: str, key: str) -> None:
        heapq.heappush(self._ends, (end, tenant, key))
        if len(self._ends) > self._most_ends:
            self._ends = [
                (ends, name, key)
                for name, entries in self._tenants.items()
                for key, (_, ends) in entries.items()
                if ends is not None
            ]
            heapq.heapify(self._ends)
            self._most_ends = 2 * len(self._ends) + _SPARE

    def _sweep(self, most: int | None = None) -> None:
        """Takes expired entries away, ``most`` of them."""
        now, ends = self._clock(), self._ends
        while ends and ends[0][0] <= now and most != 0:
            _, tenant, key = heapq.heappop(ends)
            entries = self._tenants.get(tenant)
            entry = entries.get(key) if entries is not None else None
            if entry is not None and entry[1] is not None and entry[1] <= now:
                self._drop(tenant, key)
            most = None if most is None else most - 1

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
            value, end = self._live(tenant, key)
            if value is MISSING and ttl is not None:
                end = self._clock() + ttl
            total = added(key, value, amount)
            self._put(tenant, key, total, end)
            return total

    def compare_and_set(self, tenant: str, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        with self._lock:
            found = self._live(tenant, key)[0]
            if (found is MISSING) != (expected is MISSING) or (found is not expected and not _same(found, expected)):
                return False
            self._put(tenant, key, value, None if ttl is None else self._clock() + ttl)
            return True

    def health(self) -> dict[str, Any]:
        return {"backend": "memory", "entries": sum(map(len, list(self._tenants.values())))}

    def close(self) -> None:
        with self._lock:
            self._tenants.clear()
            self._ends.clear()


def _same(found: Any, expected: Any) -> bool:
    return type(found) is type(expected) and bool(found == expected)  # 1 is not True

"""A key-value store as a service: in memory, durable on SQLite, or on Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage.errors import InvalidRequest, Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, ServiceFactory
from sage.service.kv.backends import MAX_KEY, MISSING, KeyValueBackend
from sage.service.kv.memory_backend import MemoryBackend
from sage.service.kv.redis_backend import RedisBackend
from sage.service.kv.sqlite_backend import SqliteBackend
from sage.service.upstream.factories import made_factory

DEFAULT_TENANT = "default"
BACKENDS = ("memory", "sqlite", "redis")
MAX_TTL = 1e10
"""Seconds: about three centuries."""
_MAX_LIMIT = 2**63 - 1


class KVService(BaseServiceTask):
    """A key-value store.

    ``backend_type`` is ``memory``, ``sqlite`` (a file in ``persist_directory``; a write is durable once it has
    returned) or ``redis`` (at ``redis_url``; every key begins with ``prefix``, and the database is never flushed).

    In memory, values are any objects, stored by reference and compared by type and ``==``. Elsewhere they are JSON
    (tuples come back as lists) or bytes, and are compared as such. Keys are texts of 1 to 1,024 characters.

    ``max_size`` is the most entries of a tenant; the least recently used go first. On Redis, the server's ``maxmemory``
    decides instead. ``ttl_seconds`` is the lifetime of an entry without a ``ttl`` of its own; ``None`` means without
    end. No method touches another tenant than ``tenant``.
    """

    max_workers = 4

    def __init__(
        self,
        backend_type: str = "memory",
        redis_url: str | None = None,
        max_size: int | None = None,
        ttl_seconds: float | None = None,
        persist_directory: str | None = None,
        prefix: str = "sage:kv:",
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``clock`` gives seconds, for tests. Raises :class:`InvalidRequest` for options that do not fit together."""
        if backend_type not in BACKENDS:
            raise InvalidRequest(
                f"there is no backend_type '{backend_type}'; there are {', '.join(BACKENDS)}", param="backend_type"
            )
        for name, value, backend in (
            ("redis_url", redis_url, "redis"),
            ("persist_directory", persist_directory, "sqlite"),
        ):
            if (value is None) == (backend_type == backend):
                what = "needs" if value is None else "takes no"
                raise InvalidRequest(f"backend_type='{backend_type}' {what} '{name}'", param=name)
        if max_size is not None and (isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1):
            raise InvalidRequest("'max_size' must be a whole number from 1", param="max_size")
        if max_size is not None and backend_type == "redis":
            raise InvalidRequest(
                "Redis bounds its memory itself: set maxmemory and maxmemory-policy there instead of 'max_size'",
                param="max_size",
            )
        self._ttl = _checked_ttl(ttl_seconds, "ttl_seconds")
        self._backend_type = backend_type
        self._redis_url = redis_url
        self._max_size = max_size
        self._directory = persist_directory
        self._prefix = prefix
        self._clock = clock
        self._backend: KeyValueBackend | None = None

    def _about(self) -> str:
        where = f" in '{self._directory}'" if self._directory else ""
        return f"{self._backend_type}{where}, {'running' if self._backend else 'not running'}"

    def setup(self) -> None:
        if self._backend_type == "memory":
            self._backend = MemoryBackend(self._max_size, self._clock or time.monotonic)
        elif self._backend_type == "sqlite":
            assert self._directory is not None
            path = Path(self._directory) / "kv.sqlite"
            self._backend = SqliteBackend(path, self._max_size, self._clock or time.time)
        else:
            assert self._redis_url is not None
            self._backend = RedisBackend(self._redis_url, self._prefix)

    def cleanup(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def health(self) -> dict[str, Any]:
        return self._open().health()

    def _open(self) -> KeyValueBackend:
        if self._backend is None:
            raise Unavailable(
                "the key-value service does not run; register it in an environment, or use 'with KVService() as kv:'",
                code="service_stopped",
                retry_after=None,
            )
        return self._backend

    def get(self, key: str, default: Any = None, *, tenant: str = DEFAULT_TENANT) -> Any:
        """The value, or ``default``."""
        value = (self._backend or self._open()).get(tenant, _checked(key, tenant))
        return default if value is MISSING else value

    def put(self, key: str, value: Any, ttl: float | None = None, *, tenant: str = DEFAULT_TENANT) -> bool:
        """Sets the value, which expires after ``ttl`` seconds; ``True``, since it raises what it fails with."""
        self._open().put(tenant, _checked(key, tenant), value, self._lifetime(ttl))
        return True

    def put_many(self, entries: Mapping[str, Any], ttl: float | None = None, *, tenant: str = DEFAULT_TENANT) -> int:
        """Sets all of these values, or none, in one write; how many they are."""
        if not isinstance(entries, Mapping):
            raise InvalidRequest("'entries' must be an object of values by their keys", param="entries")
        checked = {_checked(key, tenant): value for key, value in entries.items()}
        if checked:
            self._open().put_many(_checked_tenant(tenant), checked, self._lifetime(ttl))
        return len(checked)

    def delete(self, key: str, *, tenant: str = DEFAULT_TENANT) -> bool:
        """Deletes the entry; returns whether it existed."""
        return self._open().delete(tenant, _checked(key, tenant))

    def list_keys(
        self,
        prefix: str = "",
        *,
        limit: int | None = None,
        after: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[str]:
        """Keys that begin with ``prefix``, taken literally, in order; with ``after`` only those that follow it."""
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InvalidRequest("'limit' must be a whole number from 1", param="limit")
        if after is not None and not isinstance(after, str):
            raise InvalidRequest(f"'after' must be a key, not {after!r:.80}", param="after")
        bounded = None if limit is None else min(limit, _MAX_LIMIT)
        return self._open().keys(
            _checked_tenant(tenant), _checked_prefix(prefix), after and _checked_text(after), bounded
        )

    def clear(self, prefix: str = "", *, tenant: str = DEFAULT_TENANT) -> int:
        """Deletes the tenant's entries whose keys begin with ``prefix``; returns their number."""
        return self._open().clear(_checked_tenant(tenant), _checked_prefix(prefix))

    def size(self, *, tenant: str = DEFAULT_TENANT) -> int:
        """How many entries the tenant has."""
        return self._open().size(_checked_tenant(tenant))

    def exists(self, key: str, *, tenant: str = DEFAULT_TENANT) -> bool:
        """Whether there is an entry with this key."""
        return self._open().exists(tenant, _checked(key, tenant))

    def incr(self, key: str, amount: int = 1, ttl: float | None = None, *, tenant: str = DEFAULT_TENANT) -> int:
        """Adds to a whole number and returns the sum; a new entry starts at 0 and expires after ``ttl`` seconds. Raises
        :class:`sage.errors.Conflict` when the value is not a whole number."""
        if isinstance(amount, bool) or not isinstance(amount, int):
            raise InvalidRequest("'amount' must be a whole number", param="amount")
        return self._open().incr(tenant, _checked(key, tenant), amount, self._lifetime(ttl))

    def compare_and_set(
        self, key: str, expected: Any, value: Any, ttl: float | None = None, *, tenant: str = DEFAULT_TENANT
    ) -> bool:
        """Sets ``value`` if the value is ``expected``; returns whether it did. ``None`` means that there is no entry:
        an entry whose value is ``None`` is one, and can only be put anew."""
        required = MISSING if expected is None else expected
        return self._open().compare_and_set(tenant, _checked(key, tenant), required, value, self._lifetime(ttl))

    def stats(self, *, tenant: str = DEFAULT_TENANT) -> dict[str, Any]:
        """``{backend_type, storage_size, max_size, ttl_seconds, …}``, with what its host has counted."""
        return {
            **self.get_statistics(),
            "backend_type": self._backend_type,
            "storage_size": self.size(tenant=tenant),
            "max_size": self._max_size,
            "ttl_seconds": self._ttl,
        }

    def _lifetime(self, ttl: float | None) -> float | None:
        return self._ttl if ttl is None else _checked_ttl(ttl, "ttl")


def create_kv_service_factory(service_name: str | None = None, **options: Any) -> ServiceFactory:
    """A factory for ``env.register_service("kv_service", KVService,
    create_kv_service_factory(backend_type="sqlite"))``; takes the keywords of :class:`KVService`, and refuses what
    that class refuses. ``service_name`` is upstream SAGE's: the name is given to ``register_service``."""
    return made_factory(KVService, service_name, options)


def _checked(key: Any, tenant: Any) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
        actual = f"one of {len(key):,}" if isinstance(key, str) else f"{key!r:.80}"
        raise InvalidRequest(f"a key must be a text of 1 to {MAX_KEY:,} characters, not {actual}", param="key")
    if not isinstance(tenant, str) or not tenant.isascii():
        _checked_tenant(tenant)
    return key if key.isascii() else _checked_text(key)


def _checked_tenant(tenant: Any) -> str:
    if not isinstance(tenant, str):
        raise InvalidRequest(f"'tenant' must be a text, not {tenant!r:.80}", param="tenant")
    return _checked_text(tenant, "tenant")


def _checked_prefix(prefix: Any) -> str:
    if not isinstance(prefix, str):
        raise InvalidRequest(f"'prefix' must be a text, not {prefix!r:.80}", param="prefix")
    return _checked_text(prefix, "prefix")


def _checked_text(text: str, what: str = "key") -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"the {what} has a lone surrogate, which is not text", param=what) from None
    return text


def _checked_ttl(ttl: Any, param: str) -> float | None:
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= MAX_TTL:
        raise InvalidRequest(f"'{param}' must be a number of seconds above 0, {MAX_TTL:.0e} at most", param=param)
    return float(ttl)

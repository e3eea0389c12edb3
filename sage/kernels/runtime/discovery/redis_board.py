"""A board for many machines: keys in Redis that expire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sage.errors import InvalidRequest, MissingExtra, Unavailable
from sage.kernels.runtime.discovery.discovery import SILENCE, Announcement, decoded

_PREFIX = "sage:services:"
_TIMEOUT = 2.0
"""Seconds until a server that does not answer is told as unavailable."""


class RedisBoard:
    """An announcement lives as long as heartbeats come."""

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ImportError:
            raise MissingExtra("discovery on Redis", "redis") from None
        self._failures = (redis.RedisError, OSError)
        try:
            self._client = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=None
            )
        except ValueError:
            raise InvalidRequest("the address of the board is none of Redis: redis://host:6379/0") from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._failures as exc:  # its address may hold a password, and is not told
            raise Unavailable(f"the Redis for discovery does not answer ({type(exc).__name__})") from exc

    def announce(self, announcement: Announcement) -> None:
        said = replace(announcement, at=time.time()).encoded()
        with self._told():
            self._client.set(_PREFIX + announcement.node, said, px=int(SILENCE * 1000))

    def withdraw(self, node: str) -> None:
        with self._told():
            self._client.delete(_PREFIX + node)

    def living(self) -> list[Announcement]:
        with self._told():
            keys = list(set(self._client.scan_iter(match=f"{_PREFIX}*", count=500)))
            said: Any = self._client.mget(keys) if keys else []
        found = [decoded(one) for one in said if one is not None]  # one may expire in between
        living = [announcement for announcement in found if announcement is not None]
        return sorted(living, key=lambda announcement: announcement.started_at)

    def close(self) -> None:
        self._client.close()

"""A board for many machines: keys in Redis that expire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sage.errors import InvalidRequest, MissingExtra, Unavailable
from sage.kernels.runtime.discovery.board import SILENCE, Announcement

_PREFIX = "sage:services:"
_TIMEOUT = 2.0
"""Seconds that a server has to answer."""


class RedisBoard:
    """Each announcement is a key that expires unless the next heartbeat comes in time."""

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
            raise InvalidRequest(
                "the address of the board is not that of a Redis server, as redis://host:6379/0"
            ) from None

    @contextmanager
    def _unavailable_on_failure(self) -> Iterator[None]:
        try:
            yield
        except self._failures as exc:  # without its address, which may hold a password
            raise Unavailable(f"the Redis for discovery does not answer ({type(exc).__name__})") from exc

    def announce(self, announcement: Announcement) -> None:
        value = replace(announcement, at=time.time()).encoded()
        with self._unavailable_on_failure():
            self._client.set(_PREFIX + announcement.node, value, px=int(SILENCE * 1000))

    def withdraw(self, node: str) -> None:
        with self._unavailable_on_failure():
            self._client.delete(_PREFIX + node)

    def announcements(self) -> list[Announcement]:
        with self._unavailable_on_failure():
            keys = list(set(self._client.scan_iter(match=f"{_PREFIX}*", count=500)))
            values: Any = self._client.mget(keys) if keys else []
        decoded = [Announcement.decoded(value) for value in values if value is not None]  # a key may expire in between
        announcements = [announcement for announcement in decoded if announcement is not None]
        return sorted(announcements, key=lambda announcement: announcement.started_at)

    def close(self) -> None:
        self._client.close()

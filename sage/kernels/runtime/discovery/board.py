"""Boards of services: what a process announces of the services that it runs, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import orjson

HEARTBEAT = 5.0
"""Seconds between two announcements of a process."""
SILENCE = 3 * HEARTBEAT
"""Seconds without an announcement after which a process counts as gone."""


@dataclass(frozen=True)
class Announcement:
    """What one process announces of itself. ``node`` is a random id of this run of the environment; ``services`` holds
    :meth:`sage.kernels.runtime.services.host.Host.describe` of each service; the times are Unix seconds, and ``at`` is
    that of the last heartbeat. ``kind`` is ``environment`` or ``gateway``."""

    node: str
    environment: str
    host: str
    pid: int
    kind: str = "environment"
    services: Sequence[dict[str, Any]] = field(default_factory=tuple)
    started_at: float = 0.0
    at: float = 0.0

    def encoded(self) -> bytes:
        return orjson.dumps(self, default=str, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def decoded(cls, stored: bytes | str) -> Self | None:
        """``None`` means that another version, with other fields, wrote it."""
        try:
            return cls(**orjson.loads(stored))
        except (orjson.JSONDecodeError, TypeError):
            return None


class Board(Protocol):
    """Where processes leave their announcements. Every method blocks, but only for some seconds, and raises
    :class:`sage.errors.Unavailable`."""

    def announce(self, announcement: Announcement) -> None: ...

    def withdraw(self, node: str) -> None: ...

    def announcements(self) -> list[Announcement]:
        """Those of the processes that run, the one that started first at the head."""

    def close(self) -> None: ...

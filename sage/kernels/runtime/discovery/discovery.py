"""Who runs which services: each environment and gateway announces its own, with a heartbeat, on a shared board."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

HEARTBEAT = 5.0
"""Seconds between two of them; who has been silent for three is gone."""
SILENCE = 3 * HEARTBEAT
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Announcement:
    """What one process says of itself. ``node``: a random id of this run of the environment; ``services``: what
    :meth:`Host.describe` gives of each; ``at``: Unix seconds of the last heartbeat."""

    node: str
    environment: str
    host: str
    pid: int
    kind: str = "environment"
    """Or ``gateway``."""
    services: Sequence[dict[str, Any]] = field(default_factory=tuple)
    started_at: float = 0.0
    at: float = 0.0

    def encoded(self) -> bytes:
        return orjson.dumps(self, default=str, option=orjson.OPT_NON_STR_KEYS)


def decoded(stored: bytes | str) -> Announcement | None:
    """``None``: written by a version that says it otherwise."""
    try:
        return Announcement(**orjson.loads(stored))
    except (orjson.JSONDecodeError, TypeError):
        return None


class Board(Protocol):
    """Where announcements hang. Every method blocks, none for longer than some seconds, and raises
    :class:`sage.errors.Unavailable`."""

    def announce(self, announcement: Announcement) -> None: ...

    def withdraw(self, node: str) -> None: ...

    def living(self) -> list[Announcement]:
        """Those who have been heard of lately, oldest first."""

    def close(self) -> None: ...


def open_board(address: str) -> Board:
    """``redis://…`` (also ``rediss``, ``unix``), or the path of a SQLite file."""
    if "://" in address:
        from sage.kernels.runtime.discovery.redis_board import RedisBoard

        return RedisBoard(address)
    from sage.kernels.runtime.discovery.sqlite_board import SqliteBoard

    return SqliteBoard(Path(address))


class Heartbeat:
    """Announces every :data:`HEARTBEAT` seconds on a thread of its own; a board that fails is told once in the log and
    tried again, and stops nothing."""

    def __init__(
        self, board_address: str, announcement: Callable[[], Announcement], interval: float = HEARTBEAT
    ) -> None:
        self._address = board_address
        self._announcement = announcement
        self._interval = interval
        self._node: str | None = None
        """Under which something hangs on the board."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def start(self) -> None:
        """The first announcement hangs when this returns, if the board can be written."""
        if self._thread is not None:
            return
        self._ended.clear()
        board = self._beat(None)
        self._thread = threading.Thread(target=self._go_on, args=(board,), name="sage-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Takes the announcement away."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _go_on(self, board: Board | None) -> None:
        while not self._ended.wait(self._interval):
            board = self._beat(board)
        if board is None:
            return
        try:
            if self._node is not None:
                board.withdraw(self._node)
        except Exception as exc:
            self._tell(exc)
        finally:
            board.close()

    def _beat(self, board: Board | None) -> Board | None:
        try:
            board = board or open_board(self._address)
            said = self._announcement()
            board.announce(said)
            self._node, self._failing = said.node, False
        except Exception as exc:
            self._tell(exc)
            if board is not None:
                with suppress(Exception):
                    board.close()
            return None  # it is opened anew: its file may be another one now
        return board

    def _tell(self, exc: Exception) -> None:
        if not self._failing:
            self._failing = True
            _log.warning("services cannot be announced for discovery, and go on: %s", exc)

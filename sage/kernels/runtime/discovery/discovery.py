"""Discovery: each environment and gateway announces its services with a heartbeat, on a board that all can read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sage.kernels.runtime.discovery.board import HEARTBEAT, Announcement, Board
from sage.kernels.runtime.discovery.redis_board import RedisBoard
from sage.kernels.runtime.discovery.sqlite_board import SqliteBoard

_log = logging.getLogger(__name__)


def open_board(address: str) -> Board:
    """``address`` is a Redis URL (``redis://…``, ``rediss``, ``unix``) or the path of a SQLite file."""
    return RedisBoard(address) if "://" in address else SqliteBoard(Path(address))


class Heartbeat:
    """Announces every ``interval`` seconds, on a thread of its own. When the board fails, it logs one warning and tries
    again; nothing else stops."""

    def __init__(
        self, board_address: str, announcement: Callable[[], Announcement], interval: float = HEARTBEAT
    ) -> None:
        self._address = board_address
        self._announcement = announcement
        self._interval = interval
        self._announced_node: str | None = None
        """``None`` means that nothing of ours is on the board."""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_failing = False

    def start(self) -> None:
        """When this returns, the first announcement is on the board, if the board can be written."""
        if self._thread is not None:
            return
        self._stopped.clear()
        board = self._beat(None)
        self._thread = threading.Thread(
            target=self._beat_until_stopped, args=(board,), name="sage-heartbeat", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Takes the announcement from the board."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _beat_until_stopped(self, board: Board | None) -> None:
        while not self._stopped.wait(self._interval):
            board = self._beat(board)
        if board is None:
            return
        try:
            if self._announced_node is not None:
                board.withdraw(self._announced_node)
        except Exception as exc:
            self._warn_once(exc)
        finally:
            board.close()

    def _beat(self, board: Board | None) -> Board | None:
        """Announces on ``board``, and opens it first if it is ``None``. Returns ``None`` when that failed: it must be
        opened again, since its file may be another one now."""
        try:
            board = board or open_board(self._address)
            announcement = self._announcement()
            board.announce(announcement)
            self._announced_node, self._is_failing = announcement.node, False
        except Exception as exc:
            self._warn_once(exc)
            if board is not None:
                with suppress(Exception):
                    board.close()
            return None
        return board

    def _warn_once(self, exc: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            _log.warning("services cannot be announced for discovery, and go on: %s", exc)

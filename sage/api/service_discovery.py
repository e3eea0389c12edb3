"""What one environment announces of its services, and what it finds of those of others."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from sage.api.environment_config import board_address
from sage.kernels.runtime.discovery.board import Announcement
from sage.kernels.runtime.discovery.discovery import Heartbeat, open_board


class ServiceDiscovery:
    """``services`` returns the description of each service of the environment that runs now; ``discovery`` is the
    setting of the environment's ``config``."""

    def __init__(self, environment: str, discovery: Any, services: Callable[[], list[dict[str, Any]]]) -> None:
        self._environment = environment
        self._discovery = discovery
        self._services = services
        self._node = secrets.token_hex(8)
        self._started_at = 0.0
        self._heartbeat: Heartbeat | None = None

    def start(self) -> None:
        """Announces the services until :meth:`stop`, if there is a board."""
        if (address := board_address(self._discovery)) is None:
            return
        self._started_at = time.time()
        self._heartbeat = Heartbeat(address, self._announcement)
        self._heartbeat.start()

    def stop(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None

    def discover(self) -> list[dict[str, Any]]:
        """The services on the board, each with ``environment``, ``node``, ``kind`` and ``seen_at``; without a board
        those of this environment."""
        if (address := board_address(self._discovery)) is None:
            labels = _labels(self._environment, self._node, "environment", time.time())
            return [{**service, **labels} for service in self._services()]
        board = open_board(address)
        try:
            announcements = board.announcements()
        finally:
            board.close()
        return [
            {**service, **_labels(process.environment, process.node, process.kind, process.at)}
            for process in announcements
            for service in (self._services() if process.node == self._node else process.services)
        ]

    def _announcement(self) -> Announcement:
        return Announcement(
            node=self._node,
            environment=self._environment,
            host=socket.gethostname(),
            pid=os.getpid(),
            services=self._services(),
            started_at=self._started_at,
        )


def _labels(environment: str, node: str, kind: str, seen_at: float) -> dict[str, Any]:
    return {"environment": environment, "node": node, "kind": kind, "seen_at": seen_at}

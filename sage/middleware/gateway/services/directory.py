"""Which services there are: this gateway's own, which it announces on a board, and those that others announce."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from sage.errors import NotFound, SageError
from sage.kernels.runtime.discovery.board import Announcement
from sage.kernels.runtime.discovery.discovery import Heartbeat, open_board
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.services.plans import ENVIRONMENT, GRACE, NAMES, outline
from sage.middleware.gateway.services.running import RunningServices
from sage.middleware.settings.services import ServicesSettings

_DESCRIBE_WITHIN = 5.0
"""Seconds that a service, or the board, may take to answer."""


class ServiceDirectory:
    """Announces the services of this gateway, and describes them beside those of others.

    ``node`` is a random id of this run of the gateway, ``root`` the directory of the services' data. Methods that wait
    are for the gateway's event loop.
    """

    def __init__(self, node: str, root: Path, settings: ServicesSettings, services: RunningServices) -> None:
        self._node = node
        self._root = root
        self._settings = settings
        self._services = services
        board = settings.discovery
        self._board_address = board.get_secret_value() if board is not None else str(root / "board.sqlite")
        self._threads = BoundedPool("the state of services", 4, 64)
        self._heartbeat: Heartbeat | None = None
        self._announced = False
        self._started_at = time.time()

    async def announce(self) -> None:
        """Announces the gateway from now on; calls after the first do nothing."""
        if not self._announced:
            self._announced = True
            await self._threads.run(self._start_heartbeat)

    def _start_heartbeat(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._heartbeat = Heartbeat(self._board_address, self._announcement)
        self._heartbeat.start()

    def _announcement(self) -> Announcement:
        return Announcement(
            node=self._node,
            environment=ENVIRONMENT,
            host=socket.gethostname(),
            pid=os.getpid(),
            kind="gateway",
            services=tuple(self._services.describe(name) for name in NAMES),
            started_at=self._started_at,
        )

    async def describe(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The services of this gateway and those that others announce; and warnings about what did not answer."""
        own = await asyncio.gather(*(self._describe_own(name) for name in NAMES))
        try:
            others = await asyncio.wait_for(self._threads.run(self._describe_others), _DESCRIBE_WITHIN)
        except (SageError, TimeoutError, OSError) as exc:
            why = exc.message if isinstance(exc, SageError) else str(exc) or f"no answer within {_DESCRIBE_WITHIN:g} s"
            return list(own), [f"services of others cannot be seen: {why}"]
        return [*own, *others], []

    async def find(self, name: str, environment: str | None) -> dict[str, Any]:
        """The service ``name``: of this gateway, else the first of another; with ``environment``, only of that one.

        Raises :class:`NotFound`.
        """
        services, warnings = await self.describe()
        for service in services:
            if service["name"] == name and environment in (None, service["environment"]):
                return service
        names = ", ".join(dict.fromkeys(service["name"] for service in services))
        where = f" in the environment '{environment}'" if environment is not None else ""
        raise NotFound(
            "; ".join([f"there is no service '{name}'{where}; there are: {names} (GET /services)", *warnings]),
            param="name",
            code="service_not_found",
        )

    async def _describe_own(self, name: str) -> dict[str, Any]:
        try:
            described = await asyncio.wait_for(
                self._threads.run(partial(self._services.describe, name)), _DESCRIBE_WITHIN
            )
        except (SageError, TimeoutError):
            described = outline(name, self._settings, "running", "it did not answer; all its workers may be busy")
        return {**described, **_origin(self._node, ENVIRONMENT, "gateway")}

    def _describe_others(self) -> list[dict[str, Any]]:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        board = open_board(self._board_address)
        try:
            announcements = board.announcements()
        finally:
            board.close()
        return [
            {"error": None, **service, **_origin(other.node, other.environment, other.kind)}
            for other in announcements
            if other.node != self._node
            for service in other.services
        ]

    def withdraw(self) -> None:
        """Takes the announcement off the board. Blocks, for a board or a service that hangs only some seconds."""
        if self._heartbeat is not None:
            withdrawing = threading.Thread(target=self._heartbeat.stop, daemon=True)
            withdrawing.start()
            withdrawing.join(GRACE)

    def close(self) -> None:
        """Ends its threads. Blocks."""
        self._threads.close(GRACE)


def _origin(node: str, environment: str, kind: str) -> dict[str, Any]:
    return {"environment": environment, "node": node, "kind": kind}

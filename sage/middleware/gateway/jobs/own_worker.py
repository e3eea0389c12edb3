"""The worker that the gateway runs itself, as far as jobs are concerned."""

from __future__ import annotations

import os
import re
import socket
from typing import Protocol

_NAME = re.compile(r"own[0-9]+-([0-9]+)@gateway(?:\.([A-Za-z0-9.-]*))?", re.ASCII)


class OwnWorker(Protocol):
    """A child process of the gateway's that runs jobs."""

    def ensure(self) -> None:
        """Starts it if it does not run. Called on the event loop, often, whenever there is something to do."""

    async def close(self) -> None:
        """Ends it. What it was doing goes back into the queue."""


def own_worker_name(number: int) -> str:
    """The name of the worker that this process starts as its ``number``-th."""
    return f"own{number}-{os.getpid()}@gateway.{_machine()}"


def _machine() -> str:
    """The name of this machine or container: gateways on several may share a database, and have the same pid."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64]


def has_lost_gateway(worker: str) -> bool:
    """Whether ``worker`` was the own one of a gateway that has ended, and so has ended with it.

    For a gateway that starts: one with its own pid was before it, as in a container that was started again.
    """
    named = _NAME.fullmatch(worker)
    if named is None or named[2] not in (None, _machine()):
        return False
    pid = int(named[1])
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False

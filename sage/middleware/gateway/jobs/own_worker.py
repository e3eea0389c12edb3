"""The worker that the gateway runs itself, as far as jobs are concerned."""

from __future__ import annotations

from typing import Protocol


class OwnWorker(Protocol):
    """A child process of the gateway's that runs jobs."""

    def ensure(self) -> None:
        """Starts it if it does not run. Called on the event loop, often, whenever there is something to do."""

    async def close(self) -> None:
        """Ends it. What it was doing goes back into the queue."""

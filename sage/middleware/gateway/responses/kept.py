"""The kept responses of a gateway: their database is opened with the first one, and work on it runs on threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sage.errors import SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.settings.settings import Settings

if TYPE_CHECKING:  # brings SQLAlchemy, which a gateway without kept responses does not load
    from sage.middleware.database.database import Database
    from sage.middleware.responses.store import ResponseStore

T = TypeVar("T")
_PURGES_EVERY = 60.0


class ResponseJobs(Protocol):
    """The jobs of responses in the background (:mod:`sage.middleware.gateway.responses.background`)."""

    async def submit(self, principal: Principal, body: dict[str, Any]) -> str: ...

    async def cancel(self, tenant: str, job: str) -> None: ...

    async def forget(self, tenant: str, job: str) -> None: ...

    async def failure(self, tenant: str, job: str) -> tuple[str, str] | None: ...


class KeptResponses:
    """Belongs to one event loop."""

    background: ResponseJobs | None = None
    """Makes responses in the background; ``None`` means that nobody does."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.responses
        self._data_dir: Path = settings.data_dir
        self._url = settings.database
        self._threads = BoundedPool("responses", 8, 1024)
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._store: ResponseStore | None = None

    def here(self) -> KeptResponses:
        """Itself. To be called before anything is done for a response that is to be kept: only one of the gateway's
        processes can."""
        return self

    async def run(self, work: Callable[[ResponseStore], T], tenant: str = "") -> T:
        """The result of ``work`` on the store, on a thread. Raises :class:`sage.errors.Unavailable`, and
        :class:`sage.errors.ConfigError` when its files cannot be used."""
        return await self._threads.run(lambda: work(self._open()), tenant)

    async def keep_purged(self) -> None:
        """Deletes what has expired, once a minute, until it is cancelled."""
        while True:
            if self._store is not None or self._url is not None or (self._data_dir / "responses.db").exists():
                with contextlib.suppress(SageError):
                    if purged := await self.run(lambda store: store.purge()):
                        logging.getLogger("sage").info("%d responses have expired", purged)
            await asyncio.sleep(_PURGES_EVERY)

    def close(self) -> None:
        """Ends its threads and closes the database. Blocks."""
        self._threads.close()
        if self._database is not None:
            self._database.close()

    def _open(self) -> ResponseStore:
        with self._lock:
            if self._store is None:
                from sage.middleware.responses.database import open_responses_database
                from sage.middleware.responses.store import ResponseStore

                self._database = open_responses_database(self._data_dir, self._url)
                self._store = ResponseStore(self._database, self.settings.ttl)
            return self._store

"""The gateway for code of a job that runs on a thread: its calls are made by the run's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any
from urllib.parse import quote, urlencode

from sage.errors import CallFailed
from sage.middleware.worker.job_client import Answer, JobClient


class WorkStopped(Exception):
    """The run has ended: its threads end, too."""


class ThreadClient:
    """What :class:`sage.middleware.ingest.target.IngestTarget` needs of a client. Made on the loop."""

    url = "the gateway"

    def __init__(self, client: JobClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._calls: set[Future[Answer]] = set()

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        return self._json(self._client.get(_address(path, query)))

    def post(self, path: str, body: Mapping[str, Any] | bytes | None = None, **query: str) -> dict[str, Any]:
        """``body`` may be JSON already, as bytes."""
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/json"}
            return self._json(self._client.request("POST", _address(path, query), body=body, headers=headers))
        return self._json(self._client.post(_address(path, query), dict(body or {})))

    def sleep(self, seconds: float) -> None:
        """Raises :class:`WorkStopped` as soon as the run ends."""
        if self._stopped.wait(seconds):
            raise WorkStopped

    def stop(self) -> None:
        """Ends all calls; they and later ones raise :class:`WorkStopped`. From the loop."""
        with self._lock:
            self._stopped.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def _json(self, request: Coroutine[Any, Any, Answer]) -> dict[str, Any]:
        answer = self._answer(request)
        if not answer.ok:
            error = answer.error
            raise CallFailed(
                str(error.get("message")),
                answer_status=answer.status,
                code=error.get("code"),
                retry_after=answer.retry_after,
            )
        value = answer.json()
        assert isinstance(value, dict)
        return value

    def _answer(self, request: Coroutine[Any, Any, Answer]) -> Answer:
        with self._lock:
            if self._stopped.is_set():
                request.close()
                raise WorkStopped
            call = asyncio.run_coroutine_threadsafe(request, self._loop)
            self._calls.add(call)
        try:
            return call.result()
        except CancelledError:
            raise WorkStopped from None
        except OSError as exc:  # its message names the gateway's own address
            raise CallFailed("the gateway did not answer", code="gateway_lost") from exc
        finally:
            with self._lock:
                self._calls.discard(call)


def _address(path: str, query: Mapping[str, str | int]) -> str:
    return f"{quote(path)}?{urlencode(query)}" if query else quote(path)

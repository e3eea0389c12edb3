"""Kombu's transports for Redis and for files, made safe: an entry that is not ours is dropped, and harms nothing.

With kombu's own, one entry that is no JSON ends a Celery worker: `_brpop_read` and `_get` decode it outside any
handler, and the error leaves the worker's loop.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.queue.file_messages import names_of, put_file, remove_files, take_file
from sage.middleware.queue.messages import cleaned, is_job_queue
from sage.private_files import make_private_dir

REDIS = "sage-redis"
FILES = "sage-files"
_SAY_EVERY = 10.0
_GARBAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What kombu raises for messages that have not its form."""


class _DropLog:
    """Says that entries were dropped, at most once in some seconds: somebody may put in very many."""

    _said_at = -math.inf
    _unsaid = 0

    def dropped(self, queue: str) -> None:
        """Notes one entry."""
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY:
            log = logging.getLogger("sage.worker")
            log.warning("dropped %d entries of the queue %s: they are not ours", self._unsaid, queue)
            self._said_at, self._unsaid = now, 0


class SafeRedisClient(_DropLog):
    """Over ``redis.Redis``: what a blocking pop answers with is a message of ours, or nothing."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """The answer of the server, of `BRPOP` the key and the message."""
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[misc]
        if command_name != "BRPOP" or not answer:
            return answer
        key, entry = answer
        queue = key.decode("utf-8", "replace").partition("\x06\x16")[0]
        if not is_job_queue(queue):
            return answer
        message = cleaned(entry, queue)
        if message is None:
            self.dropped(queue)
            return None
        return key, message


class SafeRedisChannel(_DropLog):
    """Over kombu's channel for Redis. Nothing is kept for a redelivery: the jobs table knows what is not done."""

    def _get_client(self) -> type:
        base = super()._get_client()  # type: ignore[misc]
        return type("SafeClient", (SafeRedisClient, base), {})

    def _receive_one(self, client: Any) -> Any:
        try:
            return super()._receive_one(client)  # type: ignore[misc]
        except _GARBAGE:
            self.dropped("of remote control")
            raise Empty from None


class SafeFileChannel(_DropLog):
    """Over kombu's channel for files: whole files only, which belong to one process, in a private directory."""

    data_folder_in: str
    control_folder: Path

    def _queue_bind(self, *binding: Any) -> None:
        messages = Path(self.data_folder_in)
        for directory in (messages.parent, messages, self.control_folder):
            make_private_dir(directory)  # somebody may have removed them
        super()._queue_bind(*binding)  # type: ignore[misc]

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        put_file(self.data_folder_in, queue, json.dumps(payload, default=str).encode())

    def _get(self, queue: str) -> Any:
        while (entry := take_file(self.data_folder_in, queue)) is not None:
            try:
                message = cleaned(entry, queue) if is_job_queue(queue) else entry
                decoded = json.loads(message) if message is not None else None
            except (ValueError, RecursionError):
                decoded = None
            if isinstance(decoded, dict):
                return decoded
            self.dropped(queue)
        raise Empty

    def _get_and_deliver(self, queue: str, callback: Callable[[Any, str], None]) -> None:
        try:
            super()._get_and_deliver(queue, callback)  # type: ignore[misc]
        except _GARBAGE:
            if is_job_queue(queue):  # such a message has been made by us: the error is not in it
                raise
            self.dropped(queue)
            raise Empty from None

    def _size(self, queue: str) -> int:
        return len(names_of(self.data_folder_in, queue))

    def _purge(self, queue: str) -> int:
        return remove_files(self.data_folder_in, names_of(self.data_folder_in, queue))


class SafeFileTransport:
    """Over kombu's transport for files: it works in the event loop of Celery's worker, as that for Redis does.

    Without it Celery takes its other pool, whose idle processes hold a lock that dies with them.
    """

    client: Any
    cycle: Any
    polling_interval: float
    _deliver: Callable[..., None]
    _on_tick: Callable[[], object] | None = None
    _hub: Any = None

    def register_with_event_loop(self, connection: Any, hub: Any) -> None:
        """Looks for messages at the beginning of each turn of the loop, which turns each ``polling_interval`` at least.

        At the beginning: what is taken in the turn's ticks reaches the pool with the next turn only.
        """
        self._hub, self._on_tick = hub, lambda: hub.call_soon(self._take_all)
        hub.on_tick.add(self._on_tick)
        hub.call_repeatedly(self.polling_interval, _nothing)

    def close_connection(self, connection: Any) -> None:
        """Looks for nothing more."""
        if self._hub is not None:
            self._hub.on_tick.discard(self._on_tick)
        super().close_connection(connection)  # type: ignore[misc]

    def _take_all(self) -> None:
        try:
            while self.client is not None:
                self.cycle.get(self._deliver)
        except Empty:
            return
        except OSError as exc:
            logging.getLogger("sage.worker").warning("messages cannot be read: %s", exc.strerror or exc)


def _nothing() -> None: ...


def register_transports() -> None:
    """Makes the names ``REDIS`` and ``FILES`` known to kombu."""
    try:
        from kombu import transport
    except ImportError as exc:
        raise MissingExtra("a worker of jobs", "queue") from exc
    aliases: dict[str, Any] = transport.TRANSPORT_ALIASES
    aliases[REDIS] = _redis_transport
    aliases[FILES] = _file_transport


def _redis_transport() -> type:
    try:
        from kombu.transport import redis
    except ImportError as exc:
        raise MissingExtra("a worker of jobs", "queue") from exc
    channel = type("Channel", (SafeRedisChannel, redis.Channel), {})
    return type("Transport", (redis.Transport,), {"Channel": channel})


def _file_transport() -> type:
    try:
        from kombu.transport import filesystem
    except ImportError as exc:
        raise MissingExtra("a worker of jobs", "queue") from exc
    channel = type("Channel", (SafeFileChannel, filesystem.Channel), {})
    implements = filesystem.Transport.implements.extend(asynchronous=True)
    members = {"Channel": channel, "implements": implements}
    return type("Transport", (SafeFileTransport, filesystem.Transport), members)


def file_options(folder: Path) -> dict[str, Any]:
    """The options of kombu's transport for messages in ``folder``."""
    messages = str(folder / "messages")
    return {
        "data_folder_in": messages,
        "data_folder_out": messages,
        "control_folder": str(folder / "control"),
        "polling_interval": 0.05,
    }

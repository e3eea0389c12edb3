"""Sends messages to the broker, on a thread of its own, and gives up within a second whatever the broker does.

It writes what kombu writes, without kombu: a message costs a fraction of `apply_async`, and a gateway that keeps
messages in files imports no Celery at all. Nothing is tried again here; the dispatcher does that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from sage.errors import MissingExtra, SageError, Unavailable
from sage.middleware.queue.celery_app import DEFAULT_QUEUE, is_celery_installed, make_broker_folders, tls_options
from sage.middleware.queue.file_messages import names_of, put_file
from sage.middleware.queue.messages import QUEUE_PREFIX, encode_message
from sage.middleware.queue.signing import Signer
from sage.middleware.settings.queue import QueueSettings, check_broker

_SOCKET_SECONDS = 0.4
"""For one answer of the broker: a first message needs two, one when it connects."""
_WITHIN = 0.9


class _Broker(Protocol):
    def send(self, queue: str, messages: list[bytes]) -> None:
        """Raises :class:`OSError` and what its library raises."""

    def size(self, queue: str) -> int:
        """The messages of a queue."""

    def close(self) -> None:
        """Ends its connections."""


class _FileBroker:
    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._folder: Path | None = None

    def send(self, queue: str, messages: list[bytes]) -> None:
        folder = self._messages()
        for message in messages:
            put_file(folder, queue, message)

    def size(self, queue: str) -> int:
        return len(names_of(self._messages(), queue))

    def close(self) -> None:
        self._folder = None

    def _messages(self) -> Path:
        if self._folder is None or not self._folder.is_dir():
            self._folder = make_broker_folders(self._data_dir)
        return self._folder


class _RedisBroker:
    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None

    def send(self, queue: str, messages: list[bytes]) -> None:
        self._ask(lambda client: client.lpush(queue, *messages))

    def size(self, queue: str) -> int:
        return int(self._ask(lambda client: client.llen(queue)))

    def close(self) -> None:
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close()
            self._client = None

    def _ask(self, command: Callable[[Any], Any]) -> Any:
        """Asks once more on a new connection if the old one was closed at the other end."""
        import_redis = _import_redis()
        was_connected = self._client is not None
        try:
            return command(self._connected())
        except import_redis.exceptions.TimeoutError:
            self.close()
            raise
        except (import_redis.exceptions.ConnectionError, OSError):
            self.close()
            if not was_connected:
                raise
        try:
            return command(self._connected())
        except Exception:
            self.close()
            raise

    def _connected(self) -> Any:
        if self._client is None:
            redis = _import_redis()
            tls = tls_options(self._url) if self._url.startswith("rediss://") else {}
            self._client = redis.Redis.from_url(
                self._url,
                socket_timeout=_SOCKET_SECONDS,
                socket_connect_timeout=_SOCKET_SECONDS,
                socket_keepalive=True,
                retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
                single_connection_client=True,
                protocol=2,
                **tls,
            )
        return self._client


def _import_redis() -> Any:
    try:
        import redis
        import redis.backoff
        import redis.retry
    except ImportError as exc:
        raise MissingExtra("queue.broker", "queue") from exc
    return redis


@dataclass(slots=True, eq=False)
class _Call:
    """What the thread is asked: to send ``messages``, or without any for the size of the queue."""

    queue: str
    messages: list[bytes]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[int]


class Publisher:
    """Sends messages for jobs. Starts nothing, and imports nothing, before the first one."""

    def __init__(self, queue: QueueSettings, data_dir: Path, signer: Signer) -> None:
        """Raises :class:`ConfigError` for a broker that is none of ours."""
        check_broker(queue.broker)
        self._signer = signer
        self._broker: _Broker = (
            _FileBroker(data_dir) if queue.broker is None else _RedisBroker(queue.broker.get_secret_value())
        )
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stuck = 0
        """Calls whose callers have given up while the thread is still at them."""
        self._is_installed = False

    async def publish(self, job_ids: Sequence[str], queue: str = DEFAULT_QUEUE) -> None:
        """Sends a message for each job.

        Raises :class:`Unavailable`: ``broker_unavailable`` within a second, when a message may have been sent all the
        same, and ``missing_extra``.
        """
        if job_ids:
            await self._ask(
                QUEUE_PREFIX + queue, [encode_message(job_id, self._signer.sign(job_id), queue) for job_id in job_ids]
            )

    async def depth(self, queue: str = DEFAULT_QUEUE) -> int:
        """How many messages of a queue wait at the broker. Raises as :meth:`publish`."""
        return await self._ask(QUEUE_PREFIX + queue, [])

    async def close(self) -> None:
        """Ends the thread, after what it is at."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            await asyncio.to_thread(thread.join, _WITHIN)

    async def _ask(self, queue: str, messages: list[bytes]) -> int:
        self._is_installed = self._is_installed or is_celery_installed()
        if not self._is_installed:
            missing = MissingExtra("the queue of jobs", "queue")
            raise Unavailable(missing.message, code=missing.code)
        if self._stuck:
            raise _unavailable("it does not answer")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        answer.add_done_callback(_look_at)
        self._calls.put(_Call(queue, messages, loop, answer))
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="sage-publisher", daemon=True)
            self._thread.start()
        try:
            async with asyncio.timeout(_WITHIN):
                return await asyncio.shield(answer)
        except TimeoutError:
            if not answer.done():
                self._stuck += 1
                answer.add_done_callback(self._unstuck)
            raise _unavailable("it does not answer") from None
        except SageError:
            raise
        except Exception as exc:
            raise _unavailable(_cause(exc)) from exc

    def _unstuck(self, answer: asyncio.Future[int]) -> None:
        self._stuck -= 1

    def _serve(self) -> None:
        following: _Call | None = None
        while (call := following or self._calls.get()) is not None:
            group, following = self._group(call)
            self._do(group)
        self._broker.close()

    def _group(self, first: _Call) -> tuple[list[_Call], _Call | None]:
        """``first`` and what waits behind it and can be sent with it; and the call after those, if it is taken."""
        group = [first]
        with contextlib.suppress(Empty):
            while first.messages:
                call = self._calls.get_nowait()
                if call is None:
                    self._calls.put(None)
                    break
                if call.queue != first.queue or not call.messages:
                    return group, call
                group.append(call)
        return group, None

    def _do(self, group: list[_Call]) -> None:
        queue, size, error = group[0].queue, 0, None
        try:
            if group[0].messages:
                self._broker.send(queue, [message for call in group for message in call.messages])
            else:
                size = self._broker.size(queue)
        except Exception as exc:
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            group[0].loop.call_soon_threadsafe(_settle, group, size, error)


def _settle(group: list[_Call], size: int, error: Exception | None) -> None:
    for call in group:
        if call.answer.cancelled():
            continue
        if error is None:
            call.answer.set_result(size)
        else:
            call.answer.set_exception(error)


def _look_at(answer: asyncio.Future[int]) -> None:
    """So that asyncio does not complain about an error whose caller has given up."""
    if not answer.cancelled():
        answer.exception()


def _cause(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return f"{type(exc).__name__}: {exc}"[:200]


def _unavailable(cause: str) -> Unavailable:
    return Unavailable(f"the broker of jobs (queue.broker) takes no messages now: {cause}", code="broker_unavailable")

"""One member of a Kafka consumer group: it joins, polls, pauses, commits and leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from sage.api.kafka_options import KafkaOptions
from sage.api.kafka_package import load_aiokafka
from sage.errors import UpstreamFailed

_log = logging.getLogger(__name__)
_POLL = 0.5
"""Seconds that one poll for records lasts at most."""
_PAUSED_POLL = 0.1


class BrokerAway(Exception):
    """A broker cannot be used now. ``may_return``: another attempt may succeed."""

    def __init__(self, cause: BaseException, may_return: bool) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.may_return = may_return


class GroupConsumer:
    """All methods run on one event loop; any thread may read ``state`` and ``pauses``. ``before_revocation`` is awaited
    before partitions go to other members of the group."""

    def __init__(self, options: KafkaOptions, before_revocation: Callable[[], Awaitable[None]]) -> None:
        self._options = options
        self._before_revocation = before_revocation
        self._consumer: Any = None
        """An ``aiokafka.AIOKafkaConsumer``; ``None`` means that it is not in the group."""
        self._last_contact = 0.0
        self.state = "connecting"
        self.pauses = 0

    @property
    def is_member(self) -> bool:
        return self._consumer is not None

    async def join(self, seconds: float) -> None:
        """Makes one attempt. Raises :class:`BrokerAway`."""
        errors = load_aiokafka().errors
        self._consumer = self._make_consumer()
        try:
            await asyncio.wait_for(self._consumer.start(), seconds)
        except (errors.KafkaError, OSError, TimeoutError) as exc:
            await self.leave()
            may_return = not isinstance(exc, errors.KafkaError) or _is_temporary(exc)
            raise BrokerAway(exc, may_return) from exc
        self._mark_connected()

    def _make_consumer(self) -> Any:
        arguments = {"auto_offset_reset": "earliest", **self._options.consumer, "enable_auto_commit": False}
        servers = self._options.bootstrap_servers
        servers = servers if isinstance(servers, str) else list(servers)
        consumer = load_aiokafka().AIOKafkaConsumer(
            bootstrap_servers=servers, group_id=self._options.group_id, **arguments
        )
        consumer.subscribe(list(self._options.topics), listener=_listener(self._before_revocation))
        return consumer

    async def leave(self) -> None:
        try:
            await asyncio.wait_for(self._consumer.stop(), self._options.answer_timeout)
        except (Exception, asyncio.CancelledError) as exc:  # aiokafka 0.14 lets the end of its own tasks out
            _log.warning("leaving the group '%s' failed, its brokers will notice that: %r", self._options.group_id, exc)
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(self._consumer._client.close(), self._options.answer_timeout)
        finally:
            self._consumer = None

    async def poll(self, limit: int, interruption: asyncio.Event) -> list[Any]:
        """Up to ``limit`` records. Returns none after :data:`_POLL` seconds, and when ``interruption`` is set, which it
        clears. Raises :class:`BrokerAway` for errors that may pass, :class:`UpstreamFailed` for others."""
        errors = load_aiokafka().errors
        poll = asyncio.ensure_future(self._consumer.getmany(timeout_ms=int(_POLL * 1000), max_records=limit))
        interrupted = asyncio.ensure_future(interruption.wait())
        await asyncio.wait((poll, interrupted), timeout=2 * _POLL, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        interruption.clear()
        poll.cancel()  # does nothing to a poll that is done; the records of a cancelled one were not committed
        try:
            partitions = await poll
        except asyncio.CancelledError:
            return []
        except errors.KafkaError as exc:
            if not _is_temporary(exc):
                topics = ", ".join(self._options.topics)
                raise UpstreamFailed(f"Kafka refuses records of {topics}: {type(exc).__name__}: {exc}") from exc
            self.state = "reconnecting"
            raise BrokerAway(exc, may_return=True) from exc
        records = [record for partition in partitions.values() for record in partition]
        if records:
            self._mark_connected()
        return records

    def pause(self) -> None:
        if partitions := self._consumer.assignment() - self._consumer.paused():
            self._consumer.pause(*partitions)
            self.pauses += 1

    async def poll_paused(self) -> None:
        """Gets no records while all partitions are paused, but keeps the member in its group."""
        with suppress(Exception):
            await asyncio.wait_for(self._consumer.getmany(timeout_ms=0), _PAUSED_POLL)

    def resume(self) -> None:
        if partitions := self._consumer.paused() & self._consumer.assignment():
            self._consumer.resume(*partitions)

    def assignment(self) -> set[Any]:
        """The partitions (``aiokafka.TopicPartition``) that it reads."""
        partitions: set[Any] = self._consumer.assignment()
        return partitions

    async def commit(self, offsets: Mapping[Any, int]) -> bool:
        """Whether the broker took them."""
        try:
            await asyncio.wait_for(self._consumer.commit(dict(offsets)), self._options.answer_timeout)
        except Exception as exc:
            self.state = "reconnecting"
            _log.warning("a commit for the group '%s' failed: %r", self._options.group_id, exc)
            return False
        return True

    async def check_broker(self) -> None:
        """Finds out whether a broker that has had no records for a while still answers, so that ``state`` is right."""
        if time.monotonic() - self._last_contact < self._options.answer_timeout:
            return
        try:
            await asyncio.wait_for(self._consumer.topics(), self._options.answer_timeout)
        except Exception:
            self.state = "reconnecting"
        else:
            self._mark_connected()

    def _mark_connected(self) -> None:
        self.state, self._last_contact = "connected", time.monotonic()


def _is_temporary(exc: Any) -> bool:
    """Whether a broker that fails with this error may answer later."""
    return bool(getattr(exc, "retriable", False))


def _listener(before_revocation: Callable[[], Awaitable[None]]) -> Any:
    class Listener(load_aiokafka().ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: Any) -> None:
            if revoked:
                await before_revocation()

        def on_partitions_assigned(self, assigned: Any) -> None:
            pass

    return Listener()

"""A Kafka topic as a source: at least once, committed when records are done, paused while the pipeline is full."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from threading import Lock
from typing import Any

from sage.api.kafka_offsets import KafkaOffsets
from sage.api.kafka_options import KafkaOptions
from sage.api.kafka_records import KafkaRecord, raw_record
from sage.errors import Unavailable, UpstreamFailed
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.records import StreamRecord, Ticket
from sage.kernels.runtime.streams.source_task import SourceTask

_log = logging.getLogger(__name__)
_POLL = 0.5
"""Seconds that one poll for records lasts at most."""
_PAUSED_POLL = 0.1
_BACKOFF = 0.5
"""Seconds before a broker that failed is asked again."""


class KafkaSource:
    """One reading, by a consumer of its own. All of it runs on the thread of its task, on an event loop of its own;
    other threads only wake that loop, mark records as done and read :meth:`describe`."""

    may_block = False

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._runner = asyncio.Runner()
        self._consumer: Any = None
        self._offsets = KafkaOffsets()
        self._ticket_lock = Lock()
        self._wakeup = asyncio.Event()
        """Set when the source must stop, and when there is room again while it waits for that."""
        self._waits_for_room = False
        self._state = "connecting"
        self._last_contact = 0.0
        self._committed_at = 0.0
        self._pauses = 0
        self._rebalances = 0

    def open(self, callers: Callers) -> None:
        pass

    def read(self, task: SourceTask) -> None:
        self._runner.run(self._read(task))

    def finish(self, task: SourceTask) -> None:
        self._runner.run(self._finish(task))

    def close(self) -> None:
        try:
            if self._consumer is not None:
                self._runner.run(self._leave())
        finally:
            self._runner.close()
            self._state = "closed"

    def describe(self) -> dict[str, Any]:
        return {
            "state": self._state,
            "under_way": self._offsets.pending(),
            "committed": self._offsets.describe(),
            "pauses": self._pauses,
            "rebalances": self._rebalances,
        }

    async def _read(self, task: SourceTask) -> None:
        loop = asyncio.get_running_loop()
        task.on_stop(lambda: loop.call_soon_threadsafe(self._wakeup.set))
        task.on_room(lambda: self._waits_for_room and loop.call_soon_threadsafe(self._wakeup.set))
        if not await self._connect(task):
            return
        while not task.stopping:
            room = task.room()
            if room <= 0:
                await self._wait_for_room()
            else:
                self._resume()
                await self._put(task, await self._poll(task, room))
            await self._commit_in_time()

    # The connection

    async def _connect(self, task: SourceTask) -> bool:
        """Joins the group. ``False`` means that the source must stop before a broker was reached."""
        from aiokafka import errors

        end = time.monotonic() + self._options.start_timeout
        while not task.stopping:
            self._consumer = self._make_consumer()
            try:
                await asyncio.wait_for(self._consumer.start(), max(end - time.monotonic(), 0.1))
            except (errors.KafkaError, OSError, TimeoutError) as exc:
                consumer, self._consumer = self._consumer, None
                await self._stop_consumer(consumer)
                is_final = isinstance(exc, errors.KafkaError) and not _is_temporary(exc)
                if is_final or time.monotonic() >= end - _BACKOFF:
                    servers, error = self._options.bootstrap_servers, f"{type(exc).__name__}: {exc}"
                    raise Unavailable(
                        f"no Kafka broker answers at {servers!r} ({error}); "
                        "is it running, and is the address right (bootstrap_servers)?"
                    ) from exc
                await self._sleep(_BACKOFF)
            else:
                self._mark_connected()
                self._committed_at = time.monotonic()
                return True
        return False

    def _make_consumer(self) -> Any:
        from aiokafka import AIOKafkaConsumer

        arguments = {"auto_offset_reset": "earliest", **self._options.consumer, "enable_auto_commit": False}
        servers = self._options.bootstrap_servers
        servers = servers if isinstance(servers, str) else list(servers)
        consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=self._options.group_id, **arguments)
        consumer.subscribe(list(self._options.topics), listener=_listener(self))
        return consumer

    async def _stop_consumer(self, consumer: Any) -> None:
        try:
            await asyncio.wait_for(consumer.stop(), self._options.answer_timeout)
        except (Exception, asyncio.CancelledError) as exc:  # aiokafka 0.14 lets the end of its own tasks out
            _log.warning("leaving the group '%s' failed, its brokers will notice that: %r", self._options.group_id, exc)
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(consumer._client.close(), self._options.answer_timeout)

    async def _leave(self) -> None:
        await self._commit()
        await self._stop_consumer(self._consumer)

    def _mark_connected(self) -> None:
        self._state, self._last_contact = "connected", time.monotonic()

    async def _check_broker(self) -> None:
        """Finds out whether a broker that has no records is still there, so that the metrics show it."""
        if time.monotonic() - self._last_contact < self._options.answer_timeout:
            return
        try:
            await asyncio.wait_for(self._consumer.topics(), self._options.answer_timeout)
        except Exception:
            self._state = "reconnecting"
        else:
            self._mark_connected()

    # Reading

    async def _poll(self, task: SourceTask, room: int) -> list[Any]:
        """Up to ``room`` records. Returns none after :data:`_POLL` seconds, when the source must stop, and when the
        broker is away."""
        from aiokafka import errors

        poll = asyncio.ensure_future(self._consumer.getmany(timeout_ms=int(_POLL * 1000), max_records=room))
        wakeup = asyncio.ensure_future(self._wakeup.wait())
        await asyncio.wait((poll, wakeup), timeout=2 * _POLL, return_when=asyncio.FIRST_COMPLETED)
        wakeup.cancel()
        self._wakeup.clear()
        poll.cancel()  # does nothing to a poll that is done; the records of a cancelled one were not committed
        try:
            partitions = await poll
        except asyncio.CancelledError:
            partitions = {}
        except errors.KafkaError as exc:
            if not _is_temporary(exc):
                topics = ", ".join(self._options.topics)
                raise UpstreamFailed(f"Kafka refuses records of {topics}: {type(exc).__name__}: {exc}") from exc
            self._state = "reconnecting"
            await self._sleep(_BACKOFF)
            return []
        records = [record for partition in partitions.values() for record in partition]
        if records:
            self._mark_connected()
        elif not task.stopping:
            await self._check_broker()
        return records

    async def _put(self, task: SourceTask, messages: list[Any]) -> None:
        from aiokafka import TopicPartition

        records = []
        for message in messages:
            done = self._offsets.add(TopicPartition(message.topic, message.partition), message.offset)
            record = raw_record(message)
            try:
                self._decode(record)
            except Exception as exc:
                await asyncio.to_thread(task.refuse, record, exc)
                done()
                continue
            records.append(StreamRecord(record, ticket=Ticket(done, self._ticket_lock)))
        if records:
            task.put_now(records)

    def _decode(self, record: KafkaRecord) -> None:
        if record["key"] is not None:
            record["key"] = self._options.key_deserializer(record["key"])
        if record["value"] is not None:
            record["value"] = self._options.value_deserializer(record["value"])

    async def _wait_for_room(self) -> None:
        """The pipeline is full: pauses the partitions until there is room."""
        self._pause()
        self._waits_for_room = True
        await self._sleep(_PAUSED_POLL)
        self._waits_for_room = False
        await self._poll_paused()

    async def _poll_paused(self) -> None:
        """Gets no records, but keeps the consumer in its group."""
        with suppress(Exception):
            await asyncio.wait_for(self._consumer.getmany(timeout_ms=0), _PAUSED_POLL)

    def _pause(self) -> None:
        if partitions := self._consumer.assignment() - self._consumer.paused():
            self._consumer.pause(*partitions)
            self._pauses += 1

    def _resume(self) -> None:
        if partitions := self._consumer.paused() & self._consumer.assignment():
            self._consumer.resume(*partitions)

    async def _sleep(self, seconds: float) -> None:
        """Ends early when the source must stop, or when it waits for room and there is some."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wakeup.wait(), seconds)
        self._wakeup.clear()

    async def _finish(self, task: SourceTask) -> None:
        if self._consumer is None:
            return
        while not task.aborted and self._offsets.pending():
            self._pause()
            await self._poll_paused()
            await self._sleep(0.02)
            await self._commit_in_time()

    # Commits

    async def _commit_in_time(self) -> None:
        if time.monotonic() - self._committed_at >= self._options.commit_interval:
            await self._commit()

    async def _commit(self) -> None:
        """When it fails, the next commit tries again; without another one, the next owner of the partition gets the
        records again."""
        self._committed_at = time.monotonic()
        offsets = self._offsets.to_commit(self._consumer.assignment())
        if not offsets:
            return
        try:
            await asyncio.wait_for(self._consumer.commit(offsets), self._options.answer_timeout)
        except Exception as exc:
            self._state = "reconnecting"
            _log.warning("a commit for the group '%s' failed: %r", self._options.group_id, exc)
            return
        self._offsets.committed(offsets)

    async def revoked(self) -> None:
        """Before its partitions go to other consumers: waits for records in the pipeline, and commits those that are
        done."""
        self._rebalances += 1
        end = time.monotonic() + self._options.revoke_timeout
        while time.monotonic() < end and self._offsets.pending():  # noqa: ASYNC110 (a rebalance is seldom)
            await asyncio.sleep(0.01)
        await self._commit()
        self._offsets.clear()


def _is_temporary(exc: Any) -> bool:
    """Whether a broker that fails with this error may answer later."""
    return bool(getattr(exc, "retriable", False))


def _listener(source: KafkaSource) -> Any:
    from aiokafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: Any) -> None:
            if revoked:
                await source.revoked()

        def on_partitions_assigned(self, assigned: Any) -> None:
            pass

    return Listener()

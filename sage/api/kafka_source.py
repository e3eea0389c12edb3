"""A Kafka topic as a source: at least once, committed when records are done, paused while the pipeline is full."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from threading import Lock
from typing import Any

from sage.api.kafka_consumer import BrokerAway, GroupConsumer
from sage.api.kafka_offsets import KafkaOffsets
from sage.api.kafka_options import KafkaOptions
from sage.api.kafka_package import load_aiokafka
from sage.api.kafka_records import KafkaRecord, raw_record
from sage.errors import Unavailable
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.records import StreamRecord, Ticket
from sage.kernels.runtime.streams.source_task import SourceTask

_BACKOFF = 0.5
"""Seconds before a broker that failed is asked again."""
_ROOM_CHECK = 0.1
"""Seconds between two looks for room while the pipeline is full; usually a reader wakes the source before."""


class KafkaSource:
    """One reading, by a consumer of its own. All of it runs on the thread of its task, on an event loop of its own;
    other threads only wake that loop, mark records as done and read :meth:`describe`."""

    may_block = False

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._runner = asyncio.Runner()
        self._consumer = GroupConsumer(options, self._before_revocation)
        self._offsets = KafkaOffsets()
        self._ticket_lock = Lock()
        self._wakeup = asyncio.Event()
        """Set when the source must stop, and when there is room again while it waits for that."""
        self._waits_for_room = False
        self._is_closed = False
        self._committed_at = 0.0
        self._rebalances = 0

    def open(self, callers: Callers) -> None:
        pass

    def read(self, task: SourceTask) -> None:
        self._runner.run(self._read(task))

    def finish(self, task: SourceTask) -> None:
        self._runner.run(self._finish(task))

    def close(self) -> None:
        try:
            if self._consumer.is_member:
                self._runner.run(self._leave())
        finally:
            self._runner.close()
            self._is_closed = True

    def describe(self) -> dict[str, Any]:
        return {
            "state": "closed" if self._is_closed else self._consumer.state,
            "under_way": self._offsets.pending(),
            "committed": self._offsets.describe(),
            "pauses": self._consumer.pauses,
            "rebalances": self._rebalances,
        }

    # Reading

    async def _read(self, task: SourceTask) -> None:
        loop = asyncio.get_running_loop()
        task.on_stop(lambda: loop.call_soon_threadsafe(self._wakeup.set))
        task.on_room(lambda: self._waits_for_room and loop.call_soon_threadsafe(self._wakeup.set))
        if not await self._join(task):
            return
        while not task.stopping:
            room = task.room()
            if room <= 0:
                await self._wait_for_room()
            else:
                await self._read_some(task, room)
            await self._commit_in_time()

    async def _join(self, task: SourceTask) -> bool:
        """``False`` means that the source must stop before a broker was reached."""
        end = time.monotonic() + self._options.start_timeout
        while not task.stopping:
            try:
                await self._consumer.join(max(end - time.monotonic(), 0.1))
            except BrokerAway as exc:
                if not exc.may_return or time.monotonic() >= end - _BACKOFF:
                    raise Unavailable(
                        f"no Kafka broker answers at {self._options.bootstrap_servers!r} ({exc}); "
                        "is it running, and is the address right (bootstrap_servers)?"
                    ) from exc.__cause__
                await self._sleep(_BACKOFF)
            else:
                self._committed_at = time.monotonic()
                return True
        return False

    async def _read_some(self, task: SourceTask, room: int) -> None:
        self._consumer.resume()
        try:
            messages = await self._consumer.poll(room, self._wakeup)
        except BrokerAway:
            await self._sleep(_BACKOFF)
            return
        if messages:
            await self._put(task, messages)
        elif not task.stopping:
            await self._consumer.check_broker()

    async def _put(self, task: SourceTask, messages: list[Any]) -> None:
        make_partition = load_aiokafka().TopicPartition
        records = []
        for message in messages:
            done = self._offsets.add(make_partition(message.topic, message.partition), message.offset)
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
        """The pipeline is full: the partitions pause."""
        self._consumer.pause()
        self._waits_for_room = True
        await self._sleep(_ROOM_CHECK)
        self._waits_for_room = False
        await self._consumer.poll_paused()

    async def _sleep(self, seconds: float) -> None:
        """Ends early when the source must stop, or when it waits for room and there is some."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wakeup.wait(), seconds)
        self._wakeup.clear()

    async def _finish(self, task: SourceTask) -> None:
        while self._consumer.is_member and not task.aborted and self._offsets.pending():
            self._consumer.pause()
            await self._consumer.poll_paused()
            await self._sleep(0.02)
            await self._commit_in_time()

    async def _leave(self) -> None:
        await self._commit()
        await self._consumer.leave()

    # Commits

    async def _commit_in_time(self) -> None:
        if time.monotonic() - self._committed_at >= self._options.commit_interval:
            await self._commit()

    async def _commit(self) -> None:
        """When it fails, the next commit tries again; without another one, the next owner of the partition gets the
        records again."""
        self._committed_at = time.monotonic()
        offsets = self._offsets.to_commit(self._consumer.assignment())
        if offsets and await self._consumer.commit(offsets):
            self._offsets.committed(offsets)

    async def _before_revocation(self) -> None:
        """Waits for records in the pipeline, and commits those that are done, before the partitions go to others."""
        self._rebalances += 1
        end = time.monotonic() + self._options.revoke_timeout
        while time.monotonic() < end and self._offsets.pending():  # noqa: ASYNC110 (a rebalance is seldom)
            await asyncio.sleep(0.01)
        await self._commit()
        self._offsets.clear()

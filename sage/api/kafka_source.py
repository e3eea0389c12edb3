"""A Kafka topic as a source: at least once, committed when it is done, paused while the pipeline is full."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import orjson

from sage.api.kafka_records import Decode, KafkaRecord, PartitionProgress, decode_key, decode_value, raw_record
from sage.errors import InvalidRequest, MissingExtra, Unavailable, UpstreamFailed
from sage.kernels.runtime.streams.channels import StreamRecord, Ticket
from sage.kernels.runtime.streams.source_task import SourceTask

if TYPE_CHECKING:
    from sage.kernels.runtime.streams.workers import Callers

_log = logging.getLogger(__name__)
_POLL = 0.5
"""Seconds that one question for records lasts."""
_BACKOFF = 0.5
_OURS = ("loop", "enable_auto_commit", "key_deserializer", "value_deserializer", "group_id", "bootstrap_servers")


@dataclass(frozen=True)
class KafkaOptions:
    """``commit_interval``: seconds between commits; ``start_timeout``: how long a broker that cannot be reached is
    tried at the start; ``revoke_timeout``: how long a rebalance waits for what is under way; ``answer_timeout``: how
    long the broker has for what is asked of it beside records, and how long there are none before it is asked whether
    it lives. ``consumer``: further arguments of ``aiokafka.AIOKafkaConsumer``."""

    bootstrap_servers: str | Sequence[str]
    topics: tuple[str, ...]
    group_id: str
    commit_interval: float = 1.0
    start_timeout: float = 30.0
    revoke_timeout: float = 10.0
    answer_timeout: float = 5.0
    value_deserializer: Decode = decode_value
    key_deserializer: Decode = decode_key
    consumer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.topics or not all(isinstance(topic, str) and topic for topic in self.topics):
            raise InvalidRequest(f"topic must be a name or a list of names, not {self.topics!r}", param="topic")
        if not isinstance(self.group_id, str) or not self.group_id:
            raise InvalidRequest("a Kafka source needs a group_id: what it has done is committed for that group")
        if self.consumer.get("enable_auto_commit"):
            raise InvalidRequest("enable_auto_commit would lose records; a source commits when they are done")
        _check_consumer(self.consumer)


def kafka_options(servers: Any, topic: Any, group_id: Any, options: dict[str, Any]) -> KafkaOptions:
    """Reads ``options``: ours are taken out, all others are the consumer's."""
    own = {word for word in inspect.signature(KafkaOptions).parameters if word not in ("topics", "consumer")}
    ours = {word: value for word, value in options.items() if word in own}
    if ours.get("value_deserializer") == "json":
        ours["value_deserializer"] = orjson.loads
    consumer = {word: value for word, value in options.items() if word not in own}
    topics = (topic,) if isinstance(topic, str) else tuple(topic)
    return KafkaOptions(servers, topics, group_id, **ours, consumer=consumer)


def _check_consumer(options: Mapping[str, Any]) -> None:
    try:
        from aiokafka import AIOKafkaConsumer
    except ImportError:
        raise MissingExtra("a Kafka source", "kafka") from None
    known = [word for word in inspect.signature(AIOKafkaConsumer).parameters if word not in ("topics", *_OURS)]
    for word in options:
        if word not in known and word != "enable_auto_commit":
            near = difflib.get_close_matches(word, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InvalidRequest(f"a Kafka source has no option '{word}'{hint}", param=word)


class KafkaSource:
    """One reading, by a consumer of its own."""

    may_block = False

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._runner = asyncio.Runner()
        self._consumer: Any = None
        self._ledgers: dict[Any, PartitionProgress] = {}
        self._lock = Lock()
        self._wake = asyncio.Event()
        self._waiting = False
        self._state = "connecting"
        self._heard = 0.0
        self._committed_at = 0.0
        self._paused = 0
        self._rebalances = 0

    def open(self, callers: Callers) -> None:
        pass

    def read(self, feed: SourceTask) -> None:
        self._runner.run(self._read(feed))

    def finish(self, feed: SourceTask) -> None:
        self._runner.run(self._finish(feed))

    def close(self) -> None:
        try:
            if self._consumer is not None:
                self._runner.run(self._leave())
        finally:
            self._runner.close()
            self._state = "closed"

    def describe(self) -> dict[str, Any]:
        committed = {f"{tp.topic}/{tp.partition}": found.committed for tp, found in list(self._ledgers.items())}
        return {
            "state": self._state,
            "under_way": self._under_way(),
            "committed": committed,
            "pauses": self._paused,
            "rebalances": self._rebalances,
        }

    def _under_way(self) -> int:
        return sum(found.under_way for found in list(self._ledgers.values()))

    # Reading

    async def _read(self, feed: SourceTask) -> None:
        loop = asyncio.get_running_loop()
        feed.on_stop(lambda: loop.call_soon_threadsafe(self._wake.set))
        feed.on_room(lambda: self._waiting and loop.call_soon_threadsafe(self._wake.set))
        if not await self._connect(feed):
            return
        while not feed.stopping:
            room = feed.room()
            if room <= 0:
                await self._rest()
            else:
                self._resume()
                await self._give_out(feed, await self._asked(feed, room))
            await self._commit_in_time()

    async def _connect(self, feed: SourceTask) -> bool:
        """Whether a broker was reached; false: it shall stop."""
        from aiokafka import errors

        options, until = self._options, time.monotonic() + self._options.start_timeout
        while not feed.stopping:
            self._consumer = self._make_consumer()
            try:
                await asyncio.wait_for(self._consumer.start(), max(until - time.monotonic(), 0.1))
            except (errors.KafkaError, OSError, TimeoutError) as exc:
                await self._drop_consumer()
                if time.monotonic() >= until - _BACKOFF or (isinstance(exc, errors.KafkaError) and not _passes(exc)):
                    raise Unavailable(
                        f"no Kafka broker answers at {options.bootstrap_servers!r} ({type(exc).__name__}: {exc}); "
                        "is it running, and the address right (bootstrap_servers)?"
                    ) from exc
                await self._sleep(_BACKOFF)
            else:
                self._state, self._heard, self._committed_at = "connected", time.monotonic(), time.monotonic()
                return True
        return False

    def _make_consumer(self) -> Any:
        from aiokafka import AIOKafkaConsumer

        given = {"auto_offset_reset": "earliest", **self._options.consumer, "enable_auto_commit": False}
        servers = self._options.bootstrap_servers
        servers = servers if isinstance(servers, str) else list(servers)
        consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=self._options.group_id, **given)
        consumer.subscribe(list(self._options.topics), listener=_listener(self))
        return consumer

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        await self._stopped(consumer)

    async def _stopped(self, consumer: Any) -> None:
        try:
            await asyncio.wait_for(consumer.stop(), self._options.answer_timeout)
        except (Exception, asyncio.CancelledError) as exc:  # aiokafka 0.14 lets the end of its own tasks out
            _log.warning("leaving the group '%s' failed, it finds out by itself: %r", self._options.group_id, exc)
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(consumer._client.close(), self._options.answer_timeout)

    async def _asked(self, feed: SourceTask, room: int) -> list[Any]:
        """Up to ``room`` records; none after :data:`_POLL` seconds, when it shall stop or the broker is away."""
        from aiokafka import errors

        asking = asyncio.ensure_future(self._consumer.getmany(timeout_ms=int(_POLL * 1000), max_records=room))
        stopping = asyncio.ensure_future(self._wake.wait())
        await asyncio.wait((asking, stopping), timeout=2 * _POLL, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self._wake.clear()
        asking.cancel()  # does nothing to one that is done; what a cancelled one held was not committed
        try:
            found = await asking
        except asyncio.CancelledError:
            found = {}
        except errors.KafkaError as exc:
            if not _passes(exc):
                raise UpstreamFailed(
                    f"Kafka refuses records of {', '.join(self._options.topics)}: {type(exc).__name__}: {exc}"
                ) from exc
            self._state = "reconnecting"
            await self._sleep(_BACKOFF)
            return []
        records = [record for partition in found.values() for record in partition]
        if records:
            self._state, self._heard = "connected", time.monotonic()
        elif not feed.stopping:
            await self._probe()
        return records

    async def _give_out(self, feed: SourceTask, found: list[Any]) -> None:
        from aiokafka import TopicPartition

        records = []
        for raw in found:
            ledger = self._ledgers.setdefault(TopicPartition(raw.topic, raw.partition), PartitionProgress())
            ledger.give_out(raw.offset)
            record = raw_record(raw)
            try:
                self._decode(record)
            except Exception as exc:
                await asyncio.to_thread(feed.refuse, record, exc)
                ledger.done(raw.offset)
                continue
            records.append(StreamRecord(record, ticket=Ticket(partial(ledger.done, raw.offset), self._lock)))
        if records:
            feed.push(records)

    def _decode(self, record: KafkaRecord) -> None:
        if record["key"] is not None:
            record["key"] = self._options.key_deserializer(record["key"])
        if record["value"] is not None:
            record["value"] = self._options.value_deserializer(record["value"])

    async def _rest(self) -> None:
        """The pipeline is full: the partitions pause, until there is room. Asked nevertheless, the consumer stays in
        its group."""
        self._pause()
        self._waiting = True
        await self._sleep(0.1)
        self._waiting = False
        with suppress(Exception):
            await asyncio.wait_for(self._consumer.getmany(timeout_ms=0), 0.1)

    def _pause(self) -> None:
        if fresh := self._consumer.assignment() - self._consumer.paused():
            self._consumer.pause(*fresh)
            self._paused += 1

    def _resume(self) -> None:
        if paused := self._consumer.paused() & self._consumer.assignment():
            self._consumer.resume(*paused)

    async def _sleep(self, seconds: float) -> None:
        """Shorter, when there is room again or it shall stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _probe(self) -> None:
        """Finds out whether a broker without records is there at all, for who asks for the state."""
        if time.monotonic() - self._heard < self._options.answer_timeout:
            return
        try:
            await asyncio.wait_for(self._consumer.topics(), self._options.answer_timeout)
        except Exception:
            self._state = "reconnecting"
        else:
            self._state, self._heard = "connected", time.monotonic()

    # What is done

    async def _commit_in_time(self) -> None:
        if time.monotonic() - self._committed_at >= self._options.commit_interval:
            await self._commit()

    async def _commit(self) -> None:
        """What cannot be committed now is tried again, or given again to whoever has the partition then."""
        self._committed_at = time.monotonic()
        mine = self._consumer.assignment()
        found = {tp: (one, offset) for tp, one in self._ledgers.items() if (offset := one.to_commit()) is not None}
        offsets = {tp: offset for tp, (_, offset) in found.items() if tp in mine}
        if not offsets:
            return
        try:
            await asyncio.wait_for(self._consumer.commit(offsets), self._options.answer_timeout)
        except Exception as exc:
            self._state = "reconnecting"
            _log.warning("a commit for the group '%s' failed: %r", self._options.group_id, exc)
            return
        for tp, offset in offsets.items():
            found[tp][0].committed = offset

    async def _finish(self, feed: SourceTask) -> None:
        if self._consumer is None:
            return
        while not feed.aborted and self._under_way():
            self._pause()
            with suppress(Exception):
                await asyncio.wait_for(self._consumer.getmany(timeout_ms=0), 0.1)
            await self._sleep(0.02)
            await self._commit_in_time()

    async def revoked(self) -> None:
        """Before its partitions go to others: commits what is done of them, having waited for what is under way."""
        self._rebalances += 1
        until = time.monotonic() + self._options.revoke_timeout
        while time.monotonic() < until and self._under_way():  # noqa: ASYNC110 (a rebalance is seldom)
            await asyncio.sleep(0.01)
        await self._commit()
        self._ledgers = {}

    async def _leave(self) -> None:
        await self._commit()
        await self._stopped(self._consumer)


def _passes(exc: Any) -> bool:
    """Whether a broker that fails so may answer later."""
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

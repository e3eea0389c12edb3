"""Records of Kafka as functions get them, and which of them may be committed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import orjson

Decode = Callable[[bytes], Any]


class KafkaRecord(dict[str, Any]):
    """``{value, key, topic, partition, offset, timestamp}``. When the value is a mapping, its fields can be had of the
    record too (``record["content"]``), unless they are named as one of these. ``headers`` are ``(name, bytes)``."""

    headers: tuple[tuple[str, bytes], ...] = ()

    def __missing__(self, name: str) -> Any:
        value = self["value"]
        if isinstance(value, Mapping):
            return value[name]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(self["value"], Mapping) and name in self["value"])

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


def raw_record(found: Any) -> KafkaRecord:
    """With key and value as they came: bytes."""
    record = KafkaRecord(
        value=found.value,
        key=found.key,
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        timestamp=found.timestamp,
    )
    if found.headers:
        record.headers = tuple(found.headers)
    return record


def decode_value(raw: bytes) -> Any:
    """JSON where it is JSON, else text where it is UTF-8, else the bytes."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return decode_key(raw)


def decode_key(raw: bytes) -> str | bytes:
    """Text where it is UTF-8, else the bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


class PartitionProgress:
    """What of one partition was given out and what of it is done, in any order and from any thread."""

    def __init__(self) -> None:
        self._open: deque[int] = deque()
        self._done: set[int] = set()
        self._lock = threading.Lock()
        self._next: int | None = None
        self.committed: int | None = None

    def give_out(self, offset: int) -> None:
        """In rising order."""
        with self._lock:
            self._open.append(offset)

    def done(self, offset: int) -> None:
        with self._lock:
            self._done.add(offset)
            while self._open and self._open[0] in self._done:
                last = self._open.popleft()
                self._done.remove(last)
                self._next = last + 1

    @property
    def under_way(self) -> int:
        return len(self._open)

    def to_commit(self) -> int | None:
        """The offset below which all is done, when it is another than was committed."""
        return self._next if self._next != self.committed else None

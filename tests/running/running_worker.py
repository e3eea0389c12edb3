"""A real worker process over files or a real Redis-protocol server, and a gateway whose jobs the test writes down."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from project import ROOT
from pydantic import SecretStr
from valkey_server import Valkey, valkey
from worker_gateway import KEY, ScriptedJob, WorkerGateway

from sage.middleware.queue.publisher import Publisher
from sage.middleware.queue.worker_options import ENVIRONMENT, WorkerOptions, new_worker_name
from sage.middleware.settings.queue import QueueSettings


@dataclass
class RunningWorker:
    gateway: WorkerGateway
    data_dir: Path
    queue: QueueSettings
    server: Valkey | None
    concurrency: int
    process: subprocess.Popen[str] = field(init=False)
    log: Path = field(init=False)

    def start(self) -> None:
        options = WorkerOptions(self.gateway.url, KEY, new_worker_name(), self.queue, self.data_dir, self.concurrency)
        self.log = self.data_dir / "worker.log"
        environ = {**os.environ, ENVIRONMENT: options.to_environment()}
        seen = len(self.gateway.hellos)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests/scripted/worker_probe.py")], env=environ, text=True, stderr=log
            )
        self.gateway.wait(lambda: len(self.gateway.hellos) > seen)

    def publish(self, *jobs: ScriptedJob) -> None:
        async def send() -> None:
            publisher = Publisher(self.queue, self.data_dir, self.gateway.signer)
            await publisher.publish([job.id for job in jobs])
            await publisher.close()

        asyncio.run(send())

    def begin(self, do: str, /, *, lines: list[dict[str, Any]] | None = None, **fields: Any) -> ScriptedJob:
        """A job of the kind ``probe``, sent."""
        time_limit = fields.pop("time_limit", None)
        job = self.gateway.add("probe", params={"do": do, **fields}, lines=lines, time_limit=time_limit)
        self.publish(job)
        return job

    def run(self, do: str, /, **fields: Any) -> dict[str, Any]:
        """How such a job has ended."""
        return self.ended(self.begin(do, **fields))

    def ended(self, job: ScriptedJob) -> dict[str, Any]:
        self.gateway.wait(lambda: job.finish)
        assert job.finish is not None
        return job.finish

    def children(self) -> list[int]:
        """The processes of the pool."""
        found = [file.read_text() for file in Path(f"/proc/{self.process.pid}/task").glob("*/children")]
        return sorted(int(pid) for text in found for pid in text.split())


@contextmanager
def running_worker(broker: str, concurrency: int = 2, **fields: Any) -> Iterator[RunningWorker]:
    """``broker``: ``files`` or ``redis``."""
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory)
        with WorkerGateway(data_dir, **fields) as gateway:
            if broker == "redis":
                with valkey() as server:
                    settings = QueueSettings(broker=SecretStr(server.url))
                    with _started(RunningWorker(gateway, data_dir, settings, server, concurrency)) as worker:
                        yield worker
            else:
                with _started(RunningWorker(gateway, data_dir, QueueSettings(), None, concurrency)) as worker:
                    yield worker


@contextmanager
def _started(worker: RunningWorker) -> Iterator[RunningWorker]:
    worker.start()
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()

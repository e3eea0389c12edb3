"""What a worker is told: the gateway, the broker, and how much it may do at a time."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from sage.middleware.queue.celery_app import DEFAULT_QUEUE
from sage.middleware.settings.queue import QueueSettings

ENVIRONMENT = "SAGE_OWN_WORKER"
"""The variable in which the gateway tells its own worker everything, as JSON; it holds a secret."""


@dataclass(frozen=True)
class WorkerOptions:
    """``data_dir`` counts only without a broker."""

    url: str
    credential: str
    name: str
    queue: QueueSettings
    data_dir: Path
    concurrency: int
    queues: tuple[str, ...] = (DEFAULT_QUEUE,)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> WorkerOptions:
        """Reads and removes what the gateway said, so that no process that the worker starts sees it."""
        said = json.loads(environ.pop(ENVIRONMENT))
        broker = said["broker"]
        return cls(
            url=said["url"],
            credential=said["credential"],
            name=said["name"],
            queue=QueueSettings(broker=None if broker is None else SecretStr(broker)),
            data_dir=Path(said["data_dir"]),
            concurrency=said["concurrency"],
            queues=tuple(said["queues"]),
        )

    @property
    def broker(self) -> str:
        """Where its messages come from, without a password."""
        if self.queue.broker is None:
            return str(self.data_dir / "queue")
        parts = urlsplit(self.queue.broker.get_secret_value())
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def to_environment(self) -> str:
        """The value of ``ENVIRONMENT``."""
        broker = self.queue.broker
        return json.dumps(
            {
                "url": self.url,
                "credential": self.credential,
                "name": self.name,
                "broker": None if broker is None else broker.get_secret_value(),
                "data_dir": str(self.data_dir),
                "concurrency": self.concurrency,
                "queues": self.queues,
            }
        )


def new_worker_name(kind: str = "sage") -> str:
    """A name that no other worker has, in Celery's form."""
    return f"{kind}-{os.getpid()}-{secrets.token_hex(3)}@{socket.gethostname() or 'localhost'}"

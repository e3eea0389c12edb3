"""A worker by hand: takes messages from the gateway's files and speaks the wire of workers, step by step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import orjson
from running_gateway import Running

from sage.middleware.queue.file_messages import take_file
from sage.middleware.queue.messages import QUEUE_PREFIX, read_message


class HandWorker:
    """Does what a test says, over ``/worker`` of ``running``, with the key of its admin."""

    def __init__(self, running: Running, name: str = "hand") -> None:
        self.running = running
        self.name = name
        self.folder = running.settings.data_dir / "queue" / "broker" / "messages"

    def message(self, queue: str = "default", wait: float = 30.0) -> dict[str, str]:
        """The next message: ``{id, signature}``."""
        end = time.monotonic() + wait
        while time.monotonic() < end:
            if (raw := take_file(self.folder, QUEUE_PREFIX + queue)) is not None:
                found = read_message(raw)
                assert found is not None
                return {"id": found[0], "signature": found[1]}
            time.sleep(0.01)
        raise AssertionError("no message came")

    def drop_messages(self) -> None:
        """Loses what is at the broker."""
        for file in self.folder.iterdir():
            file.unlink()

    def claim(self, message: dict[str, str] | None = None, status: int = 200) -> dict[str, Any]:
        """The job of ``message``, or else the next that is there to be claimed.

        On a busy machine a message comes twice: where a test names none, those of jobs that are taken are passed over.
        """
        if message is not None:
            return self.post("/worker/claim", {**message, "worker": self.name}, status)
        while True:
            answer = self.running.post("/worker/claim", {**self.message(), "worker": self.name})
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code == 409, answer.text
            time.sleep(0.01)

    def items(self, run: str, count: int = 32) -> dict[str, Any]:
        return self.post(f"/worker/runs/{run}/items", {"count": count})

    def record(self, run: str, *lines: dict[str, Any], status: int = 200) -> dict[str, Any]:
        body = b"".join(orjson.dumps({"usage": None, "ok": True, **line}) + b"\n" for line in lines)
        headers = {"Content-Type": "application/x-ndjson"}
        answer = self.running.request("POST", f"/worker/runs/{run}/results", data=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def finish(self, run: str, status: int = 204, **fields: Any) -> Any:
        return self.post("/worker/finish", {"run": run, "state": "succeeded", **fields}, status)

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        answer = self.running.post(path, body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


def events_of(running: Running, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a job, until it has ended."""
    name = ""
    with running.get(f"/tasks/{job_id}/events", stream=True) as answer:
        for line in answer.iter_lines():
            if line.startswith(b"event: "):
                name = line[7:].decode()
            elif line.startswith(b"data: "):
                yield name, json.loads(line[6:])

"""Bare Celery as its users have it: one task, a worker with two processes, a sender. A child of ``jobs.py``.

``python -m celery -A jobs_celery worker …`` runs the worker, ``python jobs_celery.py send N`` sends N tasks and prints
what that took. The environment says which broker, which result backend and what the task does.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from typing import Any

import requests
from celery import Celery
from kombu.transport import filesystem

BROKER = os.environ["BENCH_BROKER"]
BACKEND = os.environ.get("BENCH_BACKEND") or None
FOLDER = os.environ["BENCH_FOLDER"]
URL = os.environ.get("BENCH_URL")
"""Where the task's call of a model goes; none: the task does nothing."""


def _put_whole(channel: filesystem.Channel, queue: str, payload: object, **_: object) -> None:
    """As kombu puts a message, but whole at once: a worker that reads a half of one ends."""
    name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
    path = os.path.join(channel.data_folder_out, name)
    with open(path + ".new", "wb", buffering=0) as file:
        file.write(json.dumps(payload).encode())
    os.rename(path + ".new", path)


app = Celery("bench", broker=BROKER, backend=BACKEND)
app.conf.update(task_serializer="json", accept_content=["json"], task_ignore_result=BACKEND is None)
if BROKER.startswith("filesystem"):
    folders = {name: os.path.join(FOLDER, "messages") for name in ("data_folder_in", "data_folder_out")}
    app.conf.broker_transport_options = {
        **folders,
        "control_folder": os.path.join(FOLDER, "control"),
        "polling_interval": 0.05,  # as ours has it
    }
    filesystem.Channel._put = _put_whole
_session: requests.Session | None = None
_done: int | None = None


@app.task(name="bench.job")
def job(number: int) -> dict[str, Any]:
    """One job; tells in a file when it began and when it was over."""
    global _session, _done
    started, answer = time.time(), {}
    if URL is not None:
        if _session is None:
            _session = requests.Session()
            _session.trust_env = False
            _session.headers["Authorization"] = "Bearer " + os.environ["BENCH_KEY"]
        response = _session.post(URL, json={"model": os.environ["BENCH_MODEL"], "prompt": f"n={number}"}, timeout=60)
        response.raise_for_status()
        answer = response.json()
    if _done is None:
        _done = os.open(os.path.join(FOLDER, "done"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_done, b"%d %.6f %.6f\n" % (number, started, time.time()))
    return answer


def send(count: int, first: int) -> None:
    """Sends tasks one after the other; prints when each was sent, and the sender's CPU and clock seconds."""
    job.delay(first).id  # noqa: B018 (the connection is made)
    sent = []
    cpu, clock = time.process_time(), time.perf_counter()
    for number in range(first + 1, first + 1 + count):
        job.delay(number)
        sent.append((number, time.time()))
    took = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - clock, "sent": sent}
    json.dump(took, sys.stdout)


if __name__ == "__main__":
    send(int(sys.argv[2]), int(sys.argv[3]))

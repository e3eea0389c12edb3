"""Kinds of jobs that do what their parameters say, and a worker that has them: ``python worker_probe.py``."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from typing import Any

from celery import signals

from sage.middleware.worker.kinds import KINDS
from sage.middleware.worker.lease import JobFailed
from sage.middleware.worker.main import main
from sage.middleware.worker.run import ItemFailed, ItemResult, JobItem, Outcome, Run


async def run(run: Run) -> Outcome:
    do = run.params.get("do", "nothing")
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "crash":
        ctypes.string_at(0)
    elif do == "block":
        time.sleep(600)
    elif do == "wait":
        run.progress(1, 0, 10)
        await asyncio.sleep(run.params["seconds"])
    elif do == "call":
        answer = await run.client.post(run.params["path"], {"x": 1})
        return Outcome({"status": answer.status})
    elif do == "fail":
        raise JobFailed("as it was told", code="told")
    elif do == "break":
        raise KeyError("unexpected")
    elif do == "lines":
        await run.each(_line)
        return Outcome({"seen": [result["index"] async for result in run.results()]})
    return Outcome({"deliveries": run.deliveries})


async def _line(item: JobItem) -> ItemResult:
    body: dict[str, Any] = item.body
    await asyncio.sleep(body.get("seconds", 0))
    if "error" in body:
        raise ItemFailed(body["error"], code="told", status=418)
    if "bug" in body:
        raise ZeroDivisionError("a bug")
    return ItemResult(item.index, True, {"index": item.index, "custom_id": body.get("custom_id"), "pid": os.getpid()})


def _start_late(**_: object) -> None:
    """As a process of the pool does on a machine that is busy."""
    time.sleep(float(os.environ.get("PROBE_STARTS_LATE", "0")))


if __name__ == "__main__":
    KINDS["probe"] = "worker_probe"
    signals.worker_process_init.connect(_start_late, weak=False)
    sys.exit(main())

"""Batches in ``jobs.py``: what a line costs beside a live call, and what live calls feel of a batch that runs."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import time
from dataclasses import dataclass

import aiohttp
from jobs_subjects import SECONDS, SageJobs
from load import Load
from processes import BenchmarkError
from wire import FIRST_NUMBER, PUBLIC_MODEL, answer

_PATH = "/v1/chat/completions"


@dataclass
class BatchOverhead:
    """CPU in µs, lines and calls a second."""

    lines: int
    per_second: float
    line_us: float
    call_us: float
    live_per_second: float


@dataclass
class LiveBeside:
    """The 99th percentiles of live calls, in ms, medians of the rounds; the ratio is that of each round."""

    clients: int
    delay: float
    without: float
    beside: float
    ratio: float
    lines: float
    """Lines of the batch a second, meanwhile."""


async def batch_overhead(subject: SageJobs, lines: int, call_us: float) -> BatchOverhead:
    """One batch, alone."""
    batch = await _start(subject, lines)
    before, clock = subject.server.cpu_seconds(), time.perf_counter()
    done = await _wait(subject, batch, "completed")
    seconds, cpu = time.perf_counter() - clock, subject.server.cpu_seconds() - before
    await _check(subject, done, lines)
    async with Load(subject.target, 8, itertools.count(FIRST_NUMBER)) as load:
        live = await load.run(lines)
    return BatchOverhead(lines, lines / seconds, cpu / lines * 1e6, call_us, lines / live.seconds)


async def live_beside_batch(subject: SageJobs, delay: float, options: argparse.Namespace) -> LiveBeside:
    """Live calls without a batch and beside one, in turns."""
    pairs, rates = [], []
    async with Load(subject.target, options.clients, itertools.count(FIRST_NUMBER)) as load:
        first = await load.run(options.clients * 20)
        calls = max(options.clients * 4, round(options.live_seconds * options.clients * 20 / first.seconds))
        for turn in range(options.live_rounds):
            seen: dict[bool, float] = {}
            for is_beside in (False, True) if turn % 2 == 0 else (True, False):
                batch = await _start(subject, 40_000) if is_beside else None
                if batch is not None:
                    await _wait(subject, batch, "in_progress")
                before = await _completed(subject, batch) if batch else 0
                result = await load.run(calls)
                if result.failures:
                    raise BenchmarkError(f"live calls failed: {result.failures.most_common(3)}")
                seen[is_beside] = result.quantile(0.99) * 1e3
                if batch is not None:
                    rates.append((await _completed(subject, batch) - before) / result.seconds)
                    await _ask(subject, "POST", f"/v1/batches/{batch}/cancel")
                    await _wait(subject, batch, "cancelled")
            pairs.append((seen[False], seen[True]))
    without, beside = (statistics.median(pair[index] for pair in pairs) for index in (0, 1))
    ratio = statistics.median(beside / without for without, beside in pairs)
    return LiveBeside(options.clients, delay, without, beside, ratio, statistics.median(rates))


async def _start(subject: SageJobs, lines: int) -> str:
    """Uploads and starts a batch; its id."""
    content = "".join(
        json.dumps({"custom_id": f"{number}", "method": "POST", "url": _PATH, "body": _body(number)}) + "\n"
        for number in range(FIRST_NUMBER, FIRST_NUMBER + lines)
    )
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", content.encode(), filename="lines.jsonl", content_type="application/jsonl")
    file = await _ask(subject, "POST", "/v1/files", data=form)
    fields = {"input_file_id": file["id"], "endpoint": _PATH, "completion_window": "24h"}
    return str((await _ask(subject, "POST", "/v1/batches", json=fields))["id"])


def _body(number: int) -> dict[str, object]:
    return {"model": PUBLIC_MODEL, "messages": [{"role": "user", "content": f"n={number}"}], "max_tokens": 256}


async def _ask(subject: SageJobs, method: str, path: str, **fields: object) -> dict[str, object]:
    async with subject.http.request(method, path, **fields) as response:  # type: ignore[arg-type]
        found: dict[str, object] = await response.json()
        if response.status >= 300:
            raise BenchmarkError(f"{method} {path} is answered with {response.status}: {found}")
        return found


async def _completed(subject: SageJobs, batch: str) -> int:
    counts = (await _ask(subject, "GET", f"/v1/batches/{batch}"))["request_counts"]
    assert isinstance(counts, dict)
    return int(counts["completed"])


async def _wait(subject: SageJobs, batch: str, status: str) -> dict[str, object]:
    end = time.monotonic() + SECONDS
    while True:
        found = await _ask(subject, "GET", f"/v1/batches/{batch}")
        if found["status"] == status:
            return found
        if time.monotonic() > end or found["status"] in ("failed", "expired", "completed", "cancelled"):
            raise BenchmarkError(f"the batch is not {status} but {found}")
        await asyncio.sleep(0.1)


async def _check(subject: SageJobs, batch: dict[str, object], lines: int) -> None:
    """Each line is answered once, in order, with its own number."""
    async with subject.http.get(f"/v1/files/{batch['output_file_id']}/content") as response:
        found = [json.loads(line) for line in (await response.text()).splitlines()]
    if len(found) != lines:
        raise BenchmarkError(f"{len(found)} of {lines} lines of a batch are answered")
    for number, line in enumerate(found, FIRST_NUMBER):
        text = line["response"]["body"]["choices"][0]["message"]["content"]
        if line["custom_id"] != f"{number}" or text != answer(number):
            raise BenchmarkError(f"line {number} of a batch is answered with {line}")

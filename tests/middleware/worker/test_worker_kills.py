"""Workers that are killed in the middle of a batch of lines, on both brokers: none is lost, none counts twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running_gateway import Running, run_gateway
from upstream import Received, Script, Upstream, openai_like
from valkey_server import valkey

from sage.middleware.engines.proc_stats import descendants
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow
FULL = bool(os.environ.get("SAGE_TEST_FULL"))
LINES = 2000 if FULL else 300  # at the last kill many are left that went down at most once
KILLS = {"files": 100, "redis": 100} if FULL else {"files": 5, "redis": 2}
"""Nobody is told when `sage worker` is killed: its jobs wait for the end of their leases, six seconds each time."""


@dataclass
class Site:
    """A gateway with an upstream, and a worker: the gateway's own, or `sage worker` over Redis."""

    running: Running
    upstream: Upstream
    data_dir: Path
    process: subprocess.Popen[bytes] | None = None

    def start_worker(self) -> None:
        config = self.data_dir.parent / "config.yaml"
        environ = {**os.environ, "SAGE_URL": self.running.url, "SAGE_API_KEY": self.running.key}
        command = [sys.executable, "-m", "sage.middleware.cli.main", "worker", "--config", str(config)]
        self.process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def worker_pids(self) -> list[int]:
        """The processes of the worker below its supervisors, the first being the one that takes messages."""
        if self.process is not None:
            return [self.process.pid, *(pid for pid in descendants(self.process.pid) if pid != self.process.pid)]
        own = self.running.edge.app.state.own_worker.pid
        if own is None:
            return []
        return [pid for pid in descendants(own) if b"sage.middleware.worker.main" in _command(pid) and pid != own][1:]

    def kill_worker(self) -> None:
        """SIGKILL for the process that takes messages, as the kernel does when memory is short."""
        pids = self.worker_pids()
        if pids:
            os.kill(pids[0], signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
            self.start_worker()

    def kill_pool(self) -> None:
        """SIGKILL for the processes in which jobs run."""
        for pid in self.worker_pids()[1:]:
            os.kill(pid, signal.SIGKILL)

    def submit(self, body: dict[str, Any]) -> str:
        answer = self.running.post("/tasks/generate", {"model": "bench", **body})
        assert answer.status_code == 202, answer.text
        job: str = answer.json()["id"]
        return job

    def show(self, job: str) -> dict[str, Any]:
        view: dict[str, Any] = self.running.get(f"/tasks/{job}").json()
        return view

    def wait(self, job: str, condition: Any, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while not condition(view := self.show(job)):
            assert time.monotonic() < end, view
            time.sleep(0.02)
        return view

    def ended(self, job: str, seconds: float = 60) -> dict[str, Any]:
        return self.wait(job, lambda view: view["state"] not in ("queued", "running", "cancelling"), seconds)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _slowly(request: Received) -> Script:
    """OpenAI's answer after a while, a prompt `hang` never."""
    script = openai_like(request)
    text = request.body["messages"][-1]["content"]
    (_, data), *rest = script.writes
    pause = 0.3 if FULL else 0.03  # so that a job outlives all its kills
    return Script(((60.0 if text == "hang" else pause, data), *rest), script.end)


@contextmanager
def _site(broker: str, directory: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream())
        upstream.handler = _slowly
        config: dict[str, Any] = {
            "data_dir": str(directory / "data"),
            "api": {"port": 0, "access_log": False},
            "llm": {
                "providers": {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "secret"}},
                "models": {"bench": {"deployments": [{"provider": "up", "model": "bench"}]}},
            },
        }
        if broker == "redis":
            config["queue"] = {"broker": stack.enter_context(valkey()).url}
        (directory / "config.yaml").write_text(json.dumps(config))
        running = stack.enter_context(run_gateway(Settings.model_validate(config)))
        site = Site(running, upstream, directory / "data")
        if broker == "redis":
            site.start_worker()
        yield site
        if site.process is not None:
            site.process.kill()
            site.process.wait()


@pytest.fixture(scope="module", params=["files", "redis"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with _site(request.param, tmp_path_factory.mktemp("kills")) as made:
        yield made


def test_kills_in_the_middle_lose_no_line_and_do_none_twice(site: Site) -> None:
    job = site.submit({"requests": [{"custom_id": f"c{n}", "prompt": f"line {n}"} for n in range(LINES)]})
    kills = KILLS["files" if site.process is None else "redis"]
    each, done, slowest = LINES // (kills + 1), 0, 0.0
    for _ in range(kills):
        view = site.wait(job, lambda view, goal=done + each // 2: view["progress"]["done"] >= goal, 30)
        time.sleep(random.random() * 0.05)
        done = site.show(job)["progress"]["done"]
        if view["state"] != "running":
            break
        killed = time.monotonic()
        site.kill_worker()
        site.wait(job, lambda view, goal=done: view["progress"]["done"] > goal or view["state"] == "succeeded", 10)
        slowest = max(slowest, time.monotonic() - killed)
    view = site.ended(job, 600 if FULL else 60)  # lines that went down twice are done alone, at the end
    assert (view["state"], view["progress"]["done"], view["progress"]["failed"]) == ("succeeded", LINES, 0)
    lines = [json.loads(line) for line in site.running.get(f"/tasks/{job}/results").text.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"c{n}" for n in range(LINES)]
    assert [line["response"]["text"] for line in lines] == [f"line {n}" for n in range(LINES)]
    assert slowest < 10
    usage = sum(line["response"]["usage"]["total_tokens"] for line in lines)
    assert view["result"] is None or view["result"].get("usage", {}).get("total_tokens", usage) == usage


def test_a_line_that_kills_its_process_each_time_fails_and_others_do_not(site: Site) -> None:
    job = site.submit({"requests": [{"prompt": "hang" if n == 3 else f"p{n}"} for n in range(6)]})
    begin = time.monotonic()
    for _ in range(3):
        deliveries = site.wait(
            job,
            lambda view: (view["state"] == "running" and _asks(site, job, view)) or view["state"] == "succeeded",
            20,
        )["deliveries"]
        site.kill_pool()
        site.wait(job, lambda view, before=deliveries: view["deliveries"] > before or view["state"] != "running", 20)
    view = site.ended(job, 600 if FULL else 60)  # lines that went down twice are done alone, at the end
    assert (view["state"], view["progress"]["done"], view["progress"]["failed"]) == ("succeeded", 5, 1)
    lines = [json.loads(line) for line in site.running.get(f"/tasks/{job}/results").text.splitlines()]
    assert [line["index"] for line in lines if "error" in line] == [3]
    assert lines[3]["error"]["code"] == "worker_lost"
    assert time.monotonic() - begin < 40


def _asks(site: Site, job: str, view: dict[str, Any]) -> bool:
    """Whether the line that hangs is at the upstream in this delivery."""
    hung = [one for one in site.upstream.requests if one.body["messages"][-1]["content"] == "hang"]
    return len(hung) >= view["deliveries"] and not hung[-1].closed.is_set()

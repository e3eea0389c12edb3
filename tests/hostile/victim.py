"""The gateway under attack: a real `sage serve` with accounts, before a scripted upstream and a tiny local model."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from sage_process import children, environment, serving
from tiny_gguf import write_llama

from hostile.target import Target
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.settings.settings import Auth

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Victim:
    """A gateway that serves, and a key for each of its two users."""

    url: str
    pid: int
    attacker: str
    bystander: str

    def usage(self) -> Usage:
        """What it takes now, with its engines."""
        pids = [self.pid, *children(self.pid)]
        return Usage(sum(map(_resident, pids)), len(os.listdir(f"/proc/{self.pid}/fd")))


@dataclass(frozen=True)
class Usage:
    """Bytes of memory of all processes, and open files of the gateway's own."""

    memory: int
    files: int


@contextmanager
def running_victim(directory: Path) -> Iterator[Victim]:
    """Serves until the end of the block. Its models: ``chat`` and ``narrow`` (two requests at a time) at the upstream,
    ``tiny``, a local one that answers one request at a time.

    To the upstream, a message ``wait N`` means that the answer takes N seconds.
    """
    keys = _accounts(directory / "data")
    with ExitStack() as stack:
        upstream = stack.enter_context(_upstream())
        config = directory / "config.yaml"
        config.write_text(yaml.safe_dump(_config(directory, upstream)))
        server = stack.enter_context(
            serving(["--config", str(config)], environment(directory / "data"), directory, timeout=60)
        )
        victim = Victim(server.url, server.process.pid, *keys)
        hello = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
        bystander = Target(victim.url, victim.bystander, full=False)
        loaded = bystander.post("/v1/chat/completions", hello)
        assert loaded.status == 200, loaded  # no probe waits for the model to load
        stored = {"documents": [{"text": f"a quiet document {number}"} for number in range(20)]}
        assert bystander.post("/collections", {"name": "alices", "embedder": "none"}).status == 201
        assert bystander.post("/collections/alices/documents", stored).status == 200
        yield victim


def _accounts(data_dir: Path) -> tuple[str, str]:
    """The users ``mallory`` and ``alice``, each in a tenant of that name; a key of each."""
    accounts = Accounts(data_dir, Auth())
    try:
        for name in ("mallory", "alice"):
            accounts.users.add(name, PASSWORD, tenant=name)
        mallory, alice = (accounts.keys.create_for(name, KeyRequest("hostile")).secret for name in ("mallory", "alice"))
    finally:
        accounts.close()
    return mallory, alice


def _config(directory: Path, upstream: str) -> dict[str, object]:
    tiny = {"path": str(write_llama(directory / "tiny.gguf")), "parallel": 1, "context": 512, "temperature": 0}
    provider = {"kind": "openai", "base_url": upstream, "api_key": "sk-upstream"}
    return {
        "api": {"port": 0},
        "llm": {
            "providers": {
                "up": provider,
                "narrow": {**provider, "max_concurrency": 2},
                "local": {"models": {"tiny": tiny, "gemma-3-270m": None}},
            },
            "models": {
                "chat": {"deployments": [{"provider": "up", "model": "theirs"}]},
                "narrow": {"deployments": [{"provider": "narrow", "model": "theirs"}]},
                "tiny": {"deployments": [{"provider": "local", "model": "tiny"}]},
            },
        },
    }


@contextmanager
def _upstream() -> Iterator[str]:
    """A process of its own, so that its work delays no probe."""
    command = [sys.executable, "-m", "hostile.upstream_process"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        yield process.stdout.readline().strip()
    process.wait(20)


class Watching:
    """Looks ten times a second at what the gateway takes, within its ``with`` block."""

    def __init__(self, victim: Victim) -> None:
        self.peak = self._before = victim.usage()
        self._victim = victim
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch the gateway")

    @property
    def growth(self) -> int:
        """Bytes that it took at most on top of what it had before."""
        return self.peak.memory - self._before.memory

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            now = self._victim.usage()
            self.peak = Usage(max(self.peak.memory, now.memory), max(self.peak.files, now.files))

    def wait_back(self, memory: int, files: int, within: float = 15.0) -> Usage:
        """What it takes once that is no more than before and so much; or, if it stays more, ``within`` seconds on."""
        end = time.monotonic() + within
        while True:
            now = self._victim.usage()
            back = now.memory <= self._before.memory + memory and now.files <= self._before.files + files
            if back or time.monotonic() > end:
                return Usage(now.memory - self._before.memory, now.files - self._before.files)
            time.sleep(0.1)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0

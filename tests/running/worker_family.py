"""A `sage serve --workers 2` before a scripted upstream, and connections of which it is known who took them."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from gateway_process import root_key
from sage_process import Serving, children, environment, serving
from tiny_gguf import write_llama
from upstream import Upstream

_numbers = itertools.count(1)


class Answer:
    """A whole answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection to one worker."""

    def __init__(self, port: int, key: str | None) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.connection.connect()
        self.key = key

    def begin(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        """Sends a request; its answer is not read beyond the head."""
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        self.connection.request(method, path, data, headers)
        return self.connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return Answer(self.begin(method, path, body, **headers))

    def chat(self, model: str, text: str = "hello there", **fields: Any) -> Answer:
        messages = [{"role": "user", "content": text}]
        return self.ask("POST", "/v1/chat/completions", {"model": model, "messages": messages, **fields})

    def close(self) -> None:
        self.connection.close()


class WorkerFamily:
    """Worker 0 is the owner; ``key`` is an API key of its admin ``root``, ``None`` means that there are no accounts."""

    def __init__(self, server: Serving, upstream: Upstream, key: str | None, directory: Path) -> None:
        self.serving = server
        self.upstream = upstream
        self.key = key
        self.directory = directory
        self.port = int(server.url.rpartition(":")[2])
        self.owner = server.process.pid
        self._clients: list[Client] = []

    def front(self) -> int:
        """The pid of the one front that runs."""
        [pid] = [pid for pid in children(self.owner) if "app.workers.front" in _command(pid)]
        return pid

    def front_or_none(self) -> int | None:
        """As :meth:`front`; ``None`` while none runs."""
        return next((pid for pid in children(self.owner) if "app.workers.front" in _command(pid)), None)

    def lines(self) -> list[dict[str, Any]]:
        """The access log."""
        with self.serving.log.open() as log:
            return [json.loads(line) for line in log if line.startswith("{") and line.endswith("\n")]

    def line(self, request_id: str) -> dict[str, Any]:
        """The line of one request, once it is there."""
        return self.wait(lambda: next((line for line in self.lines() if line["request_id"] == request_id), None))

    def wait(self, look: Any, timeout: float = 20.0) -> Any:
        end = time.monotonic() + timeout
        while not (seen := look()):
            assert time.monotonic() < end, self.serving.log.read_text()[-2000:]
            time.sleep(0.02)
        return seen

    def client(self, worker: int, *, key: str | None = None) -> Client:
        """A connection that this worker has taken: the kernel deals them out, so several are opened."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            opened = {f"look-{next(_numbers)}": Client(self.port, key or self.key) for _ in range(4)}
            for name, client in opened.items():
                assert client.ask("GET", "/health", **{"X-Request-Id": name}).status == 200
            at = {name: self.line(name)["worker"] for name in opened}
            chosen = next((name for name in opened if at[name] == worker), None)
            for name, client in opened.items():
                if name != chosen:
                    client.close()
            if chosen is not None:
                self._clients.append(opened[chosen])
                return opened[chosen]
        raise AssertionError(f"in 30 s no connection came to worker {worker}")

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    def metrics(self, client: Client) -> dict[str, float]:
        lines = client.ask("GET", "/metrics").body.decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@contextmanager
def worker_family(
    directory: Path,
    *,
    accounts: bool = True,
    limits: dict[str, Any] | None = None,
    auth: dict[str, Any] | None = None,
    mcp: dict[str, Any] | None = None,
    **api: Any,
) -> Iterator[WorkerFamily]:
    """Models: ``free``, ``capped`` (two at a time), ``keys`` (two keys), ``lost`` (nobody is there), ``pair`` (two
    deployments), ``tiny`` (an engine)."""
    with Upstream() as upstream:
        key = root_key(directory) if accounts else None
        config = directory / "config.yaml"
        write_llama(directory / "tiny.gguf")
        sections = {
            "api": {"port": 0, "workers": 2, **api},
            "limits": limits or {},
            "auth": auth or {},
            "mcp": mcp or {},
        }
        config.write_text(yaml.safe_dump({**sections, **_config(upstream.url, directory)}))
        options = ["--config", str(config), *(() if accounts else ("--no-auth",))]
        with serving(options, environment(directory / "data"), directory, timeout=60) as server:
            yield WorkerFamily(server, upstream, key, directory)


def _config(url: str, directory: Path) -> dict[str, Any]:
    common = {"kind": "openai", "base_url": url, "api_key": "sk-upstream"}
    providers: dict[str, Any] = {
        "one": common,
        "two": common,
        "twokeys": {"kind": "openai", "base_url": url, "api_keys": ["sk-a", "sk-b"]},
        "nobody": {**common, "base_url": "http://127.0.0.1:9/v1"},
        "local": {"models": {"tiny": {"path": str(directory / "tiny.gguf"), "parallel": 1}}},
    }
    models: dict[str, Any] = {
        "free": {"deployments": [{"provider": "one", "model": "m"}], "retries": 0},
        "capped": {"deployments": [{"provider": "one", "model": "m"}], "max_concurrency": 2},
        "keys": {"deployments": [{"provider": "twokeys", "model": "m"}], "retries": 0},
        "lost": {"deployments": [{"provider": "nobody", "model": "m"}], "retries": 0},
        "pair": {"deployments": [{"provider": "one", "model": "m"}, {"provider": "two", "model": "n"}]},
    }
    return {"llm": {"providers": providers, "models": models, "routing": {"queue_timeout": "200ms"}}}

"""The `/worker` wire over real HTTP, with jobs that a test writes down: what a worker sees of a gateway."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sage.middleware.queue.signing import Signer

KEY = "sk-worker"


@dataclass
class ScriptedJob:
    id: str
    kind: str
    params: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)
    time_limit: float | None = None
    state: str = "queued"
    cancel: bool = False
    run: str = ""
    deliveries: int = 0
    renewals: list[dict[str, Any]] = field(default_factory=list)
    leased: set[int] = field(default_factory=set)
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish: dict[str, Any] | None = None


class WorkerGateway:
    """``jobs`` by their ids. ``fail``: the status that a path with that last word gets, as long as it is there."""

    def __init__(self, data_dir: Path, schedules: list[dict[str, Any]] | None = None) -> None:
        self.signer = Signer(data_dir)
        self.jobs: dict[str, ScriptedJob] = {}
        self.fail: dict[str, int] = {}
        self.hellos: list[dict[str, Any]] = []
        self.goodbyes: list[dict[str, Any]] = []
        self.lost: list[str] = []
        self.claims: list[dict[str, Any]] = []
        self.public: list[tuple[str, str, str | None]] = []
        """Calls of jobs to other routes: method, path, credential."""
        self.due: list[tuple[str, int]] = []
        self.schedules = schedules or []
        self.lease_seconds = 6.0
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> WorkerGateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """On the port that it had before, if it had one."""
        self._server = _server(self._port, self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def add(self, kind: str, /, *, lines: list[dict[str, Any]] | None = None, **fields: Any) -> ScriptedJob:
        job = ScriptedJob(
            f"job_{len(self.jobs)}_{time.time_ns()}", kind, fields.pop("params", {}), lines or [], **fields
        )
        self.jobs[job.id] = job
        return job

    def again(self, job: ScriptedJob) -> None:
        """What a sweeper does when a lease has ended."""
        with self._lock:
            job.state, job.run, job.leased = "queued", "", set(job.results)

    def wait(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it does not happen"
            time.sleep(0.01)

    def answer(self, method: str, path: str, body: bytes, credential: str | None) -> tuple[int, Any]:
        words = path.strip("/").split("/")
        if words[0] != "worker":
            with self._lock:
                self.public.append((method, path, credential))
            if path == "/slow":
                time.sleep(30)
            return 200, {"path": path}
        if credential != f"Bearer {KEY}":
            return 401, {"error": {"code": "invalid_credential", "message": "no"}}
        if words[-1] in self.fail:
            return self.fail[words[-1]], {"error": {"code": "scripted", "message": "as the test says"}}
        with self._lock:
            if words[1] == "runs":
                return self._run(words[2], words[3], body)
            if words[1] == "schedules":
                self.due.append((words[2], int(words[3])))
                return 200, {}
            if words[1] == "finish":
                return self._run(json.loads(body)["run"], "finish", body)
            return self._worker(words[1], json.loads(body))

    def _worker(self, word: str, body: dict[str, Any]) -> tuple[int, Any]:
        if word == "hello":
            self.hellos.append(body)
            return 200, {"lease_seconds": self.lease_seconds, "item_concurrency": 4, "schedules": self.schedules}
        if word == "goodbye":
            self.goodbyes.append(body)
            return 200, {}
        if word == "lost":
            self.lost.append(body["id"])
            return 200, {}
        self.claims.append(body)
        job = self.jobs.get(body["id"])
        if job is None or job.state != "queued" or not self.signer.verify(job.id, body["signature"]):
            return 409, {"error": {"code": "not_claimable", "message": "no"}}
        job.state, job.deliveries = "running", job.deliveries + 1
        job.run = f"run_{job.id}_{job.deliveries}"
        return 200, {
            **{"run": job.run, "id": job.id, "kind": job.kind, "params": job.params, "total": len(job.lines) or None},
            **{"credential": f"jt-{job.id}-0", "lease_seconds": self.lease_seconds, "time_limit": job.time_limit},
            "deliveries": job.deliveries,
        }

    def _run(self, run: str, word: str, body: bytes) -> tuple[int, Any]:
        job = next((job for job in self.jobs.values() if job.run == run), None)
        if job is None or job.state != "running":
            return 409, {"error": {"code": "run_ended", "message": "no"}}
        if word == "renew":
            job.renewals.append(json.loads(body))
            return 200, {"cancel": job.cancel, "credential": f"jt-{job.id}-{len(job.renewals)}"}
        if word == "items":
            wish = json.loads(body)
            lost = [index for index in sorted(job.leased) if index not in wish["in_hand"] and index not in job.results]
            free = [index for index in range(len(job.lines)) if index not in job.leased]
            indexes = [*lost, *free][: wish["count"]]
            job.leased |= set(indexes)
            items = [{"index": index, "body": job.lines[index]} for index in indexes]
            return 200, {"items": items, "more": len(job.results) < len(job.lines)}
        if word == "results":
            if not body:
                lines = [json.dumps(job.results[index]) for index in sorted(job.results)]
                return 200, "".join(line + "\n" for line in lines).encode()
            for line in body.decode().splitlines():
                result = json.loads(line)
                job.results.setdefault(result["index"], result)
            return 200, {"cancel": job.cancel}
        assert word == "finish", word
        job.finish = {name: value for name, value in json.loads(body).items() if name != "run"}
        job.state = "queued" if job.finish["retry"] else str(job.finish["state"])
        return 200, {}


def _server(port: int, gateway: WorkerGateway) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            status, answer = gateway.answer(self.command, path, body, self.headers.get("Authorization"))
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = handle_any

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        allow_reuse_address = True
        daemon_threads = True

        def handle_error(self, *_: object) -> None: ...

    return Server(("127.0.0.1", port), Handler)

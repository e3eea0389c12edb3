"""The real server with the real application, in this process, for tests."""

from __future__ import annotations

import asyncio
import functools
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from sage.middleware.app.main import create_app
from sage.middleware.app.server import GatewayServer, bind, make_server
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.passwords import HashCost
from sage.middleware.auth.principal import Scope
from sage.middleware.settings.settings import Auth, Settings

PASSWORD = "correct horse battery staple"
LOW_COST = HashCost(memory_kib=64)
"""Passwords are hashed in a moment; the full cost is tested in ``tests/middleware/auth``."""


@dataclass
class Running:
    """A gateway that serves at ``url``; ``key`` is an API key of its admin."""

    url: str
    key: str
    settings: Settings
    server: GatewayServer
    accounts: Accounts | None = None
    edge: Any = None

    def headers(self, key: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key or self.key}"}

    def post(self, path: str, json: Any = None, *, key: str | None = None, **options: Any) -> requests.Response:
        options.setdefault("timeout", 30)
        headers = {**self.headers(key), **options.pop("headers", {})}
        return requests.post(self.url + path, json=json, headers=headers, **options)

    def get(self, path: str, *, key: str | None = None, **options: Any) -> requests.Response:
        return requests.get(self.url + path, headers=self.headers(key), timeout=30, **options)

    def new_key(self, **fields: Any) -> str:
        """A further key of the admin: ``scopes``, ``models``, ``tenant``."""
        assert self.accounts is not None
        return self.accounts.keys.create_for("root", KeyRequest(**fields)).secret

    def chat(self, model: str = "bench", **fields: Any) -> requests.Response:
        options = {name: fields.pop(name) for name in ("key", "headers", "timeout") if name in fields}
        stream = bool(fields.get("stream"))
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}
        return self.post("/v1/chat/completions", body, stream=stream, **options)


@functools.cache
def _prepared() -> tuple[bytes, str]:
    """A database with the admin ``root`` in it, and a key of theirs: each gateway starts with a copy."""
    with tempfile.TemporaryDirectory() as scratch:
        accounts = Accounts(Path(scratch), Auth(), hash_cost=LOW_COST)
        accounts.users.add("root", PASSWORD, role="admin")
        key = accounts.keys.create_for("root", KeyRequest("tests", scopes=list(Scope))).secret
        accounts.close()
        return (Path(scratch) / "sage.db").read_bytes(), key


def _accounts(settings: Settings, hash_cost: HashCost) -> tuple[Accounts, str]:
    """The accounts under ``settings.data_dir``, with ``root`` in them, and a key of theirs."""
    database = settings.data_dir / "sage.db"
    if not database.exists():
        content, key = _prepared()
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        database.touch(mode=0o600)
        database.write_bytes(content)
        return Accounts(settings.data_dir, settings.auth, hash_cost=hash_cost), key
    accounts = Accounts(settings.data_dir, settings.auth, hash_cost=hash_cost)
    return accounts, accounts.keys.create_for("root", KeyRequest("tests", scopes=list(Scope))).secret


@contextmanager
def run_gateway(settings: Settings, *, hash_cost: HashCost = LOW_COST) -> Iterator[Running]:
    """The real server with the real application, on a thread of its own; ends with the block."""
    accounts, key = _accounts(settings, hash_cost) if settings.auth.enabled else (None, "")
    sock = bind(settings.api.host, settings.api.port)
    ready = threading.Event()
    edge = create_app(settings, hash_cost=hash_cost)
    server = make_server(edge, settings, ready.set)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                runner.run(server.serve(sockets=[sock]))
        except BaseException as exc:
            failures.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="gateway-under-test")
    thread.start()
    assert ready.wait(30)
    assert not failures, failures
    try:
        yield Running(f"http://127.0.0.1:{sock.getsockname()[1]}", key, settings, server, accounts, edge)
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()
        if accounts is not None:
            accounts.close()
    assert not thread.is_alive()
    assert not failures, failures

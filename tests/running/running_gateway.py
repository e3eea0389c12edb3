"""The real server with the real application, in this process, for tests."""

from __future__ import annotations

import asyncio
import functools
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from sage.middleware.app.gateway_server import GatewayServer, bind
from sage.middleware.app.main import create_app
from sage.middleware.app.server import make_server
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.passwords import HashCost
from sage.middleware.auth.principal import Scope
from sage.middleware.budgets.database import open_budgets_database
from sage.middleware.settings.reading import LoadedSettings
from sage.middleware.settings.settings import Auth, Settings
from sage.middleware.usage.database import open_usage_database

PASSWORD = "correct horse battery staple"
LOW_COST = HashCost(memory_kib=64)
"""Passwords are hashed in a moment; the full cost is tested in ``tests/middleware/auth``."""


class Running:
    """A gateway that serves at ``url``; ``key`` is an API key of its admin ``root``."""

    def __init__(self, url: str, key: str, settings: Settings, server: GatewayServer, edge: Any) -> None:
        self.url = url
        self.key = key
        self.settings = settings
        self.server = server
        self.edge = edge
        self._session = requests.Session()
        self._session.trust_env = False  # else each request looks for proxies and a .netrc

    @functools.cached_property
    def accounts(self) -> Accounts | None:
        """The gateway's accounts, opened beside it; ``None`` where there are none."""
        settings = self.settings
        return Accounts(settings.data_dir, settings.auth, hash_cost=LOW_COST) if settings.auth.enabled else None

    def close(self) -> None:
        self._session.close()
        if (accounts := self.__dict__.get("accounts")) is not None:
            accounts.close()

    def headers(self, key: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key or self.key}"}

    def post(self, path: str, json: Any = None, *, key: str | None = None, **options: Any) -> requests.Response:
        return self.request("POST", path, key=key, json=json, **options)

    def get(self, path: str, *, key: str | None = None, **options: Any) -> requests.Response:
        return self.request("GET", path, key=key, **options)

    def request(self, method: str, path: str, *, key: str | None = None, **options: Any) -> requests.Response:
        """Over a connection that is kept, unless the answer is a stream, which a test may leave half read."""
        options.setdefault("timeout", 30)
        headers = {**self.headers(key), **options.pop("headers", {})}
        send = requests.request if options.get("stream") else self._session.request
        return send(method, self.url + path, headers=headers, **options)

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
def _prepared() -> tuple[dict[Path, bytes], str]:
    """The files of databases with the admin ``root``, and a key of theirs: each gateway starts with a copy."""
    with tempfile.TemporaryDirectory() as scratch:
        accounts = Accounts(Path(scratch), Auth(), hash_cost=LOW_COST)
        accounts.users.add("root", PASSWORD, role="admin")
        key = accounts.keys.create_for("root", KeyRequest("tests", scopes=list(Scope))).secret
        accounts.close()
        open_budgets_database(Path(scratch)).close()
        open_usage_database(Path(scratch)).close()
        names = (file.relative_to(scratch) for file in Path(scratch).rglob("*") if file.is_file())
        return {name: (Path(scratch) / name).read_bytes() for name in names}, key


def _prepare(settings: Settings) -> str:
    """Puts accounts under ``settings.data_dir`` if there are none yet; returns a key of their admin."""
    if (settings.data_dir / "sage.db").exists():
        accounts = Accounts(settings.data_dir, settings.auth, hash_cost=LOW_COST)
        try:
            return accounts.keys.create_for("root", KeyRequest("tests", scopes=list(Scope))).secret
        finally:
            accounts.close()
    files, key = _prepared()
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in files.items():
        file = settings.data_dir / name
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(content)
    return key


@contextmanager
def run_gateway(
    settings: Settings, *, hash_cost: HashCost = LOW_COST, loaded: LoadedSettings | None = None
) -> Iterator[Running]:
    """The real server with the real application, on a thread of its own; ends with the block.

    ``loaded`` says where ``settings`` come from.

    Unless ``settings`` say so, it looks up no published prices, which takes a process of a second.
    """
    if "published_prices" not in settings.usage.model_fields_set:
        usage = settings.usage.model_copy(update={"published_prices": False})
        settings = settings.model_copy(update={"usage": usage})
    key = _prepare(settings) if settings.auth.enabled else ""
    sock = bind(settings.api.host, settings.api.port)
    ready = threading.Event()
    edge = create_app(settings, hash_cost=hash_cost, loaded=loaded)
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
    running = Running(f"http://127.0.0.1:{sock.getsockname()[1]}", key, settings, server, edge)
    try:
        yield running
    finally:
        running.close()
        server.should_exit = True
        thread.join(30)
        sock.close()
    assert not thread.is_alive()
    assert not failures, failures

"""Two real `sage serve` with data directories of their own on one PostgreSQL: what one is told, both know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from postgresql_server import PostgresqlServer
from running_gateway import LOW_COST, PASSWORD
from sage_process import environment, serving
from upstream import Upstream
from waiting import wait_until

from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.settings.limits import Limits

pytestmark = pytest.mark.slow


class Gateway:
    """One of them, for the user root."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> requests.Response:
        head = {"Authorization": f"Bearer {key or self.key}"}
        return requests.request(method, self.url + path, json=body, headers=head, timeout=30)

    def chat(self, model: str, key: str | None = None) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        return self.ask("POST", "/v1/chat/completions", body, key).status_code


@contextmanager
def two_gateways(directory: Path, url: DatabaseUrl, upstream: Upstream) -> Iterator[tuple[Gateway, Gateway]]:
    """The first has no worker, and starts when the second already leads."""
    accounts = Accounts(directory / "made", hash_cost=LOW_COST, url=url)
    accounts.users.add("root", PASSWORD, role="admin")
    accounts.teams.add("bounded", limits=Limits(rpm=5))
    key = accounts.keys.create_for("root", KeyRequest("tests", scopes=list(Scope))).secret
    accounts.close()
    provider = {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}
    models = {"bench": {"deployments": [{"provider": "up", "model": "m"}]}}
    sections = {"api": {"port": 0}, "database": "${DATABASE}", "llm": {"providers": {"up": provider}, "models": models}}
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(sections))

    def environment_of(name: str, **extra: str) -> tuple[dict[str, str], Path]:
        (directory / name).mkdir()
        return environment(directory / name / "data", DATABASE=url.conninfo, **extra), directory / name

    options = ["--config", str(config)]
    start_a = serving(options, *environment_of("a", SAGE_QUEUE__EMBEDDED_WORKER="false"), timeout=60)
    with serving(options, *environment_of("b"), timeout=60) as b, start_a as a:
        yield Gateway(a.url, key), Gateway(b.url, key)


def test_what_one_gateway_is_told_the_other_knows(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    with postgresql.database() as url, Upstream() as upstream, two_gateways(tmp_path, url, upstream) as (a, b):
        assert a.ask("GET", "/.well-known/jwks.json").json() == b.ask("GET", "/.well-known/jwks.json").json()
        _revoked_keys_are_refused_everywhere(a, b)
        _logins_hold_everywhere(a, b)
        _models_are_served_everywhere(a, b)
        _jobs_are_done_once(a, b, upstream)
        for name in ("a", "b"):
            assert not (tmp_path / name / "data" / "sage.db").exists()
            log = (tmp_path / name / "serve.log").read_text()
            assert "Traceback" not in log
            assert log.count("each gateway on this database counts for itself") == 1


def _revoked_keys_are_refused_everywhere(a: Gateway, b: Gateway) -> None:
    made = a.ask("POST", "/auth/keys", {"name": "short-lived"}).json()
    assert b.chat("bench", made["key"]) == a.chat("bench", made["key"]) == 200
    assert a.ask("DELETE", f"/auth/keys/{made['id']}").status_code == 200
    assert a.chat("bench", made["key"]) == 401
    assert wait_until(lambda: b.chat("bench", made["key"]) == 401, 5) < 1.0


def _logins_hold_everywhere(a: Gateway, b: Gateway) -> None:
    tokens = requests.post(f"{a.url}/auth/token", data={"username": "root", "password": PASSWORD}, timeout=30).json()
    assert b.ask("GET", "/auth/me", key=tokens["access_token"]).status_code == 200
    assert b.ask("POST", "/auth/logout", key=tokens["access_token"]).status_code in (200, 204)
    wait_until(lambda: a.ask("GET", "/auth/me", key=tokens["access_token"]).status_code == 401, 1.5)


def _models_are_served_everywhere(a: Gateway, b: Gateway) -> None:
    body = {"deployments": [{"provider": "up", "model": "m2"}]}
    assert a.ask("POST", "/models/made-at-run-time", body).status_code in (200, 201)
    wait_until(lambda: b.chat("made-at-run-time") == 200, 3)
    assert b.ask("DELETE", "/models/made-at-run-time").status_code in (200, 204)
    wait_until(lambda: a.chat("made-at-run-time") == 404, 3)


def _jobs_are_done_once(a: Gateway, b: Gateway, upstream: Upstream) -> None:
    before = len(upstream.requests)

    def submit(gateway: Gateway, number: int) -> str:
        body = {"model": "bench", "prompt": f"job {number}"}
        return str(gateway.ask("POST", "/tasks/generate", body).json()["id"])

    jobs = [submit(a, number) for number in range(4)]
    wait_until(lambda: len(upstream.requests) - before == len(jobs), 60)  # though nobody has asked b about jobs
    jobs += [submit((a, b)[number % 2], number) for number in range(4, 8)]

    def states(gateway: Gateway) -> set[str]:
        return {gateway.ask("GET", f"/tasks/{job}").json()["state"] for job in jobs}

    wait_until(lambda: states(b) == {"succeeded"}, 60)
    assert states(a) == {"succeeded"}
    assert len(upstream.requests) - before == len(jobs)

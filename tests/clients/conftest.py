"""Whole programs as clients of a gateway, which `make test-clients` runs: without ``CLIENTS_DIR`` they are left out.

``CLIENTS_DIR`` is the directory that ``make`` installs them in. A program that is not there is skipped. Behind the
gateway is a scripted model (``scripted_model.py``).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_gateway import Running
from upstream import Upstream

from clients.outside import Outside, can_be_watched
from clients.scripted_model import ScriptedModel

HERE = Path(__file__).parent
PLACES = ("python/bin", "node/node_modules/.bin", "webui/bin")
"""Where ``make`` installs programs, below ``CLIENTS_DIR``."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "CLIENTS_DIR" not in os.environ and not config.option.collectonly:
        left = [item for item in items if item.path.is_relative_to(HERE)]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


@dataclass(frozen=True)
class Asked:
    """A gateway, and the model behind it."""

    gateway: Running
    upstream: Upstream

    @property
    def base_url(self) -> str:
        return f"{self.gateway.url}/v1"

    def use(self, model: ScriptedModel) -> ScriptedModel:
        self.upstream.reset()
        self.upstream.handler = model
        return model


@pytest.fixture(scope="module")
def asked(module_gateway: Callable[..., Running]) -> Iterator[Asked]:
    with Upstream() as upstream:
        providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}}
        models = {"bench": {"deployments": [{"provider": "up", "model": "upstream-model"}]}}
        yield Asked(module_gateway(llm={"providers": providers, "models": models}), upstream)


@pytest.fixture
def outside() -> Iterator[list[str]]:
    """The addresses that the test's programs asked for beyond loopback: empty at the end of each test."""
    if not can_be_watched():
        yield []
        return
    with Outside() as seen:
        yield seen.addresses
    assert seen.addresses == [], f"it reached for {seen.addresses}"


@dataclass(frozen=True)
class Program:
    """Runs one program in a home and a project of its own."""

    path: Path
    home: Path
    project: Path

    def run(self, *arguments: str, within: float = 120.0, text: str | None = None, **variables: str) -> str:
        """What it prints; raises unless it ends well ``within`` that many seconds."""
        done = subprocess.run(
            [str(self.path), *arguments],
            cwd=self.project,
            env=self.environment(variables),
            input=text or "",
            capture_output=True,
            text=True,
            timeout=within,
        )
        assert done.returncode == 0, f"{self.path.name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": f"{self.path.parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            **variables,
        }


@pytest.fixture
def program(tmp_path: Path, outside: list[str]) -> Callable[[str], Program]:
    def find(name: str) -> Program:
        found = [path for place in PLACES if (path := Path(os.environ["CLIENTS_DIR"], place, name).absolute()).exists()]
        if not found:
            pytest.skip(f"{name} is not installed in CLIENTS_DIR")
        home, project = tmp_path / "home", tmp_path / "project"
        home.mkdir()
        project.mkdir()
        return Program(found[0], home, project)

    return find

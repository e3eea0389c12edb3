"""A newcomer's first hour: the built wheel in an empty environment, then the READMEs, block by block, as they stand.

What the wheel asks for stands in the environment in the versions of the lock, and nothing else: as links to what the
tests run with, since pip unpacks for a minute. With ``SAGE_TEST_FULL=1`` pip installs it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from linked_packages import link_requirements
from project import ROOT
from readme import READMES, Block, blocks, on_terminal, python_with, run_service_and_request
from sage_process import Serving, serving
from upstream import Upstream

pytestmark = pytest.mark.slow
PASSWORD = "a long password of mine"
ELSEWHERE = ("make serve\n", "make check\n")
"""They install the lock into the checkout: what `make check` itself begins with."""


@dataclass(frozen=True)
class Newcomer:
    """A home directory with an empty environment in it; the project lies in ``project``, without its code."""

    home: Path
    env: dict[str, str]

    @property
    def project(self) -> Path:
        return self.home / "project"

    @property
    def python(self) -> str:
        return str(self.home / "environment" / "bin" / "python")

    def run(self, *command: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        env = {**self.env, **environ}
        return subprocess.run(
            command, env=env, cwd=self.project, input=stdin, capture_output=True, text=True, timeout=300
        )

    def shell(self, script: str, **environ: str) -> str:
        """What a shell prints; the first failure ends it."""
        done = self.run("bash", "-ec", script, **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def _clean_environment(home: Path) -> dict[str, str]:
    kept = ("LANG", "PIP_", "SSL_", "REQUESTS_", "TMPDIR", "http", "HTTP", "no_proxy", "NO_PROXY")
    variables = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    path = f"{home / 'environment' / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    return {**variables, "HOME": str(home), "PATH": path, "XDG_CACHE_HOME": cache, "COLUMNS": "120"}


def _checked(command: list[str], env: dict[str, str], cwd: Path) -> None:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git would give away, by the lock's hatchling."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("LICENSE", "README.md", "pyproject.toml", "config.yaml"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sage", source / "sage", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(target), "."]
    _checked(command, dict(os.environ), source)
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Newcomer:
    home = tmp_path_factory.mktemp("home")
    env = _clean_environment(home)
    (home / "project").mkdir()
    # Of the docs only what the page searches for: every text is embedded.
    for name in (*READMES, "docs/models.md", "examples/run_demo.sh", "examples/dag_microservices_demo.py"):
        target = home / "project" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, target)
    python = str(home / "environment" / "bin" / "python")
    wanted = [f"{wheel}[serve]", "openai", "requests"]  # the last two are for the examples of the READMEs
    if os.environ.get("SAGE_TEST_FULL"):
        locked = (ROOT / "requirements" / "dev.txt").read_text()
        versions = re.findall(r"^[A-Za-z0-9._-]+==[^\\\n]+", locked, re.MULTILINE)
        (home / "versions.txt").write_text("\n".join(versions))
        _checked([sys.executable, "-m", "venv", str(home / "environment")], env, home)
        _checked([python, "-m", "pip", "install", "-q", "--no-compile", "-c", "versions.txt", *wanted], env, home)
    else:
        _checked([sys.executable, "-m", "venv", "--without-pip", str(home / "environment")], env, home)
        _checked([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", str(wheel)], env, home)
        (packages,) = (home / "environment" / "lib").glob("python*/site-packages")
        link_requirements(packages, ["intellistream-sage-middleware[serve]", *wanted[1:]])
    return Newcomer(home, env)


@pytest.fixture(scope="module")
def server(newcomer: Newcomer) -> Iterator[Serving]:
    """``sage serve``, with its first user, made as the README says, on a terminal."""
    command = [str(newcomer.home / "environment" / "bin" / "sage")]
    with serving(["--port", "0"], newcomer.env, newcomer.project, 120, command=command) as running:
        (block,) = [block for block in blocks(READMES[0], "sh") if "user add" in block.text]
        shown = _typed(newcomer, running, block)
        assert '"text":"Paris"' in shown
        yield running


def _typed(newcomer: Newcomer, server: Serving, block: Block) -> str:
    script = block.at(server.url).replace(".venv/bin/sage", "sage")
    prompts = dict.fromkeys(("characters): ", "confirmation: ", "again: "), PASSWORD)
    return on_terminal(script, prompts, newcomer.env, newcomer.project)


def test_the_extra_brings_what_the_readme_uses(newcomer: Newcomer) -> None:
    script = (
        "from sage.middleware.retrieval.embedding.builtin import KINDS\n"
        "import numba, opencc, rjieba, xllamacpp, ollama, pypdf, selectolax\n"
        "print([kind.is_installed for kind in KINDS])\n"
        "import sage.middleware; print(list(sage.middleware.__path__))"
    )
    lines = newcomer.run(newcomer.python, "-c", script).stdout.splitlines()
    assert set(json.loads(lines[0].replace("True", "true").replace("False", "false"))) == {True}
    assert str(newcomer.home) in lines[1]  # the installed package, not this checkout


def test_the_wheel_carries_the_commented_configuration(newcomer: Newcomer) -> None:
    assert newcomer.shell("sage config init -") == (ROOT / "config.yaml").read_text(encoding="utf-8")
    newcomer.shell("cd ..; sage config init; sage config check --strict; rm config.yaml")


def test_the_welcome_is_of_use(server: Serving) -> None:
    assert f"docs: {server.url}/docs" in server.welcome[0]
    assert requests.get(f"{server.url}/docs", timeout=30).status_code == 200


@pytest.mark.parametrize("readme", READMES)
def test_every_shell_block_does_what_it_says(newcomer: Newcomer, server: Serving, readme: str) -> None:
    """In the order of the page. Blocks that the English page has as well were run there."""
    port = {"SAGE_API__PORT": server.url.rpartition(":")[2]}
    told = []
    for block in blocks(readme, "sh"):
        if block.text in ELSEWHERE or "user add" in block.text:
            continue
        if readme == READMES[0] or block not in blocks(READMES[0]):
            told.append(newcomer.shell(block.at(server.url), **port))
    whole = "\n".join(told)
    if readme == READMES[0]:
        assert "Paris" in told[0]
        assert "gemma-3-270m: unloaded" in whole
        assert re.search(r"notes: files: \d+ new", whole)
        assert "Selene" in whole
        assert "Lyon" in whole
        assert re.search(r"job_\w+: succeeded, 2/2", whole)
    else:
        assert all(part.strip() for part in told)


def test_the_sdk_block_answers_plain_and_streaming(newcomer: Newcomer, server: Serving) -> None:
    key = newcomer.shell("sage key add --user me").strip()
    code = python_with("import openai").at(server.url)
    done = newcomer.run(newcomer.python, "-c", code, SAGE_API_KEY=key)
    assert done.stdout == "Paris\nParis", done.stderr


def test_the_service_block_answers_the_request_block(newcomer: Newcomer) -> None:
    with Upstream() as up:
        env = {**newcomer.env, "OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": up.url}
        assert run_service_and_request([newcomer.python], env, newcomer.project) == "Hello, how are you?\n"
        assert up.requests[0].body["model"] == "gpt-3.5-turbo"
        assert up.requests[0].body["max_tokens"] == 100


def test_the_vector_store_block_finds_both(newcomer: Newcomer) -> None:
    done = newcomer.run(newcomer.python, "-c", python_with("VectorStore").text)
    assert sorted(re.findall(r"Text: (.+)", done.stdout)) == ["This is document 1", "This is document 2"], done.stderr


def test_the_services_block_runs_with_a_batch(newcomer: Newcomer) -> None:
    """As the page says, from_batch needs no Kafka."""
    records = '[{"content": "Mei lives in Lyon.", "vector": [1.0, 0.0]}]'
    code = python_with("from_kafka_source").text.replace("from_kafka_source(...)", f"from_batch({records})")
    code = code.replace("env.execute()", 'processed.sink(lambda id: print("stored", len(id) > 0))\nenv.execute()')
    done = newcomer.run(newcomer.python, "-c", code)
    assert done.stdout == "stored True\n", done.stderr


def test_the_configuration_block_is_good(newcomer: Newcomer) -> None:
    """Its one file is not there, which the check says."""
    for readme in READMES:
        (block,) = blocks(readme, "yaml")
        (newcomer.home / "mine.yaml").write_text(block.text)
        done = newcomer.run("sage", "config", "check", "--config", "../mine.yaml", OPENAI_API_KEY="k", EAST_KEY="k")
        assert [line for line in done.stdout.splitlines() if line.startswith(("fault:", "warning:"))] == [
            "fault: model 'qwen' cannot serve: there is no file /models/qwen2.5-7b-instruct-q4_k_m.gguf"
        ]


def test_every_block_is_run_by_a_test_here() -> None:
    """A new kind of block, or a new program, must get its test."""
    for readme in READMES:
        assert {block.language for block in blocks(readme)} == {"sh", "python", "json", "yaml"}
    parts = ("import openai", "import requests", "LLMService", "VectorStore", "from_kafka_source")
    for block in blocks(READMES[0], "python"):
        assert any(part in block.text for part in parts), block.text


def test_a_chat_in_the_terminal(newcomer: Newcomer, server: Serving) -> None:
    port = server.url.rpartition(":")[2]
    done = newcomer.run("sage", "chat", "gemma-3-270m", stdin="What is the capital of France?\n", SAGE_API__PORT=port)
    assert "Paris" in done.stdout, done.stderr


def test_the_demonstration_runs(newcomer: Newcomer) -> None:
    assert "found: My sister Mei is allergic to peanuts." in newcomer.shell("examples/run_demo.sh")

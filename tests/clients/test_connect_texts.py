"""What the console's page *Connect* tells to paste for Claude Code, Codex, LangChain and Node, pasted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

from clients.conftest import Asked, Program
from clients.scripted_model import DONE, ScriptedModel

TEXTS = ROOT / "sage/middleware/console/pages/connect/client_texts.js"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
}
CODEX_QUIET = """
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
"""
CODEX_ALONE = """
[features]
plugins = false  # it looks for some on the internet

[analytics]
enabled = false
"""


def texts_for(asked: Asked) -> dict[str, list[dict[str, Any]]]:
    """The parts of each client's tab, as the page makes them."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the page's module cannot be run")
    gateway = {"origin": asked.gateway.url, "key": asked.gateway.key, "model": "bench"}
    script = (
        f"globalThis.location = {{origin: {json.dumps(asked.gateway.url)}}};"
        f"const {{clients}} = await import({json.dumps(TEXTS.as_uri())});"
        f"console.log(JSON.stringify(clients({json.dumps(gateway)})))"
    )
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {client["name"]: client["parts"] for client in json.loads(done.stdout)}


def shell(program: Program, script: str, **variables: str) -> str:
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=program.project,
        env=program.environment(variables),
        input="",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def nothing(_names: Any) -> None:
    """The model calls no tool."""


def asks(script: str, command: str, instead: str) -> str:
    """``script`` with its last line, the interactive program, asked one question."""
    assert script.endswith(f"\n{command}\n")
    return script.removesuffix(f"{command}\n") + instead


def test_claude_code(asked: Asked, program: Callable[[str], Program]) -> None:
    claude = program("claude")
    asked.use(ScriptedModel(nothing))
    (part,) = texts_for(asked)["Claude Code"]
    assert DONE in shell(claude, asks(part["text"], "claude", "claude -p 'Say it.'"), **QUIET)
    assert {request.body["model"] for request in asked.upstream.requests} == {"upstream-model"}


def test_codex(asked: Asked, program: Callable[[str], Program]) -> None:
    codex = program("codex")
    asked.use(ScriptedModel(nothing))
    configuration, start = texts_for(asked)["Codex"]
    (codex.home / ".codex").mkdir()
    (codex.home / ".codex/config.toml").write_text(CODEX_QUIET + configuration["text"] + CODEX_ALONE)
    script = asks(start["text"], "codex", "codex exec --skip-git-repo-check 'Say it.' < /dev/null")
    assert DONE in shell(codex, script)


def test_langchain(asked: Asked, program: Callable[[str], Program], tmp_path: Path) -> None:
    path = Path(os.environ["CLIENTS_DIR"], "langchain/bin/python").absolute()
    if not path.exists():
        pytest.skip("langchain-openai is not installed in CLIENTS_DIR")
    asked.use(ScriptedModel(nothing))
    install, code = texts_for(asked)["LangChain"]
    assert install["text"] == "pip install langchain-openai\n"
    (tmp_path / "ask.py").write_text(code["text"])
    python = Program(path, tmp_path, tmp_path)
    assert DONE in python.run(str(tmp_path / "ask.py"))


def test_open_webui_reads_these_variables(asked: Asked) -> None:
    """They are those that ``test_open_webui_program.py`` starts it with."""
    (part,) = texts_for(asked)["Open WebUI"]
    lines = part["text"].splitlines()
    assert lines[1:4] == [
        f"export OPENAI_API_BASE_URL={asked.base_url}",
        f"export OPENAI_API_KEY={asked.gateway.key}",
        "export ENABLE_OLLAMA_API=false",
    ]

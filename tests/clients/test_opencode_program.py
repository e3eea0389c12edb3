"""``opencode-ai``: it writes a file by its own tool, over OpenAI's chat wire and over Anthropic's Messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from clients.conftest import Asked, Program
from clients.scripted_model import DONE, ScriptedModel

WIRES = {
    "chat": ("@ai-sdk/openai-compatible", "/v1/chat/completions"),
    "messages": ("@ai-sdk/anthropic", "/v1/messages"),
}


@pytest.mark.parametrize("wire", WIRES)
def test_opencode_writes_a_file(asked: Asked, program: Callable[[str], Program], wire: str) -> None:
    opencode = program("opencode")
    target = opencode.project / "note.txt"
    model = asked.use(ScriptedModel(lambda names: ("write", {"filePath": str(target), "content": "a note\n"})))
    (opencode.project / "opencode.json").write_text(json.dumps(_configuration(asked, wire)))
    said = opencode.run("run", "--model", "sage/bench", "Write a note.", **_QUIET)
    assert target.read_text() == "a note\n"
    assert "write" in model.offered
    assert len(model.results) >= 1
    assert DONE in said


_QUIET = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    "NPM_CONFIG_REGISTRY": "http://127.0.0.1:9",  # where it looks for a package of its own at its first start
}


def _configuration(asked: Asked, wire: str) -> dict[str, Any]:
    package, _ = WIRES[wire]
    return {
        "autoupdate": False,
        "share": "disabled",
        "permission": {"edit": "allow"},
        "small_model": "sage/bench",
        "provider": {
            "sage": {
                "npm": package,
                "options": {"baseURL": asked.base_url, "apiKey": asked.gateway.key},
                "models": {"bench": {"tool_call": True, "limit": {"context": 100000, "output": 4000}}},
            }
        },
    }

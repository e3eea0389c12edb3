"""``@anthropic-ai/claude-code``: it writes a file by its own tool, over Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Callable

from clients.conftest import Asked, Program
from clients.scripted_model import DONE, ChooseCall, ScriptedModel

QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
}


def test_claude_code_writes_a_file(asked: Asked, program: Callable[[str], Program]) -> None:
    claude = program("claude")
    target = claude.project / "note.txt"
    model = asked.use(ScriptedModel(_write(str(target))))
    variables = {
        "ANTHROPIC_BASE_URL": asked.gateway.url,
        "ANTHROPIC_AUTH_TOKEN": asked.gateway.key,
        "ANTHROPIC_MODEL": "bench",
        "ANTHROPIC_SMALL_FAST_MODEL": "bench",
        **QUIET,
    }
    said = claude.run("-p", "Write a note.", "--permission-mode", "acceptEdits", **variables)
    assert target.read_text() == "a note\n"
    assert len(model.results) == 1
    assert DONE in said


def _write(path: str) -> ChooseCall:
    return lambda names: ("Write", {"file_path": path, "content": "a note\n"}) if "Write" in names else None

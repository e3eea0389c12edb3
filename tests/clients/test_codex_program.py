"""``@openai/codex``: it runs a command by its own tool, over OpenAI's Responses, the only wire that it speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from clients.conftest import Asked, Program
from clients.scripted_model import DONE, ScriptedModel

CONFIGURATION = """\
model = "bench"
model_provider = "sage"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
web_search = "disabled"

[features]
plugins = false  # it looks for some on the internet

[analytics]
enabled = false

[model_providers.sage]
name = "SAGE"
base_url = "{base_url}"
env_key = "SAGE_KEY"
wire_api = "responses"
"""
COMMAND = "echo from the tool > note.txt"


def call_shell(names: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Whichever tool this version runs commands with."""
    if "exec_command" in names:
        return "exec_command", {"cmd": COMMAND}
    if "shell_command" in names:
        return "shell_command", {"command": COMMAND}
    return ("shell", {"command": ["sh", "-c", COMMAND]}) if "shell" in names else None


def test_codex_runs_a_command(asked: Asked, program: Callable[[str], Program]) -> None:
    codex = program("codex")
    model = asked.use(ScriptedModel(call_shell))
    (codex.home / ".codex").mkdir()
    (codex.home / ".codex/config.toml").write_text(CONFIGURATION.format(base_url=asked.base_url))
    said = codex.run("exec", "--skip-git-repo-check", "Write a note.", SAGE_KEY=asked.gateway.key)
    assert (codex.project / "note.txt").read_text() == "from the tool\n"
    assert len(model.results) == 1
    assert DONE in said

"""`docs/services.md`: every shell block runs as it stands, for an ordinary user, on a real server with a real model."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sage_process import ROOT, sage, serving, with_command

pytestmark = pytest.mark.slow
TEXT = (ROOT / "docs" / "services.md").read_text()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each block answered, a JSON value a call; all of them run in one shell, in their order."""
    place: Path = tmp_path_factory.mktemp("docs")
    env = with_command(place)
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    with serving(["--port", "0"], env, place) as running:
        made = sage(["user", "add", "me", "--password-stdin"], env, cwd=place, stdin="a long password\n")
        assert made.returncode == 0, made.stderr
        script = "set -e\n" + "\n".join(f"{block}\nprintf '\\n=====\\n'" for block in blocks)
        script = script.replace("http://127.0.0.1:8000", running.url)
        script = script.replace('curl -sS -H "A', 'curl -sS --fail-with-body -w "\\n" -H "A')  # a line an answer
        done = subprocess.run(["bash", "-c", script], env=env, cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = done.stdout.split("\n=====\n")[:-1]
    assert len(parts) == len(blocks)
    return [[json.loads(line) for line in part.splitlines() if line.strip()] for part in parts]


def test_every_block_does_what_it_says(answers: list[list[Any]]) -> None:
    _, kv, vdb, memory, chat = answers
    assert kv == [
        {"key": "users/42/style"},
        {"key": "users/42/style", "value": {"theme": "dark"}},
        {"keys": ["users/42/style"], "next": None},
        {"deleted": True},
        {"deleted": 0},
    ]
    assert vdb[0] == {"ids": ["a", "b"]}
    assert [found["id"] for found in vdb[1]["results"]] == ["a"]
    assert vdb[2]["metadata"] == vdb[3]["metadata"] == {"year": 2025}
    assert vdb[4] == {"deleted": True}
    stored, found, session, cleared = memory
    assert [memory["id"] for memory in found["results"]] == [stored["id"]]
    assert (session["count"], session["memories"][0]["content"], cleared) == (1, "Mei lives in Lyon.", {"deleted": 1})
    first, second = chat
    assert first["memories"] == []
    assert "I drink oolong." in [memory["text"] for memory in second["memories"]]
    assert "oolong" in second["text"].lower()

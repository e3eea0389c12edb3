"""`docs/search.md`: every block runs as it stands, on a real server with the real local model."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loaded_process import loaded_python
from sage_process import ROOT, Serving, sage, serving, with_command

pytestmark = pytest.mark.slow
TEXT = (ROOT / "docs" / "search.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def env(place: Path) -> dict[str, str]:
    return with_command(place)


@pytest.fixture(scope="module")
def server(place: Path, env: dict[str, str]) -> Iterator[Serving]:
    with serving(["--port", "0"], env, place) as running:
        made = sage(["user", "add", "me", "--password-stdin"], env, cwd=place, stdin="a long password\n")
        assert made.returncode == 0, made.stderr
        yield running


@pytest.fixture(scope="module")
def answers(server: Serving, place: Path, env: dict[str, str]) -> list[list[Any]]:
    """What each shell block answered, a JSON value a call; all of them run in one shell, in their order."""
    parts = [f"{block}\nprintf '\\n=====\\n'" for block in blocks("sh")]
    script = "set -e\n" + "\n".join(parts).replace(ADDRESS, server.url)
    script = script.replace('curl -sS -H "A', 'curl -sS --fail-with-body -w "\\n" -H "A')  # a line an answer
    done = subprocess.run(["bash", "-c", script], env=env, cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.split("\n=====\n")
    assert len(told) == len(parts) + 1
    return [[json.loads(line) for line in part.splitlines() if line.strip()] for part in told[:-1]]


def ids(answer: dict[str, Any]) -> list[str]:
    return [result["id"] for result in answer["results"]]


def test_every_shell_block_does_what_it_says(answers: list[list[Any]]) -> None:
    first, documents, searching, signs, filters, made, moved, sharded, chinese, sourced = answers
    assert first[0] == {"ids": ["tea", "cha", "moon"], "inserted": 3, "updated": 0}
    assert ids(first[1])[0] == "tea"
    assert documents[0]["inserted"] == 2
    assert documents[1]["id"] == "notes/1"
    assert [document["id"] for document in documents[2]["documents"]] == ["tea", "moon"]
    assert documents[3] == {"deleted": 2}
    assert ids(searching[0]) == ["moon"]
    assert "<em>base</em>" in searching[0]["results"][0]["highlights"][0]
    assert [ids(answer)[0] for answer in searching[1]["answers"]] == ["tea", "cha"]
    assert "tea" not in ids(signs[0])
    assert set(ids(filters[0])) == {"cha", "moon"}
    assert made[0]["name"] == "文章"
    assert [found["name"] for found in made[1]["collections"]] == ["default", "文章"]
    assert (moved[0]["name"], moved[0]["documents"]) == ("copy", 3)
    assert moved[1]["name"] == "copy"
    assert (sharded[0]["shards"], sharded[1]["inserted"], ids(sharded[2])) == (4, 2, ["1", "2"])
    assert ids(chinese[0])[0] == "cha"
    assert "Selene" in sourced[0]["text"]
    assert [source["id"] for source in sourced[0]["sources"]] == ["moon"]


def test_every_python_block_runs(answers: list[list[Any]], server: Serving, place: Path, env: dict[str, str]) -> None:
    sdk, store, service = blocks("python")
    key = sage(["key", "add", "--user", "me"], env, cwd=place).stdout.strip()
    sdk = sdk.replace(ADDRESS, server.url).replace('api_key="…"', f"api_key={key!r}")
    other = {**env, "SAGE_DATA_DIR": str(place / "own")}
    for code, said in ((sdk, "Selene"), (store, "tea "), (service, "Selene")):
        done = subprocess.run(
            [*loaded_python(other), "-c", code], env=other, cwd=place, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout

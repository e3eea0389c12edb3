"""The command line as a client: every natural slip is one line that says what to do, and exit code 1."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from running_gateway import Running
from sage_process import SAGE, environment, sage
from upstream import Received, Script, Upstream, reply, stream

from sage.middleware.cli.models import describe

pytestmark = pytest.mark.slow


def failed(done, *texts: str) -> None:
    assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
    assert done.stderr.startswith("sage: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for text in texts:
        assert text in done.stderr


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    return gateway(llm={"providers": {"local": {"models": {"gemma-3-270m": None}}}})


def run(running: Running, tmp_path: Path, *words: str, **extra: str):
    """``sage WORDS…`` on another data directory than the server's."""
    return sage(words, environment(tmp_path / "mine", **{"SAGE_URL": running.url, **extra}), cwd=tmp_path)


def test_no_server(tmp_path: Path) -> None:
    env = environment(tmp_path, SAGE_URL="http://127.0.0.1:9")
    failed(sage(["models", "list"], env, cwd=tmp_path), "no gateway answers at http://127.0.0.1:9", "sage serve")


@pytest.mark.parametrize("url", ["localhost:8000", "http://[::1", "ftp://x", "http://"])
def test_an_address_that_is_none(tmp_path: Path, url: str) -> None:
    failed(sage(["models", "list"], environment(tmp_path, SAGE_URL=url), cwd=tmp_path), "SAGE_URL", "http://127.0.0.1")


@pytest.mark.parametrize("key", ["sk-sage-a\nb", "“sk-sage-abc”"])
def test_a_key_that_no_header_carries_is_not_echoed(tmp_path: Path, key: str) -> None:
    done = sage(["models", "list"], environment(tmp_path, SAGE_API_KEY=key), cwd=tmp_path)
    failed(done, "SAGE_API_KEY")
    assert "sk-sage" not in done.stderr


def test_the_sdks_base_url_is_understood(running: Running, tmp_path: Path) -> None:
    done = run(running, tmp_path, "models", "list", SAGE_URL=f"{running.url}/v1", SAGE_API_KEY=running.key)
    assert done.returncode == 0
    assert done.stdout.startswith("NAME")


def test_a_gateway_asks_for_a_credential(running: Running, tmp_path: Path) -> None:
    failed(run(running, tmp_path, "models", "list"), "no credential", "sage user add NAME --role admin")
    failed(run(running, tmp_path, "models", "list", SAGE_API_KEY="sk-1234"), "API key")


def test_several_users_are_told_how_to_choose_only_when_it_matters(running: Running, tmp_path: Path) -> None:
    env = environment(tmp_path / "mine")
    for name in ("one", "two"):
        created = sage(["user", "add", name, "--password-stdin"], env, cwd=tmp_path, stdin="a long password\n")
        assert created.returncode == 0
    failed(run(running, tmp_path, "models", "list"), "SAGE_API_KEY=$(sage token --user NAME)")
    failed(sage(["models", "list"], {**env, "SAGE_URL": "http://127.0.0.1:9"}, cwd=tmp_path), "no gateway answers")


def test_an_unknown_model_and_a_missing_scope(running: Running, tmp_path: Path) -> None:
    failed(run(running, tmp_path, "generate", "nope", "x", SAGE_API_KEY=running.key), "model 'nope' is not registered")
    key = running.new_key(scopes=["generate"])
    failed(run(running, tmp_path, "models", "list", SAGE_API_KEY=key), "lacks the scope 'models:read'")


def test_a_whole_key_may_be_given_to_revoke_and_is_not_echoed(tmp_path: Path) -> None:
    env = environment(tmp_path)
    sage(["user", "add", "one", "--password-stdin"], env, cwd=tmp_path, stdin="a long password\n")
    key = sage(["key", "add", "--user", "one"], env, cwd=tmp_path).stdout.strip()
    done = sage(["key", "revoke", key], env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    secret = key.split("-")[3]
    assert secret[:6] not in done.stderr
    other = f"sk-sage-zzzzzzzzzzzz-{secret}"
    done = sage(["key", "revoke", other], env, cwd=tmp_path)
    failed(done, "no API key 'zzzzzzzzzzzz'")
    assert secret[:6] not in done.stderr


def test_config_check_tells_what_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "llm:\n"
        "  providers: {local: {models: {mine: {path: /nowhere/x.gguf}}}}\n"
        "  models: {chat: {deployments: [{provider: openai, model: m}], fallbacks: [nope]}}\n"
    )
    done = sage(["config", "check"], environment(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    for line in (
        "model 'mine' cannot serve: there is no file /nowhere/x.gguf",
        "model 'chat' falls back on 'nope', which is not registered",
        "model 'chat': provider 'openai' cannot serve: it is not configured: set OPENAI_API_KEY",
    ):
        assert line in done.stdout


def test_a_single_underscore_between_levels_is_a_slip(tmp_path: Path) -> None:
    done = sage(["config", "check"], environment(tmp_path, SAGE_API_PORT="1"), cwd=tmp_path)
    failed(done, "SAGE_API_PORT", "did you mean SAGE_API__PORT?")


# Models: an Ollama of a few lines, whose one model is loaded once it was asked to be.


@pytest.fixture
def ollama() -> Iterator[Upstream]:
    with Upstream() as up:
        up.handler = OllamaLike()
        yield up


class OllamaLike:
    def __init__(self) -> None:
        self.loaded = False
        self.pull: Script = _lines(
            {"status": "pulling manifest"},
            {"status": "pulling abc", "total": 3 * 2**20, "completed": 2**20},
            {"status": "pulling abc", "total": 3 * 2**20, "completed": 3 * 2**20},
            {"status": "success"},
        )

    def __call__(self, request: Received) -> Script:
        if request.path == "/api/ps":
            entry = {"model": "llama3:1b", "name": "llama3:1b", "size": 3 * 2**20, "size_vram": 0}
            return reply({"models": [entry] if self.loaded else []})
        if request.path == "/api/pull":
            return self.pull
        if request.path in ("/api/generate", "/api/chat"):
            self.loaded = request.body.get("keep_alive") != 0
            return reply({"model": "llama3:1b", "response": "", "done": True})
        return reply({"models": []})


def _lines(*steps: dict) -> Script:
    return stream([json.dumps(step).encode() + b"\n" for step in steps], no_done=True)


@pytest.fixture
def ollama_gateway(ollama: Upstream, gateway: Callable[..., Running]) -> Running:
    provider = {"kind": "ollama", "base_url": ollama.url.removesuffix("/v1"), "allow_pull": ["llama3*"]}
    models = {"small": {"deployments": [{"provider": "house", "model": "llama3:1b"}], "fallbacks": ["spare"]}}
    models["spare"] = {"deployments": [{"provider": "house", "model": "spare"}]}
    return gateway(
        llm={"providers": {"house": provider, "local": {"models": {"gemma-3-270m": None}}}, "models": models}
    )


def test_models_load_show_list_and_unload(ollama_gateway: Running, tmp_path: Path) -> None:
    def ask(*words: str):
        done = run(ollama_gateway, tmp_path, "models", *words, SAGE_API_KEY=ollama_gateway.key)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    assert ask("load", "small").startswith("small: ready (")
    head, *rows = ask("list").splitlines()
    small, spare = (row for row in rows if not row.startswith("local/"))  # the built-in embedders
    assert head.split() == ["NAME", "STATE", "PROVIDER", "MEMORY", "IN", "FLIGHT", "LAST", "USED"]
    assert small.split()[:5] == ["small", "ready", "house", "3", "MiB"]
    assert spare.split()[:4] == ["spare", "unloaded", "house", "-"]
    shown = ask("show", "small").splitlines()
    assert shown[0] == "small: ready (3 MiB of memory, last used never)"
    assert shown[1:] == ["  house/llama3:1b: ready", "  falls back on: spare"]
    assert json.loads(ask("show", "small", "--json"))["memory"] == 3 * 2**20
    names = [model["name"] for model in json.loads(ask("list", "--json"))["models"]]
    assert [name for name in names if not name.startswith("local/")] == ["small", "spare"]
    assert ask("unload", "small").startswith("small: unloaded (")


def test_what_show_says_of_a_model_in_trouble() -> None:
    breaker = {"state": "open", "failures": 5, "opens_for": 4.2, "last_failure": "it answered 500"}
    up = {"provider": "up", "model": "m", "state": "ready", "in_flight": 2, "waiting": 3}
    up |= {"breaker": breaker, "cooling_for": 7.0}
    down = {"provider": "local", "model": "n", "state": "failed", "in_flight": 0, "waiting": 0}
    down |= {"breaker": {"state": "closed"}, "cooling_for": 0.0}
    model = {"name": "x", "state": "ready", "last_used": None, "memory": 3 * 2**30, "source": "runtime", "pin": True}
    model |= {"deployments": [up, down], "fallbacks": ["y"], "error": {"message": "died", "log": ["one", "two"]}}
    assert describe(model) == [
        "x: ready (3.0 GiB of memory, from runtime, pin, last used never)",
        "  up/m: ready (2 running, 3 waiting, breaker open for 4 s: it answered 500, cooling down for 7 s)",
        "  local/n: failed",
        "  falls back on: y",
        "  error: died",
        "    | one",
        "    | two",
    ]


def test_a_pull_tells_each_step_on_a_line_of_stderr(ollama_gateway: Running, tmp_path: Path) -> None:
    done = run(ollama_gateway, tmp_path, "models", "pull", "small", SAGE_API_KEY=ollama_gateway.key)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["pulling manifest", "pulling abc (3 MiB)", "success"]
    assert done.stdout.startswith("small: pulled (")


def test_a_pull_that_fails_ends_with_one_line(ollama_gateway: Running, ollama: Upstream, tmp_path: Path) -> None:
    failed(run(ollama_gateway, tmp_path, "models", "pull", "house/qwen", SAGE_API_KEY=ollama_gateway.key), "allow_pull")
    ollama.handler.pull = _lines({"status": "pulling manifest"}, {"error": "no space\nleft"})
    done = run(ollama_gateway, tmp_path, "models", "pull", "small", SAGE_API_KEY=ollama_gateway.key)
    assert (done.returncode, done.stdout) == (1, "")
    first, last = done.stderr.splitlines()
    assert first == "pulling manifest"
    assert last.startswith("sage: ")
    assert "no space left" in last


def on_a_terminal(running: Running, tmp_path: Path, *words: str, command: Sequence[str] = SAGE) -> tuple[int, str, str]:
    """``sage WORDS…`` with its stderr on a terminal: status, stdout, and what the terminal shows."""
    terminal, stderr = pty.openpty()
    env = environment(tmp_path / "mine", SAGE_URL=running.url, SAGE_API_KEY=running.key, TERM="xterm", COLUMNS="120")
    process = subprocess.Popen(
        [*command, *words], env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, text=True
    )
    os.close(stderr)
    drawn = b""
    try:
        while data := os.read(terminal, 65536):
            drawn += data
    except OSError:
        pass  # the terminal's other side is closed
    finally:
        os.close(terminal)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output, re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", drawn.decode())


def test_a_terminal_shows_bars(ollama_gateway: Running, ollama: Upstream, tmp_path: Path) -> None:
    status, output, drawn = on_a_terminal(ollama_gateway, tmp_path, "models", "pull", "small")
    assert (status, output.startswith("small: pulled (")) == (0, True)
    assert "pulling abc" in drawn
    assert "3.1/3.1 MB" in drawn
    assert "━━━" in drawn
    ollama.handler.pull = _lines({"status": "pulling manifest"}, {"error": "disk full"})
    status, output, drawn = on_a_terminal(ollama_gateway, tmp_path, "models", "pull", "small")
    assert (status, output) == (1, "")
    assert drawn.rstrip().splitlines()[-1].startswith("sage: ")
    assert "disk full" in drawn.rstrip().splitlines()[-1]


def test_without_rich_a_terminal_shows_lines(ollama_gateway: Running, tmp_path: Path) -> None:
    script = "import sys; sys.modules['rich.progress'] = None; from sage.middleware.cli.main import main; main()"
    command = [sys.executable, "-c", script]
    status, output, drawn = on_a_terminal(ollama_gateway, tmp_path, "models", "pull", "small", command=command)
    assert (status, output.startswith("small: pulled (")) == (0, True), drawn
    assert drawn.splitlines() == ["pulling manifest", "pulling abc (3 MiB)", "success"]
    status, output, drawn = on_a_terminal(ollama_gateway, tmp_path, "models", "load", "small", command=command)
    assert (status, output.startswith("small: ready ("), drawn) == (0, True, "")


def test_a_terminal_shows_that_a_load_goes_on(ollama_gateway: Running, tmp_path: Path) -> None:
    status, output, drawn = on_a_terminal(ollama_gateway, tmp_path, "models", "load", "small")
    assert (status, output.startswith("small: ready (")) == (0, True)
    assert "loading small" in drawn
    assert "0:00:0" in drawn


def test_models_are_added_and_removed(ollama_gateway: Running, tmp_path: Path) -> None:
    def ask(*words: str):
        return run(ollama_gateway, tmp_path, "models", *words, SAGE_API_KEY=ollama_gateway.key)

    created = ask(
        "add", "team/mix", "--deployment", "house/llama3:1b:3", "--deployment", "house/qwen:half", "--fallback", "small"
    )
    assert created.returncode == 0, created.stderr
    shown = ollama_gateway.get("/models/team/mix").json()
    assert [(d["model"], d["weight"]) for d in shown["deployments"]] == [("llama3:1b", 3), ("qwen:half", 1)]
    assert shown["fallbacks"] == ["small"]
    failed(ask("remove", "team/mix?v=2"), "team/mix?v=2")
    removed = ask("remove", "team/mix")
    assert (removed.returncode, removed.stdout) == (0, "team/mix: removed\n")
    assert ollama_gateway.get("/models/team/mix").status_code == 404
    failed(ask("remove", "team/mix"), "team/mix")
    failed(ask("add", "small", "--deployment", "house/x"), "small")
    assert ask("add", "x", "--deployment", "house").returncode == 2

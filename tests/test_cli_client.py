"""The command line as a client: every natural slip is one line that says what to do, and exit code 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from running_gateway import Running
from sage_process import environment, sage

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
        made = sage(["user", "add", name, "--password-stdin"], env, cwd=tmp_path, stdin="a long password\n")
        assert made.returncode == 0
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
    assert done.returncode == 0
    for line in (
        "model 'mine' cannot serve: there is no file /nowhere/x.gguf",
        "model 'chat' falls back on 'nope', which is not registered",
        "model 'chat': provider 'openai' cannot serve: it is not configured: set OPENAI_API_KEY",
    ):
        assert line in done.stdout


def test_a_single_underscore_between_levels_is_a_slip(tmp_path: Path) -> None:
    done = sage(["config", "check"], environment(tmp_path, SAGE_API_PORT="1"), cwd=tmp_path)
    failed(done, "SAGE_API_PORT", "did you mean SAGE_API__PORT?")

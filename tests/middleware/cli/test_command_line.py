"""What every command has: help that says what is meant, tables that fit, and 130 after Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running_gateway import Running
from sage_process import SAGE, environment, sage, serving
from upstream import Upstream

from sage.middleware.cli.output import table, width

ROWS = [
    ("ID", "USER", "NAME", "SCOPES", "EXPIRES", "STATE"),
    (
        "j7envkghwpha",
        "张伟",
        "给网上商店的持续集成用的密钥，请勿分享",
        "generate, search, collections:write",
        "2026-12-30 00:41",
        "",
    ),
    ("k7envkghwpha", "admin", "x", "all", "", "revoked"),
]


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_a_table_fits_and_says_everything(columns: int) -> None:
    lines = list(table(ROWS, columns))
    assert max(map(width, lines)) <= columns
    text = "".join(lines)
    for row in ROWS:
        for cell in row:
            missing = [char for char in cell if char not in text]
            assert not missing
    if columns >= 60:
        assert [line for line in lines if line.startswith(("j7envkghwpha ", "k7envkghwpha "))] == [lines[1], lines[-1]]
    if columns == 80:
        assert "2026-12-30" in text
        assert lines[-1].split() == ["k7envkghwpha", "admin", "x", "all", "revoked"]
        assert lines[1].startswith("j7envkghwpha  张伟   ")


def test_a_table_that_fits_stays_as_it_is() -> None:
    assert list(table([("A", "B"), ("one two", "x")], 80)) == ["A        B", "one two  x"]
    assert list(table([("A", "B"), ("one two " * 20, "x")]))[1] == "one two " * 20 + "  x"


@pytest.mark.slow
def test_lists_fit_eighty_columns(tmp_path: Path) -> None:
    env = {**environment(tmp_path), "COLUMNS": "80"}

    def run(*words: str, stdin: str = "") -> str:
        done = sage(words, env, cwd=tmp_path, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("user", "add", "me", "--role", "admin", "--password-stdin", stdin="a long password\n")
    run("key", "add", "--user", "me", "--name", "给网上商店的持续集成用的密钥", "--model", "gpt-*", "--expires", "30d")
    run("key", "add", "--user", "me", "--scope", "generate", "--scope", "search", "--scope", "collections:write")
    lines = run("key", "list").splitlines()
    assert max(map(width, lines)) <= 80
    assert any("all but" in line for line in lines)


@pytest.mark.slow
def test_help_begins_with_serve_and_names_what_a_value_means(tmp_path: Path) -> None:
    env = environment(tmp_path, COLUMNS="100")
    page = sage(["--help"], env, cwd=tmp_path).stdout
    commands = re.findall(r"^│ (\w+)\s", page.partition("Commands")[2], re.MULTILINE)
    assert commands[0] == "serve"
    assert "--install-completion" in page
    added = sage(["key", "add", "--help"], env, cwd=tmp_path).stdout
    for value in ("--user NAME", "--scope SCOPE", "--model PATTERN", "--expires DURATION", "--config FILE"):
        assert value in " ".join(added.split())
    assert "Usage: sage models add [OPTIONS] {NAME}" in sage(["models", "add", "--help"], env, cwd=tmp_path).stdout


@pytest.mark.slow
def test_every_option_and_command_has_a_sentence_of_its_own() -> None:
    from typer.main import get_command

    from sage.middleware.cli.language.framework import texts, walk
    from sage.middleware.cli.main import app

    root = get_command(app)
    for command in walk(root):
        assert command.help, command.name
        for param in command.params:
            assert param.help, f"{command.name}: {param.name}"
        for _, _, text in texts(command):
            assert re.fullmatch(r"['A-Z].*[.)']", text, re.DOTALL), f"{command.name}: {text}"
            assert "may be repeated" not in text


@pytest.mark.slow
def test_version_and_completion(tmp_path: Path) -> None:
    env = environment(tmp_path)
    version = sage(["version"], env, cwd=tmp_path).stdout
    assert sage(["--version"], env, cwd=tmp_path).stdout == version
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", version)
    home = {**env, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    installed = sage(["--install-completion", "bash"], home, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    assert "sage" in (tmp_path / ".bashrc").read_text()
    asked = {**home, "_SAGE_COMPLETE": "complete_bash", "COMP_WORDS": "sage mod", "COMP_CWORD": "1"}
    assert sage([], asked, cwd=tmp_path).stdout.split() == ["models"]


@pytest.mark.slow
def test_ctrl_c_ends_the_server_with_130_and_sigterm_with_0(tmp_path: Path) -> None:
    with serving(["--port", "0", "--no-auth"], environment(tmp_path), tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 130
        assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_ctrl_c_while_an_answer_comes(gateway: Callable[..., Running], tmp_path: Path) -> None:
    with Upstream() as up:
        up.hang()
        running = gateway(llm={"providers": {"openai": {"api_key": "sk-x", "base_url": up.url}}})
        env = environment(tmp_path, SAGE_URL=running.url, SAGE_API_KEY=running.key)
        process = subprocess.Popen(
            [*SAGE, "generate", "openai/gpt", "hi"],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        up.wait_requests(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "")


@pytest.mark.slow
def test_ctrl_c_at_a_prompt(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(SAGE[0], [*SAGE, "user", "add", "me"], environment(tmp_path))
    shown = b""
    deadline = time.monotonic() + 30
    while b"Password" not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 1000)
    while termios.tcgetattr(terminal)[3] & termios.ECHO:  # what was typed until then is dropped
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130

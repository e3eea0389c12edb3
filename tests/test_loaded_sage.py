"""A command that is a fork of the loaded program does what one does that a shell starts."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from loaded_process import loaded
from sage_process import SAGE, environment, sage, with_command

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("words", "stdin", "status"),
    [
        (["user", "add", "--help"], "", 0),
        (["config", "check", "--json"], "", 0),
        (["user", "add", "me", "--password-stdin"], "a long password 你好\n", 0),
        (["nonsense"], "", 2),
        (["config", "check", "--config", "nowhere.yaml"], "", 1),
    ],
)
def test_it_reads_writes_and_ends_alike(tmp_path: Path, words: list[str], stdin: str, status: int) -> None:
    done = []
    for name in ("forked", "started"):
        place = tmp_path / name / "here"
        place.mkdir(parents=True)
        env = environment(Path("data"), COLUMNS="80")  # below the working directory
        if name == "forked":
            done.append(sage(words, env, cwd=place, stdin=stdin))
        else:
            done.append(
                subprocess.run([*SAGE, *words], env=env, cwd=place, input=stdin, capture_output=True, text=True)
            )
        assert (place / "data" / "sage.db").exists() == (words[0] == "user" and "--help" not in words)
    forked, started = done
    assert forked.returncode == started.returncode == status
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


def test_a_shell_finds_it_and_its_pipes_and_variables_are_those_of_the_shell(tmp_path: Path) -> None:
    env = with_command(tmp_path)
    script = "sage config init - | head -n 1; cd /; SAGE_LANG=zh sage nonsense 2>&1; echo $?"
    done = subprocess.run(["bash", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("#")
    assert "用法" in done.stdout
    assert lines[-1] == "2"


def test_a_signal_reaches_it_and_is_how_it_ends(tmp_path: Path) -> None:
    env = with_command(tmp_path)
    reading, writing = os.pipe()
    try:
        command = [str(tmp_path / "sage"), "user", "add", "me", "--password-stdin"]  # which nobody writes
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stdin=reading)
        os.close(reading)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
        watched = select.poll()
        watched.register(writing, 0)
        assert watched.poll(30_000) == [(writing, select.POLLERR)]  # nobody is there to read it
    finally:
        os.close(writing)


def test_a_server_ends_when_whoever_asked_for_it_is_killed(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    address = loaded(env)
    if address is None:
        pytest.skip("with full counts nothing is forked")
    asker = (
        "import os, sys, time; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from loaded_process import LoadedProcess\n"
        "server = LoadedProcess(sys.argv[1], ['serve', '--port', '0'], dict(os.environ), Path.cwd())\n"
        "print(server.pid, server.stdout.readline(), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", asker, address, str(Path(__file__).parent / "running")]
    process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        pid, _, welcome = process.stdout.readline().partition(" ")
        server = os.pidfd_open(int(pid))
        assert "listens on" in welcome
        assert not select.select([server], [], [], 0)[0]
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert select.select([server], [], [], 60)[0]
    os.close(server)

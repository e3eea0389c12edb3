"""The blocks of the READMEs, and how a test runs them as they stand."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ports import free_port
from project import ROOT

READMES = ("README.md", "README.zh-CN.md")
_ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):8000")


@dataclass(frozen=True)
class Block:
    """A block of code; ``language`` is what stands behind its fence."""

    language: str
    text: str

    def at(self, url: str) -> str:
        """Its text, for a gateway that listens at ``url`` in place of port 8000."""
        return _ADDRESS.sub(url, self.text)


def blocks(readme: str, language: str | None = None) -> list[Block]:
    """The blocks of a README in their order; with ``language``, only those of it."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = [Block(*parts) for parts in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    return [block for block in found if language in (None, block.language)]


def python_with(part: str) -> Block:
    """The one block of Python, the same in both READMEs, that has ``part``."""
    (block,) = [block for block in blocks(READMES[0], "python") if part in block.text]
    return block


def run_service_and_request(python: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    """Runs the block with ``LLMService`` until the one with ``requests`` has its answer; what that prints.

    They keep port 8000 where it is free.
    """
    service, request = python_with("LLMService").text, python_with("import requests").text
    if not _is_free(8000):
        port = free_port()
        service = service.replace("service.start()", f"service.start(port={port})")
        request = request.replace(":8000", f":{port}")
    program = subprocess.Popen(
        [*python, "-W", "error", "-c", service + "\nprint('started', flush=True)"],
        env=dict(env),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        first = program.stdout.readline()
        assert first == "started\n", program.communicate()[1]
        done = subprocess.run(
            [*python, "-c", request], env=dict(env), cwd=cwd, capture_output=True, text=True, timeout=60
        )
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=30)
        assert program.returncode == 0, errors
        assert "Traceback" not in errors
    finally:
        if program.poll() is None:
            program.kill()
            program.communicate()
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_terminal(script: str, answers: Mapping[str, str], env: Mapping[str, str], cwd: Path) -> str:
    """Runs a shell script on a terminal, and types an answer, which is a line, whenever one of the prompts shows.

    A prompt is given with the space at its end: what is typed before that is thrown away.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execvpe("bash", ["bash", "-ec", script], dict(env))
    shown, begin = "", 0
    try:
        while select.select([terminal], [], [], 120)[0] and (data := os.read(terminal, 65536)):
            shown += data.decode(errors="replace")
            for prompt, answer in answers.items():
                if prompt in shown[begin:]:
                    begin = len(shown)
                    os.write(terminal, answer.encode() + b"\n")
    except OSError:
        pass  # the script has ended
    finally:
        os.close(terminal)  # a script that waits for more is hung up
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, shown
    return shown


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

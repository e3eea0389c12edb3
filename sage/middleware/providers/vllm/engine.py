"""The child program of managed vLLM servers: starts the configured command, and announces when the server is ready.

``python -m sage.middleware.providers.vllm.engine`` reads its options (:class:`VllmServerOptions`) as one line of JSON
from the environment variable ``SAGE_ENGINE_OPTIONS`` and the key from ``SAGE_ENGINE_KEY``, which the server gets as
``VLLM_API_KEY``. The server listens on a Unix socket in a directory that only its user can enter, or on a free port of
127.0.0.1 if it does not have ``--uds`` or the path would be too long. Its output goes to our stderr. Once it answers
its health check, one line on stdout has its address; if it ends before, the line has the cause from its log. SIGTERM
and the end of stdin end the server; its directory is removed first.

The program imports nothing of the gateway and stays small, since it runs as long as the server does. vLLM is in an
environment of its own: neither its Python nor the versions of its packages are ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PREFIX = "sage-vllm-"
_LONGEST_PATH = 100
"""Bytes of a Unix socket's path: Linux takes 107, BSD 103."""
_POLL = 0.2
"""Seconds between two health checks."""
_OUR_VARIABLES = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SAGE_ENGINE_KEY", "SAGE_ENGINE_OPTIONS"})
_FORBIDDEN = ("VLLM_SERVER_DEV_MODE",)
"""Developer mode lets everybody who reaches the server run code there."""
_ERROR = re.compile(r"(?:^|\s)((?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception)|[\w.-]+: error): (.+)$")
_NO_CAUSE = re.compile(r"Engine core initialization failed|Engine process failed to start")


@dataclass(frozen=True, slots=True)
class VllmServerOptions:
    """What the provider hands to this program."""

    command: list[str]
    """Starts a server when the model's name and its arguments follow."""
    model: str
    args: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    adapters: bool = False
    """LoRA adapters may be loaded while the server runs."""


def main() -> int:
    """Runs the server until it is to end; returns the server's status."""
    wakeup = _wakeup()
    try:
        options = VllmServerOptions(**json.loads(os.environ["SAGE_ENGINE_OPTIONS"]))
        key = os.environ["SAGE_ENGINE_KEY"]
    except (KeyError, TypeError, ValueError) as exc:
        return _announce({"error": f"SAGE_ENGINE_OPTIONS and SAGE_ENGINE_KEY are not what this program reads: {exc!r}"})
    address = ListeningAddress.on_socket() or ListeningAddress.on_port()
    try:
        server = VllmServerProcess(options, key, address, wakeup)
        status = server.run()
        if server.refused_socket:
            address.remove()
            address = ListeningAddress.on_port()
            server = VllmServerProcess(options, key, address, wakeup)
            status = server.run()
        if not server.served and not server.ending:
            _announce({"error": f"the vLLM server of model '{options.model}' {_how(status)}: {server.cause}"})
    except CannotStart as exc:
        return _announce({"error": str(exc)})
    finally:
        address.remove()
    return status if status >= 0 else 128 - status


def _announce(line: dict[str, str]) -> int:
    os.write(1, json.dumps(line).encode() + b"\n")
    return 1


def _wakeup() -> int:
    """The read end of a pipe that becomes readable with each SIGTERM and SIGCHLD."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name} before it served"
    return f"exited with status {status} before it served"


class ListeningAddress:
    """Where the server listens: a Unix socket in a directory of its own, or a port of 127.0.0.1."""

    def __init__(self, directory: Path | None, lock: int = -1, port: int = 0) -> None:
        self.directory = directory
        self._lock = lock
        self._port = port

    @classmethod
    def on_socket(cls) -> ListeningAddress | None:
        """A socket in a new directory (mode 0700); ``None`` if its path would be too long for a socket."""
        parent = Path(tempfile.gettempdir())
        if len(os.fsencode(parent)) + 30 > _LONGEST_PATH:
            return None
        _sweep(parent)
        while True:
            directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            lock = _locked(directory / "lock", create=True)
            if lock is not None and (directory / "lock").exists():
                return cls(directory, lock)  # else another launcher's sweep has removed the directory

    @classmethod
    def on_port(cls) -> ListeningAddress:
        with socket.create_server(("127.0.0.1", 0)) as free:
            return cls(None, port=free.getsockname()[1])

    @property
    def arguments(self) -> list[str]:
        if self.directory is not None:
            return ["--uds", self.path]
        return ["--host", "127.0.0.1", "--port", str(self._port)]

    @property
    def path(self) -> str:
        return str(self.directory / "s") if self.directory is not None else ""

    @property
    def announcement(self) -> dict[str, str]:
        if self.directory is not None:
            return {"base_url": "http://localhost/v1", "socket": self.path, "health": "/health"}
        return {"base_url": f"http://127.0.0.1:{self._port}/v1", "health": "/health"}

    def answers(self) -> bool:
        """Whether ``GET /health`` is answered with 200."""
        family = socket.AF_UNIX if self.directory is not None else socket.AF_INET
        address: Any = self.path if self.directory is not None else ("127.0.0.1", self._port)
        try:
            with socket.socket(family) as connection:
                connection.settimeout(2)
                connection.connect(address)
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                words = connection.recv(1024).split(b" ", 2)
        except OSError:
            return False
        return len(words) > 1 and words[0].startswith(b"HTTP/") and words[1] == b"200"

    def remove(self) -> None:
        """Removes the directory, so that no client can connect any more; may be called more than once."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Removes the directories of launchers that were killed: those of ours whose lock no process holds."""
    for directory in parent.glob(_PREFIX + "*"):
        lock = _locked(directory / "lock", create=False)
        if lock is not None:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)


def _locked(file: Path, *, create: bool) -> int | None:
    """A descriptor that holds the lock on ``file`` until it is closed.

    ``None`` means that another process holds the lock, or that the file is not ours.
    """
    try:
        handle = os.open(file, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o600)
    except OSError:
        return None
    try:
        if os.fstat(handle).st_uid == os.getuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


class CannotStart(Exception):
    """The configured program does not exist, or may not be run."""


class VllmServerProcess:
    """One run of the configured command."""

    def __init__(self, options: VllmServerOptions, key: str, address: ListeningAddress, wakeup: int) -> None:
        self.served = False
        self.ending = False
        self.refused_socket = False
        """This version of vLLM does not have ``--uds``."""
        self._address = address
        self._wakeup = wakeup
        self._model = options.model
        self._lines: deque[str] = deque(maxlen=400)
        self._rest = b""
        command = [*options.command, options.model, *options.args]
        # Last, so that they overrule the configured arguments.
        self._command = [*command, "--served-model-name", options.model, *address.arguments]
        self._environment = _environment(options, key)

    def run(self) -> int:
        """Starts the server, announces when it is ready, and returns its status after its end."""
        child = self._start()
        assert child.stdout is not None
        with child.stdout as output:
            os.set_blocking(output.fileno(), False)
            watched = [0, self._wakeup, output.fileno()]
            while child.poll() is None:
                ready = select.select(watched, (), (), None if self.served or self.ending else _POLL)[0]
                self._look(child, ready, watched, output.fileno())
            self._pass_on(output.fileno())
        self.refused_socket = child.returncode == 2 and not self.served and self._refused("--uds")
        return child.returncode

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 (from the configuration)
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        except OSError as exc:
            raise CannotStart(f"the program '{self._command[0]}' cannot be started: {exc.strerror}") from exc

    def _look(self, child: subprocess.Popen[bytes], ready: list[int], watched: list[int], output: int) -> None:
        if output in ready and not self._pass_on(output):
            watched.remove(output)
        must_end = self._wakeup in ready and signal.SIGTERM in os.read(self._wakeup, 4096)
        if 0 in ready and not os.read(0, 4096):
            watched.remove(0)
            must_end = True
        if must_end and not self.ending:
            self.ending = True
            self._address.remove()
            child.terminate()
        if not self.served and not self.ending and self._address.answers():
            self.served = True
            _announce(self._address.announcement)

    def _pass_on(self, output: int) -> bool:
        """Copies the server's output to our stderr; false at the end of the output."""
        while True:
            try:
                data = os.read(output, 65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            with contextlib.suppress(OSError):  # the gateway has ended, and this program will end, too
                os.write(2, data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._rest = self._rest[:4096]
            self._lines.extend(line.decode("utf-8", "replace").rstrip() for line in lines)

    def _refused(self, option: str) -> bool:
        return any("unrecognized arguments" in line and option in line for line in self._lines)

    @property
    def cause(self) -> str:
        """Why the server ended, from its log: the last error that names a cause, else the last line."""
        lines = [line for line in (*self._lines, self._rest.decode("utf-8", "replace")) if line.strip()]
        for number in range(len(lines) - 1, -1, -1):
            match = _ERROR.search(lines[number])
            if match is None or _NO_CAUSE.search(lines[number]):
                continue
            text = match[0].strip()
            if "validation error" in text:  # pydantic's: the next line has the fault
                text = "; ".join(
                    [text, *(line.partition(" [type=")[0].strip() for line in lines[number + 1 : number + 2])]
                )
            return text[:500]
        return lines[-1].strip()[:500] if lines else "it wrote nothing"


def _environment(options: VllmServerOptions, key: str) -> dict[str, str]:
    """The server's environment: ours without the variables of our own Python, the configured ones, and the key."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OUR_VARIABLES}
    environment = {**inherited, **options.environment, "VLLM_API_KEY": key}
    if options.adapters:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    for name in _FORBIDDEN:
        if environment.pop(name, None) is not None:
            print(f"{name} is never set for a server of the gateway's", file=sys.stderr, flush=True)  # noqa: T201
    return environment


if __name__ == "__main__":
    sys.exit(main())

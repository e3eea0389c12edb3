"""``sage`` commands and programs that use ours, as forks of a process that has loaded the program: most of what a short
one takes is loading.

Each is a process of its own with its arguments, environment, directory and files, and ends as any Python does, but that
a command does not take its modules apart. With
``SAGE_TEST_FULL=1``, on a terminal, where it would go on for ever, and where the environment changes how Python starts,
it is ``python -m`` as ever.

    python -IS loaded_sage.py SOCKET ARGUMENTS…             asks for a command there, and has its files and its status
    python -IS loaded_sage.py --program SOCKET FILE …       the same for a program, or for ``-c CODE``
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMAND = (sys.executable, "-m", "sage.middleware.cli.main")
_ENDLESS = ("serve", "worker", "flower", "chat")
"""Commands that a script ends by a signal, whatever the signal."""
_LATE = (
    "sage.middleware.app.server",
    "sage.middleware.auth.accounts",
    "sage.middleware.auth.tokens",
    "sage.middleware.llm",
    "sage.middleware.providers.local.provider",
)
"""What commands load only when they need it."""
_LARGEST = 1 << 20
_ENDS_WITHIN = 10.0
"""Seconds."""


def shapes_python(env: dict[str, str]) -> dict[str, str]:
    """The variables that an interpreter reads when it starts."""
    return {name: value for name, value in env.items() if name.startswith(("PYTHON", "LC_", "LANG", "LD_"))}


def ask(
    address: str, arguments: list[str], env: dict[str, str], cwd: str, files: list[int], script: str | None = None
) -> socket.socket:
    """Starts a command on ``files`` (stdin, stdout, stderr), or the program of that path. The connection has its id,
    then its end (:func:`told`)."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
    connection.connect(address)
    message = json.dumps({"arguments": arguments, "env": env, "cwd": cwd, "script": script})
    socket.send_fds(connection, [message.encode("utf-8", "surrogateescape")], files)
    return connection


def told(connection: socket.socket) -> int:
    """The id of the process, or how it ended: its status, or minus the signal."""
    message = connection.recv(64)
    assert message, "the process that has loaded `sage` is gone"
    return int(message)


class _Server:
    """Forks at each connection, until its standard input ends."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    def run(self) -> tuple[str | None, list[str]]:
        """Returns in each process that is to be a command or a program, with its path and its arguments."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for a command leave no zombies
        while True:
            ready, _, _ = select.select([self._listening, 0], [], [])
            if 0 in ready:
                os._exit(0)
            connection, _ = self._listening.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._listening.close()
                return self._become_command(connection)
            connection.close()

    def _become_command(self, connection: socket.socket) -> tuple[str | None, list[str]]:
        message, files, _, _ = socket.recv_fds(connection, _LARGEST, 3)
        asked = json.loads(message.decode("utf-8", "surrogateescape"))
        if (pid := os.fork()) != 0:
            try:
                connection.send(b"%d" % pid)
            except BrokenPipeError:  # whoever asked has ended meanwhile
                os.kill(pid, signal.SIGKILL)
                os._exit(0)
            status = _status_of(pid, connection)
            with contextlib.suppress(BrokenPipeError):
                connection.send(b"%d" % status)
            os._exit(0)
        connection.close()
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        return asked["script"], asked["arguments"]


def _status_of(pid: int, connection: socket.socket) -> int:
    """How the process ends; it is ended when whoever asked for it is gone, as a test run that is killed."""
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(pid, signal.SIGTERM)
        if not select.select([ended], [], [], _ENDS_WITHIN)[0]:
            os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _serve(address: str) -> None:
    """Loads the command, says so, and waits to be asked."""
    import gc
    import importlib

    gc.disable()
    from sage.middleware.cli.main import main

    for name in _LATE:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        script, arguments = _Server(listening).run()
    sys.argv = [script or "sage", *arguments]
    if script is not None:
        _run_program(script)
    elif arguments[:1] in ([name] for name in _ENDLESS):
        main()
    else:
        _end_soon(main)


def _end_soon(main: Callable[[], None]) -> None:
    """Ends the process as Python does, but for taking every module apart: half of what a short command took."""
    import atexit
    import threading

    try:
        main()
        status: object = 0
    except SystemExit as exc:
        status = exc.code
    if status is not None and not isinstance(status, int):
        sys.exit(str(status))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((status or 0) & 0xFF)


def _run_program(script: str) -> None:
    """As Python runs it: in the module ``__main__``, whose end is the end of the process."""
    names = sys.modules["__main__"].__dict__
    if script == "-c":
        sys.path[0] = ""
        code = compile(sys.argv.pop(1), "<string>", "exec", dont_inherit=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(script))
        names["__file__"] = os.path.abspath(script)
        with open(script, "rb") as file:
            code = compile(file.read(), script, "exec", dont_inherit=True)
    exec(code, names)


def _ask_as_command(address: str, arguments: list[str], script: str | None = None) -> None:
    env = dict(os.environ)
    if script is None and (any(map(os.isatty, range(3))) or arguments[:1] in ([name] for name in _ENDLESS)):
        os.execv(COMMAND[0], [*COMMAND, *arguments])
    numbers = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until there is a process that they can be sent on to
    connection = ask(address, arguments, env, os.getcwd(), [0, 1, 2], script)
    pid = told(connection)
    for number in numbers:
        signal.signal(number, lambda received, _: os.kill(pid, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    status = told(connection)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _serve(sys.argv[2])
    elif sys.argv[1] == "--program":
        _ask_as_command(sys.argv[2], sys.argv[4:], sys.argv[3])
    else:
        _ask_as_command(sys.argv[1], sys.argv[2:])

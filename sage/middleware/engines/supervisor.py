"""The parent of one engine: ends the engine's whole family when the gateway ends, however it ends.

Run as a file by :mod:`sage.middleware.engines.process`, ``python -I -S supervisor.py GRACE COMMAND…``, with the read
end of a pipe from the gateway as its stdin. End of file there or SIGTERM ends every descendant: SIGTERM first, SIGKILL
after ``GRACE`` seconds. When the engine exits by itself the rest of its family is ended in the same way, and the
supervisor exits with the engine's status (128 + n for signal n).

The supervisor is a child subreaper (``prctl(2)``), so a descendant whose parent ended becomes its child, also one that
made a session of its own or forked twice. Hence it signals its own children only, whose pids cannot be used again
before it waits for them, and ``ECHILD`` proves that no descendant is left. It is single-threaded, which makes
``PR_SET_PDEATHSIG`` sound for the engine: the signal fires when the thread that forked ends. Where there is no
``prctl`` the family is the engine's process group.

There are two of them, one inside the other: the family of the outer one is the inner one, whose family is the engine.
Each notices at once when the other is killed. The inner one then reads the end of its stdin; the outer one gets the
descendants, and reads the end of its own stdin if the gateway ended too. So whichever two of gateway, outer and inner
supervisor are killed in the same instant, the third ends everything; if all three are, the engine itself dies by the
signal of its parent's death.

It imports only light modules, since it lives as long as the engine does.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

_LATER = 2.0
"""Seconds that the outer supervisor gives the inner one beyond its grace."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def prctl(option: int, value: int) -> bool:
    """``prctl(2)``; false where it does not exist or refuses."""
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def end_with_parent() -> None:
    """From now on SIGKILL ends this process when the thread that made it ends (Linux)."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Family:
    """The first child, which runs ``become``, and all that descends from it."""

    def __init__(self, become: Callable[[int, int], None], grace: float) -> None:
        """``become`` gets the new process's stdin and its parent's pid, and never returns."""
        self.grace = grace
        self.status: int | None = None
        self.adopts = prctl(_PR_SET_CHILD_SUBREAPER, 1)
        supervisor = os.getpid()
        read_end, self.stdin = os.pipe()
        self.first = os.fork()
        if self.first == 0:
            os.close(self.stdin)
            become(read_end, supervisor)
        os.close(read_end)

    def reap(self) -> bool:
        """Waits for the children that have ended; false once no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.first:
                self.status = os.waitstatus_to_exitcode(status)

    def end(self, wakeup: int) -> None:
        """Ends every descendant; returns when none is left."""
        os.close(self.stdin)
        deadline = time.monotonic() + self.grace
        terminated: set[int] = set()
        while self._alive():
            kill = time.monotonic() >= deadline
            for pid in self._children():
                if kill or pid not in terminated:
                    self._signal(pid, signal.SIGKILL if kill else signal.SIGTERM)
                    terminated.add(pid)
            _wait((wakeup,), 0.05)

    def _alive(self) -> bool:
        children = self.reap()
        if self.adopts:
            return children
        try:
            os.killpg(self.first, 0)
        except OSError:
            return False
        return True

    def _children(self) -> Iterator[int]:
        """Pids to signal: our children, or the engine's group (negative) where orphans do not come to us."""
        if not self.adopts:
            yield -self.first
            return
        own = os.getpid()
        for name in os.listdir("/proc"):
            if name.isdigit() and _parent(int(name)) == own:
                yield int(name)

    def _signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(OSError):  # a child that we may not signal (setuid) is waited for
            os.kill(pid, number)


def _become_inner(command: list[str], grace: float, stdin: int) -> None:
    """In the child of the outer supervisor: the inner one. It sees its parent's death as the end of its stdin."""
    status = 1
    try:
        os.setsid()
        os.dup2(stdin, 0)
        os.close(stdin)
        status = watch(lambda engine_stdin, supervisor: _become(command, engine_stdin, supervisor), grace)
    finally:
        os._exit(status)


def _become(command: list[str], stdin: int, supervisor: int) -> None:
    """In the forked child: turns into the engine, in a session of its own, and never returns."""
    try:
        os.setsid()
        for number in (*_HANDLED, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(stdin, 0)
        end_with_parent()
        if os.getppid() == supervisor:
            os.execvp(command[0], command)  # noqa: S606
    except OSError as exc:
        line = json.dumps({"error": f"the engine's program '{command[0]}' cannot be started: {exc.strerror}"})
        os.write(1, line.encode() + b"\n")
    finally:
        os._exit(127)


def _parent(pid: int) -> int:
    """The parent's pid, 0 if the process is gone; the name in ``/proc/PID/stat`` may hold spaces and parentheses."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _wait(fds: tuple[int, ...], timeout: float | None) -> list[int]:
    """The readable ones among ``fds``, emptied."""
    ready = select.select(fds, (), (), timeout)[0]
    for fd in ready:
        os.read(fd, 4096)
    return ready


def watch(become: Callable[[int, int], None], grace: float) -> int:
    """Starts a family and stays until it has ended or has to be ended; returns the status of its first process."""
    wakeup, signalled = os.pipe()
    os.set_blocking(signalled, False)
    ending: list[int] = []
    for number in _HANDLED:
        signal.signal(number, lambda received, _: ending.append(received) if received == signal.SIGTERM else None)
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    family = Family(become, grace)
    while family.reap() and family.status is None and not ending:
        if 0 in _wait((0, wakeup), None):
            break  # nothing is ever written to us: readable means that our parent has ended
    family.end(wakeup)
    status = family.status or 0
    return status if status >= 0 else 128 - status


def main(arguments: list[str]) -> int:
    grace, command = float(arguments[0]), arguments[1:]
    return watch(lambda stdin, _: _become_inner(command, grace, stdin), grace + _LATER)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

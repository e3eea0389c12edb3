"""Runs a command whose stdin is the file descriptor of that number: ``python -I -S launcher.py FD NAMES COMMAND…``.

The supervisors of a family (``engines/supervisor.py``) keep stdin for themselves: its end tells them that the gateway
has ended. So what the gateway writes to the command comes by another descriptor. NAMES are those of the variables that
the command gets, with ``=`` between them: a start of Python may add one of its own (PEP 538).
"""

import os
import sys


def main(arguments: list[str]) -> None:
    """Becomes the command; never returns."""
    descriptor, names, command = int(arguments[0]), arguments[1].split("="), arguments[2:]
    os.dup2(descriptor, 0)
    os.close(descriptor)
    try:
        os.execve(command[0], command, {name: os.environ[name] for name in names if name in os.environ})  # noqa: S606
    except OSError as exc:
        sys.stderr.write(f"the program '{command[0]}' cannot be started: {exc.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])

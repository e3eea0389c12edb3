"""Messages as files of one directory, in the order in which they came: the broker of a gateway without Redis.

A message is a file ``{time}_{random}.{queue}.msg``, as kombu's transport ``filesystem`` names them. It appears at once
and whole, and belongs to the process that removes its name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

_DRAFT = ".draft"
_MOST_BYTES = 2**20
"""What is read of a file; no message has as many bytes."""


def put_file(folder: str | Path, queue: str, message: bytes) -> None:
    """Raises :class:`OSError`, and nothing of the message is left then."""
    name = f"{time.time_ns():020d}_{secrets.token_hex(8)}.{queue}.msg"
    draft = os.path.join(folder, name + _DRAFT)
    try:
        with open(draft, "xb") as file:
            file.write(message)
        os.rename(draft, os.path.join(folder, name))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def take_file(folder: str | Path, queue: str) -> bytes | None:
    """The oldest message of ``queue``, which is no longer there then; ``None`` means that there is none."""
    for name in sorted(names_of(folder, queue)):
        path = os.path.join(folder, name)
        try:
            message = _read(path)
            os.unlink(path)
        except FileNotFoundError:  # another process took it
            continue
        except OSError:  # a directory or a file of somebody else, which can neither be read nor removed
            with contextlib.suppress(OSError):
                os.rename(path, path + ".unreadable")
            continue
        return message
    return None


def _read(path: str) -> bytes:
    """Its beginning. Never waits, as a pipe with that name would make it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_MOST_BYTES)


def names_of(folder: str | Path, queue: str) -> list[str]:
    """The files with messages of ``queue``, in no order."""
    ending = queue + ".msg"
    with contextlib.suppress(FileNotFoundError):
        return [name for name in os.listdir(folder) if name.partition(".")[2] == ending]
    return []


def remove_files(folder: str | Path, names: Iterable[str]) -> int:
    """Removes messages; returns how many of them were still there."""
    removed = 0
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
            removed += 1
    return removed


def remove_stale(folder: Path, older_than: float, spare: str) -> set[str]:
    """Removes files that are ``older_than`` seconds, but none whose queue begins with ``spare``: what was sent to
    listeners that are gone, and drafts of processes that died. Returns the queues of those listeners."""
    limit = time.time() - older_than
    stale, queues = [], set[str]()
    for name in os.listdir(folder):
        is_message = name.partition(".")[2].startswith(spare) and not name.endswith(_DRAFT)
        with contextlib.suppress(OSError):
            if not is_message and os.stat(folder / name).st_mtime < limit:
                stale.append(name)
                queues.add(name.partition(".")[2].removesuffix(".msg"))
    remove_files(folder, stale)
    return queues


def unbind(control: Path, queues: set[str]) -> None:
    """Takes ``queues`` out of the tables in which kombu's transport ``filesystem`` notes who listens to an exchange."""
    for table in control.glob("*.exchange"):
        with contextlib.suppress(OSError, ValueError, TypeError), table.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as kombu does
            entries = json.loads(file.read())
            kept = [entry for entry in entries if entry[-1] not in queues]
            if len(kept) < len(entries):
                file.seek(0)
                file.write(json.dumps(kept).encode())
                file.truncate()

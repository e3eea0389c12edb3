"""How the gateway finds Flower, and the password between the two of them.

``sage flower`` writes both into a private file and holds a lock on it for as long as it lives. What a Flower wrote that
has ended counts no longer: by then its port may belong to another user's program.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sage.errors import ConfigError
from sage.middleware.settings.flower import FlowerSettings
from sage.private_files import make_private_dir

_MAX_BYTES = 4096
_LOCKED_WITHIN = 1.0
"""Seconds: a gateway that reads the file has a lock on it for a moment too."""


@dataclass(frozen=True, slots=True)
class FlowerAccess:
    """Where Flower listens (``http://127.0.0.1:5555``), and what it asks for."""

    url: str
    user: str
    password: str = field(repr=False)

    @property
    def authorization(self) -> str:
        """The value of ``Authorization`` that Flower takes."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode("ascii")).decode("ascii")


def find_flower(settings: FlowerSettings, data_dir: Path) -> FlowerAccess | None:
    """The Flower of the configuration, or the one that runs here; ``None`` means that there is none."""
    if settings.url is not None and settings.password is not None:
        return FlowerAccess(settings.url, settings.user, settings.password.get_secret_value())
    try:
        descriptor = os.open(_file(data_dir), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _lock(descriptor, fcntl.LOCK_SH) else _parse(os.read(descriptor, _MAX_BYTES))
    finally:
        os.close(descriptor)


def new_access(settings: FlowerSettings, url: str) -> FlowerAccess:
    """What a Flower at ``url`` asks for: the password of the configuration, or a new one."""
    password = settings.password.get_secret_value() if settings.password is not None else secrets.token_urlsafe(32)
    return FlowerAccess(url, settings.user, password)


class FlowerAnnouncement:
    """The file in ``data_dir``, while this process holds its lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, access: FlowerAccess) -> None:
        """Tells the gateway of ``access``."""
        text = json.dumps({"url": access.url, "user": access.user, "password": access.password}).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))


@contextmanager
def announce_flower(data_dir: Path) -> Iterator[FlowerAnnouncement]:
    """Takes the place of the one Flower of ``data_dir``, and empties it again.

    Raises :class:`ConfigError` when another one has it.
    """
    make_private_dir(data_dir)
    path = _file(data_dir)
    make_private_dir(path.parent)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    try:
        end = time.monotonic() + _LOCKED_WITHIN
        while not _lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise ConfigError(f"'sage flower' runs already on the data directory {data_dir}")
            time.sleep(0.01)
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        yield FlowerAnnouncement(descriptor)
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _file(data_dir: Path) -> Path:
    return data_dir / "queue" / "flower.json"


def _lock(descriptor: int, kind: int) -> bool:
    """Takes a lock that goes with the descriptor; tells whether it was free."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parse(text: bytes) -> FlowerAccess | None:
    try:
        content = json.loads(text)
        return FlowerAccess(content["url"], content["user"], content["password"])
    except (ValueError, KeyError, TypeError):
        return None  # it is just being written

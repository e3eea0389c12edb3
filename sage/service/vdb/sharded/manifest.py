"""The file that makes a directory a sharded collection: what it is, and which files its shards have."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import ValidationError

from sage.errors import NotFound, SageError, Unavailable
from sage.middleware.retrieval.collections import ABANDONED_AFTER, last_change
from sage.middleware.settings.retrieval import CollectionOptions
from sage.private_files import sync_directory

FILE = "shards.json"


@dataclass(frozen=True)
class Manifest:
    """What a sharded collection is; it exists while this is in its directory."""

    key: str
    """The name of the directory with the shards' files, beside the collections of the tenant."""
    nodes: list[str | None]
    """The machine of each shard; ``None`` means that there is only one."""
    options: CollectionOptions
    embedder: str | None
    """The exact name of what makes its vectors; ``None`` means that they come with the documents."""
    languages: list[str] | None
    dimension: int | None

    def write(self, directory: Path) -> None:
        """Makes ``directory`` with this in it, durably."""
        content = {**vars(self), "options": self.options.model_dump(mode="json")}
        directory.mkdir(mode=0o700)
        with (directory / FILE).open("wb") as file:
            file.write(orjson.dumps(content))
            file.flush()
            os.fsync(file.fileno())
        sync_directory(directory)

    @classmethod
    def read(cls, directory: Path, name: str) -> Manifest:
        """That of the collection ``name``. Raises :class:`NotFound` when there is none, and :class:`Unavailable` when
        it cannot be read."""
        try:
            content = orjson.loads((directory / FILE).read_bytes())
            return cls(**{**content, "options": CollectionOptions.model_validate(content["options"])})
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                f"there is no collection '{name}'", param="collection", code="collection_not_found"
            ) from None
        except (OSError, ValueError, TypeError, KeyError, ValidationError) as exc:
            raise Unavailable(
                f"the file {FILE} of collection '{name}' cannot be read ({exc}); bring it back from a backup",
                code="collection_damaged",
            ) from exc


def new_key() -> str:
    """A :attr:`Manifest.key` that no other collection has."""
    return f".shards-{secrets.token_hex(16)}"


def manifest_version(directory: Path) -> tuple[int, int] | None:
    """Another one when the collection was deleted and made anew, also by another process; ``None`` where there is no
    sharded collection."""
    try:
        status = (directory / FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_ino, status.st_mtime_ns  # both: the inode of a deleted file is soon used again


def remove_abandoned(directory: Path) -> None:
    """Removes a directory that a killed process left, with the shards' files on this machine that its manifest names.
    Nothing is removed while a shard's files still change."""
    try:
        shards = directory.with_name(Manifest.read(directory, directory.name).key)
    except SageError:  # it has no manifest
        shutil.rmtree(directory, ignore_errors=True)
        return
    if time.time() - last_change(shards) > ABANDONED_AFTER:
        shutil.rmtree(shards, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)

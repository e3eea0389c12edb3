"""The models of files that were pulled or added beside the configuration: a list on disk, shared by processes.

The gateway and the command line both write it, under a lock and in one step each. A gateway sees what another process
wrote as soon as somebody asks for a model.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sage.errors import ConfigError, Conflict, InvalidRequest, NotFound
from sage.middleware.providers.local.gguf import read_gguf
from sage.middleware.settings.providers import LocalModel

_VERSION = 1


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model: how its engine is started, and where its files come from."""

    options: LocalModel
    """``path`` is that of the first file, absolute."""
    source: str
    """``hf:ORG/REPO…`` as it was pulled; ``file`` for one that was added where it lay."""
    files: tuple[str, ...] = ()
    """The pulled files, below the directory of models; a file that was added is not ours, and not among them."""
    sha256: tuple[str | None, ...] = ()


class ModelCatalog:
    """The list in ``directory``, by the models' names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "catalog.json"
        self._stamp: tuple[int, int, int] | None = None
        self._entries: dict[str, CatalogEntry] = {}

    def entries(self) -> Mapping[str, CatalogEntry]:
        """What the list says now. It is read again only when it has changed.

        Raises :class:`ConfigError` once for each broken list; what it said before then holds on.
        """
        stamp = self._now()
        if stamp != self._stamp:
            self._stamp = stamp
            self._entries = self._read()
        return self._entries

    def put(self, name: str, entry: CatalogEntry) -> None:
        """Adds the model, or the same one again with other options. It is on disk when this returns.

        Raises :class:`Conflict` if the name is that of another file.
        """
        with self._changing() as entries:
            check_free(name, entry, entries)
            entries[name] = entry

    def drop(self, name: str) -> None:
        """Removes the model, and its pulled files unless another one uses them."""
        with self._changing() as entries:
            entry = entries.pop(name, None)
            if entry is None:
                raise NotFound(f"model '{name}' was not pulled or added", param="name", code="model_not_found")
            used = {file for other in entries.values() for file in other.files}
        for file in set(entry.files) - used:
            self._delete(self.directory / file)

    def _delete(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        for parent in file.parents:
            if parent == self.directory:
                return
            try:
                parent.rmdir()
            except OSError:
                return  # something else is in it

    def _now(self) -> tuple[int, int, int] | None:
        try:
            stat = self._file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def _read(self) -> dict[str, CatalogEntry]:
        try:
            stored = json.loads(self._file.read_bytes())
            if stored["version"] != _VERSION:
                raise ValueError(f"its version is {stored['version']}, and this program reads {_VERSION}")
            return {str(name): self._entry(fields) for name, fields in stored["models"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            fault = "a model's options are wrong" if isinstance(exc, ValidationError) else str(exc)
            raise ConfigError(
                f"{self._file} with the models that were pulled or added cannot be read: {fault}; correct it, or move "
                "it away to start without them"
            ) from exc

    def _entry(self, fields: Mapping[str, Any]) -> CatalogEntry:
        options = dict(fields["options"])
        options["path"] = self.directory / options["path"]  # an absolute one stays as it is
        return CatalogEntry(
            LocalModel.model_validate(options),
            str(fields["source"]),
            tuple(map(str, fields.get("files", ()))),
            tuple(fields.get("sha256", ())),
        )

    def _stored(self, entry: CatalogEntry) -> dict[str, Any]:
        options = entry.options.model_dump(mode="json", exclude_defaults=True)
        if entry.files:
            options["path"] = entry.files[0]  # the data directory may be moved
        return {"options": options, "source": entry.source, "files": entry.files, "sha256": entry.sha256}

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, CatalogEntry]]:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._file.with_suffix(".lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                entries = self._read()
                yield entries
                self._write(entries)
        except OSError as exc:
            raise ConfigError(f"{self._file} cannot be written: {exc.strerror}") from exc

    def _write(self, entries: Mapping[str, CatalogEntry]) -> None:
        stored = {name: self._stored(entry) for name, entry in entries.items()}
        draft = self._file.with_suffix(".draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"version": _VERSION, "models": stored}, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)


def check_free(name: str, entry: CatalogEntry, entries: Mapping[str, CatalogEntry]) -> None:
    """Raises :class:`Conflict` if ``name`` is another file's."""
    taken = entries.get(name)
    if taken is not None and taken.options.path != entry.options.path:
        raise Conflict(
            f"model '{name}' is there already, of another file ({taken.source}); give this one another name, or "
            f"remove that one: sage models remove {name}",
            param="name",
            code="model_exists",
        )


def add_file(catalog: ModelCatalog, name: str, path: Path, options: Mapping[str, Any]) -> LocalModel:
    """Lists a GGUF file that stays where it is. Raises :class:`InvalidRequest` for what is none."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise InvalidRequest(f"there is no file {path}", param="path")
    head = read_gguf(path)
    if head is None:
        raise InvalidRequest(f"{path} is not a GGUF file", param="path")
    chosen = {"task": "generate" if head.predicts else "embed", **options, "path": path}
    entry = CatalogEntry(LocalModel.model_validate(chosen), "file")
    catalog.put(name, entry)
    return entry.options

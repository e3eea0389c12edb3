"""The files of local models: where they are, their chat templates, and estimates of the memory that they take."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from sage.middleware.providers.local.engine import package_file
from sage.middleware.providers.local.gguf import PROGRAM_MEMORY, GGUFFile, read_gguf
from sage.middleware.settings.providers import LocalModel

_NAME = re.compile(r"[A-Za-z0-9._-]+")


class ModelFiles:
    """Reads each file's head once."""

    def __init__(self, directory: Path) -> None:
        """``directory`` is where the files of packages are assembled."""
        self.directory = directory
        self._heads: dict[Path, GGUFFile] = {}

    def template(self, options: LocalModel, configured: str | None) -> str | None:
        """The chat template in use: the ``configured`` one, else the file's own; ``None`` means unknown."""
        if configured is not None:
            return configured
        head = self._head(options)
        return None if head is None else head.template or ""

    def memory(self, options: LocalModel, context: int) -> int | None:
        """An estimate in bytes, used until the model serves and is measured; ``None`` means unknown.

        A package that is not assembled yet counts with its own files.
        """
        head = self._head(options)
        if head is None:
            version = None if options.package is None else _version(options.package)
            installed = 0 if version is None else _installed(options.package or "", version)
            return installed + PROGRAM_MEMORY if installed else None
        return head.memory(context, options.parallel, options.task)

    def _head(self, options: LocalModel) -> GGUFFile | None:
        path = options.path.expanduser() if options.path is not None else self._assembled(options.package or "")
        if path is None:
            return None
        if path not in self._heads:
            head = read_gguf(path)
            if head is None:
                return None
            self._heads[path] = head
        return self._heads[path]

    def _assembled(self, package: str) -> Path | None:
        version = _version(package)
        return None if version is None else package_file(package, version, self.directory)


def _version(package: str) -> str | None:
    """The version of ``package`` that is installed; ``None`` means that it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.lru_cache
def _installed(package: str, version: str) -> int:
    """Bytes of this version of the package and of the packages that it is split into, whose names begin with its own.

    They are added up once, since the lists of files take milliseconds to read.
    """
    return sum(file.size or 0 for name in _parts(package) for file in importlib.metadata.files(name) or ())


def _parts(package: str) -> Iterator[str]:
    try:
        required = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield package
    for requirement in required:
        name = _NAME.match(requirement)
        if name is not None and name[0].startswith(package):
            yield name[0]

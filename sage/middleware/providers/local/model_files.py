"""The files of local models: where they are, what their heads say, and how much memory they are reckoned to take."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from sage.middleware.providers.local.engine import package_file
from sage.middleware.providers.local.gguf import GGUFFile, read_gguf
from sage.middleware.settings.providers import LocalModel

_PROGRAM = 64 * 2**20
"""What an engine takes beside its model: Python, llama.cpp and its buffers."""
_CHANCE = 2 * 4
"""Bytes for one token's chance at one place: 32-bit floats, worked out and then copied."""
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class ModelFiles:
    """Reads each file's head once."""

    def __init__(self, directory: Path) -> None:
        """``directory``: where files out of packages are put together."""
        self.directory = directory
        self._heads: dict[Path, GGUFFile] = {}

    def template(self, options: LocalModel, given: str | None) -> str | None:
        """The chat template in use: the one ``given``, else the file's own; none: unknown."""
        if given is not None:
            return given
        head = self._head(options)
        return None if head is None else head.template or ""

    def memory(self, options: LocalModel, context: int) -> int | None:
        """Bytes that a model is reckoned to take, until it serves and is measured; none: nobody knows.

        The file, the key-value cache of all requests at once, and the program. Where llama.cpp works a whole text out
        at once (``embed``, ``rerank``) with a file that was made to write text, also the chances of every token of
        the vocabulary at every place of the text. Of a package that was not put together yet, only its own files count.
        """
        head = self._head(options)
        if head is None:
            installed = _installed(options.package) if options.package is not None else 0
            return installed + _PROGRAM if installed else None
        cache = head.cache * context * options.parallel
        chances = 0 if options.task == "generate" or not head.predicts else _CHANCE * head.vocabulary * context
        return head.size + cache + chances + _PROGRAM

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
        try:
            return package_file(package, importlib.metadata.version(package), self.directory)
        except importlib.metadata.PackageNotFoundError:
            return None


def _installed(package: str) -> int:
    """Bytes of the package and of those that it is split into, which are named after it."""
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

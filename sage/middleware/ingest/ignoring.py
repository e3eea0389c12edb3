"""What ``.gitignore`` files say is not to be taken, as git reads them (https://git-scm.com/docs/gitignore)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sage.errors import MissingExtra

_NAME = ".gitignore"
_LARGEST = 2**20
"""Bytes of one file; a longer one is not read."""


class IgnoreRules:
    """The rules for the files below one directory: of its own ``.gitignore`` and those below it, and of those above it
    up to the root of its repository."""

    def __init__(self, root: Path) -> None:
        """Raises :class:`MissingExtra` where there are rules and the package is missing that reads them."""
        self._specs: dict[Path, Any] = {}
        self._root = root.resolve()
        self._bases = _repository_of(self._root)

    def ignores(self, relative: str, *, is_directory: bool = False) -> bool:
        """Whether the path under the directory is left out. A file in a directory that is left out is not asked for."""
        path = self._root / relative
        bases = [*self._bases, *reversed([parent for parent in path.parents if parent.is_relative_to(self._root)])]
        for base in reversed(list(dict.fromkeys(bases))):  # the nearest one that says anything decides
            spec = self._spec(base)
            if spec is not None:
                name = path.relative_to(base).as_posix() + ("/" if is_directory else "")
                include = spec.check_file(name).include
                if include is not None:
                    return bool(include)
        return False

    def _spec(self, directory: Path) -> Any:
        """The rules of one directory; ``None`` means that it has none."""
        if directory not in self._specs:
            self._specs[directory] = _read(directory / _NAME)
        return self._specs[directory]


def _repository_of(directory: Path) -> list[Path]:
    """The directories above, from the root of the repository on; none outside of one."""
    above: list[Path] = []
    for parent in (directory, *directory.parents):
        above.append(parent)
        if (parent / ".git").exists():
            return above[::-1]
    return []


def _read(path: Path) -> Any:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    try:
        from pathspec import GitIgnoreSpec
    except ImportError as exc:
        raise MissingExtra("sage ingest of a directory with a .gitignore", "ingest") from exc
    kept = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:  # git leaves out what is no pattern
            continue
        kept.append(line)
    return GitIgnoreSpec.from_lines(kept)

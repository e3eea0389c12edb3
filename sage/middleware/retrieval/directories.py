"""The names of directories: of each tenant, and of each of its collections within.

They are distinct on every disk, also on those that do not tell capitals from small letters or that normalise Unicode:
a name holds small letters, digits, ``-``, ``_``, ``~`` and ``%`` with two hexadecimal digits. Directories of older
releases, in which capitals stand as they are, are found and stay as they are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

_MAX_REMEMBERED = 10_000
_CAPITAL = re.compile("%[0-9A-F]{2}|[A-Z]")  # or what is encoded already


class CollectionDirectories:
    """The directories of collections below ``root``. Safe to call from several threads, and beside other processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[tuple[str, str], Path] = {}

    def of(self, tenant: str, name: str) -> Path:
        """The directory of a collection, whether it exists or not."""
        found = self._found.get((tenant, name))
        if found is not None and os.path.lexists(found):
            return found
        directory, exists = _place(self.of_tenant(tenant), name)
        if exists:
            if len(self._found) >= _MAX_REMEMBERED:
                self._found.clear()
            self._found[tenant, name] = directory
        return directory

    def of_tenant(self, tenant: str) -> Path:
        """The directory of a tenant, whether it exists or not."""
        return _place(self._root, tenant)[0]

    def names(self, tenant: str) -> list[str]:
        """The collections of a tenant, in alphabetical order."""
        try:
            entries = [entry.name for entry in os.scandir(self.of_tenant(tenant)) if entry.is_dir()]
        except FileNotFoundError:
            return []
        return sorted({unquote(name) for name in entries if not name.startswith(".")})


def _place(parent: Path, name: str) -> tuple[Path, bool]:
    """The directory of ``name`` in ``parent``, and whether it exists."""
    try:
        entries = set(os.listdir(parent))
    except FileNotFoundError:
        entries = set()
    usual = encoded(name)
    # An older release's, or one that is spelled out since another's would be taken for it on some disks.
    spelled = "".join(f"%{byte:02X}" for byte in name.encode())
    for possible in (usual, _encoded_before(name), spelled):
        if possible in entries:
            return parent / possible, True
    if any(entry.lower() == usual.lower() for entry in entries):
        return parent / spelled, False
    return parent / usual, False


def encoded(name: str) -> str:
    """A directory's name for any text, a different one for each."""
    return _CAPITAL.sub(
        lambda match: match[0] if match[0][0] == "%" else f"%{ord(match[0]):02X}", _encoded_before(name)
    )


def _encoded_before(name: str) -> str:
    """As the first releases named it: capitals stand as they are."""
    return quote(name, safe="").replace(".", "%2E")

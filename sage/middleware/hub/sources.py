"""What is fetched from a hub: ``hf:ORG/REPO``, perhaps with a revision (``@v1``) and a file of it (``:FILE``)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sage.errors import InvalidRequest

HUBS = {"hf": "Hugging Face", "ms": "ModelScope"}
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPO = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of a hub, and which file of it."""

    hub: str
    """``hf`` or ``ms``."""
    repo: str
    file: str | None = None
    """A file's path, or a quantisation such as ``Q8_0``; ``None`` means the preferred one."""
    revision: str | None = None
    """A branch, a tag or a commit; ``None`` means what is newest."""
    digest: str | None = None
    """Of the content (``sha256-…``); ``None`` means any."""

    def __str__(self) -> str:
        parts = (("@", self.revision), (":", self.file), ("#", self.digest))
        return f"{self.hub}:{self.repo}" + "".join(f"{sign}{part}" for sign, part in parts if part)


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file as the hub lists it. ``None`` means that the hub does not tell it."""

    path: str
    size: int | None = None
    sha256: str | None = None


def is_source(name: str) -> bool:
    """Whether ``name`` is of a hub, and not a model's name."""
    return name.partition(":")[0] in HUBS and ":" in name


def is_repository(name: str) -> bool:
    """Whether ``name`` could be a repository's: ``ORG/REPO``."""
    return _REPO.fullmatch(name) is not None and ".." not in name


def parse_source(text: str) -> HubSource:
    """Raises :class:`InvalidRequest` for what is not such a source."""
    hub, _, rest = text.partition(":")
    rest, mark, digest = rest.partition("#sha256-")
    rest, _, file = rest.partition(":")
    repo, at, revision = rest.partition("@")
    if hub not in HUBS or not is_repository(repo):
        raise InvalidRequest(
            f"'{text[:_LONGEST]}' is not a model of a hub, such as hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF", param="name"
        )
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InvalidRequest(f"'{revision[:_LONGEST]}' is not a revision: a branch, a tag or a commit", param="name")
    if file and not is_safe(file):
        raise InvalidRequest(f"'{file[:_LONGEST]}' is not the path of a file in a repository", param="name")
    if mark and not _DIGEST.fullmatch(digest):
        raise InvalidRequest(
            f"'{digest[:_LONGEST]}' is not the digest of a model: 32 digits after '#sha256-'", param="name"
        )
    return HubSource(hub, repo, file or None, revision or None, f"sha256-{digest}" if mark else None)


def without_pins(name: str) -> str:
    """``name`` without its revision and its digest, by which who may use a model is told. Raises
    :class:`InvalidRequest`."""
    return str(replace(parse_source(name), revision=None, digest=None))


def is_safe(path: str) -> bool:
    """Whether a path from a hub or a caller stays below the directory that it is put into."""
    parts = path.split("/")
    return (
        len(path) <= _LONGEST
        and path.isprintable()
        and "\\" not in path
        and not any(part in ("", ".", "..") or len(part.encode()) > 200 for part in parts)
    )

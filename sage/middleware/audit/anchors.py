"""Anchors: the number and hash of the last event, kept outside the database once a day."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from sage.errors import ConfigError

_LINE = re.compile(r"\{.*\}")
_HASH = re.compile(r"[0-9a-f]{64}")


def anchor_line(seq: int, digest: str, now: float) -> str:
    """One line of JSON."""
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return json.dumps({"time": at, "audit_seq": seq, "audit_sha256": digest})


def write_anchor(path: Path, line: str) -> None:
    """Appends a line to the file, which is made when it is missing. Raises :class:`OSError`."""
    with path.open("a", encoding="ascii") as file:
        file.write(line + "\n")


def read_anchors(path: Path) -> dict[int, str]:
    """The anchors in a file of lines such as those of :func:`anchor_line`, or of a log that has them.

    Raises :class:`ConfigError` when there are none in it, or two that disagree.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    anchors: dict[int, str] = {}
    for line in lines:
        found = _anchor_in(line)
        if found is not None and anchors.setdefault(*found) != found[1]:
            raise ConfigError(f"{path}: it has two different hashes of event {found[0]}")
    if not anchors:
        raise ConfigError(f"{path}: there is no anchor in it (lines with audit_seq and audit_sha256)")
    return anchors


def _anchor_in(line: str) -> tuple[int, str] | None:
    match = _LINE.search(line)
    try:
        value = json.loads(match[0]) if match is not None else None
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    seq, digest = value.get("audit_seq"), value.get("audit_sha256")
    is_anchor = isinstance(seq, int) and seq > 0 and isinstance(digest, str) and _HASH.fullmatch(digest) is not None
    return (seq, digest) if is_anchor and isinstance(seq, int) and isinstance(digest, str) else None

"""The outcome of one ingest: counts of files and documents, and the failures."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

_MOST_LINES = 10  # failures of one file that are listed


class Display(Protocol):
    """Shows the progress."""

    def advance(self, size: int) -> None:
        """``size`` more bytes of files are done."""

    def sent(self, documents: int) -> None:
        """``documents`` documents are durable in total."""


class NoDisplay:
    """Shows nothing."""

    def advance(self, size: int) -> None:
        pass

    def sent(self, documents: int) -> None:
        pass


@dataclass
class Summary:
    """Counts of files by outcome, counts of documents, and the reasons of failures."""

    collection: str
    dry_run: bool = False
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    pruned: int = 0
    chunks: int = 0
    """Chunks and JSON lines of the files that were read."""
    sent: int = 0
    deleted: int = 0
    empty_files: list[str] = field(default_factory=list)
    """Those without text, by name."""
    skipped: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    """What the gateway said of the documents, such as that another embedder makes their vectors."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    failed_files: set[str] = field(default_factory=set)
    omitted: Counter[str] = field(default_factory=Counter)
    start: float = field(default_factory=time.monotonic)

    @property
    def empty(self) -> int:
        return len(self.empty_files)

    def fail(self, file: str, reason: str, line: int | None = None) -> None:
        """Records a failure of a file, or of one ``line`` of it. Only the first failed lines of a file are listed."""
        self.failed_files.add(file)
        if line is not None and sum(1 for name, _ in self.failures if name.startswith(f"{file}:")) >= _MOST_LINES:
            self.omitted[file] += 1
            return
        self.failures.append((file if line is None else f"{file}:{line}", reason))

    def close(self) -> None:
        """Adds how many failed lines of each file are not listed."""
        for file, count in sorted(self.omitted.items()):
            reason = f"{count} more lines failed"
            self.failures.append((file, reason))
        self.omitted.clear()

    def as_json(self) -> dict[str, Any]:
        return {
            "collection": self.collection,
            "dry_run": self.dry_run,
            "files": {
                "added": self.added,
                "changed": self.changed,
                "unchanged": self.unchanged,
                "empty": self.empty,
                "failed": len(self.failed_files),
                "pruned": self.pruned,
                "skipped": dict(sorted(self.skipped.items())),
            },
            "chunks": self.chunks,
            "sent": self.sent,
            "deleted": self.deleted,
            "empty": self.empty_files,
            "warnings": self.warnings,
            "failures": [{"file": file, "reason": reason} for file, reason in self.failures],
            "seconds": round(time.monotonic() - self.start, 3),
        }

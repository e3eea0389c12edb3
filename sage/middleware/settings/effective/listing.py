"""The settings that apply as a list by path, of which parts can be asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sage.middleware.settings.effective.rows import SettingPath, SettingRow, SourceKind


@dataclass(frozen=True, slots=True)
class SettingQuery:
    """Which settings are wanted; ``None`` means all of them. ``source`` ``set`` stands for all that are no defaults."""

    prefix: str | None = None
    """The first parts of their dotted names, such as ``llm.models``."""
    contains: str | None = None
    """A part of their dotted names, in whatever case."""
    source: SourceKind | Literal["set"] | None = None
    after: SettingPath | None = None
    """The last one of the page before."""
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class SettingPage:
    """A part of the list. ``total`` counts all that match; ``following`` says whether more of them come."""

    rows: list[SettingRow]
    total: int
    following: bool


class SettingList:
    """Made once for each configuration: it has twenty rows for each model, and there may be thousands."""

    def __init__(self, rows: Iterable[SettingRow]) -> None:
        self._rows = sorted(rows, key=lambda row: row.path)
        self._paths = [row.path for row in self._rows]
        self._names = [dotted(path) for path in self._paths]
        self._lower = [name.lower() for name in self._names]
        self.sections = list(dict.fromkeys(path[0] for path in self._paths))
        self.sources: list[SourceKind] = list(dict.fromkeys(row.source.kind for row in self._rows))

    def find(self, query: SettingQuery) -> SettingPage:
        found: Iterable[int] = range(len(self._rows))
        if query.prefix:
            whole, start = query.prefix, f"{query.prefix}."
            found = [at for at in found if self._names[at] == whole or self._names[at].startswith(start)]
        if query.contains:
            part = query.contains.lower()
            found = [at for at in found if part in self._lower[at]]
        if query.source is not None:
            found = [at for at in found if self._is_from(at, query.source)]
        found = list(found)
        first = 0 if query.after is None else bisect_right(found, bisect_right(self._paths, query.after) - 1)
        last = len(found) if query.limit is None else first + query.limit
        return SettingPage([self._rows[at] for at in found[first:last]], len(found), last < len(found))

    def _is_from(self, at: int, source: str) -> bool:
        kind = self._rows[at].source.kind
        return kind != "default" if source == "set" else kind == source


def dotted(path: SettingPath) -> str:
    """A path as a configuration names it; names with dots of their own are quoted."""
    return ".".join(f'"{name}"' if "." in name else name for name in path)

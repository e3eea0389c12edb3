"""Reads what one-api or new-api holds: its SQLite database, or a JSON export of its channels."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage.errors import ConfigError

Row = Mapping[str, Any]
_MAGIC = b"SQLite format 3\x00"


@dataclass(frozen=True)
class OneApiData:
    """The rows of its tables; a JSON export has mostly channels alone."""

    channels: list[Row]
    tokens: list[Row] = field(default_factory=list)
    users: list[Row] = field(default_factory=list)


def read_one_api(path: Path) -> OneApiData:
    """Raises :class:`ConfigError`."""
    try:
        with path.open("rb") as file:
            is_sqlite = file.read(len(_MAGIC)) == _MAGIC
        data = _from_sqlite(path) if is_sqlite else _from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, sqlite3.Error) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: is neither a SQLite database nor JSON") from None
    if not data.channels:
        raise ConfigError(f"{path}: there are no channels in it")
    return data


def _from_sqlite(path: Path) -> OneApiData:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

        def rows(table: str) -> list[Row]:
            if table not in there:
                return []
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")]  # noqa: S608 (ours)

        return OneApiData(rows("channels"), rows("tokens"), rows("users"))


def _from_json(value: Any) -> OneApiData:
    """A list of channels, an answer of its API (``{"data": […]}`` or ``{"data": {"items": […]}}``), or an object with
    ``channels`` and ``tokens``."""
    if isinstance(value, dict) and "channels" in value:
        return OneApiData(*(_rows(value.get(name)) for name in ("channels", "tokens", "users")))
    if isinstance(value, dict):
        value = value.get("data")
    if isinstance(value, dict):
        value = value.get("items")
    return OneApiData(_rows(value))


def _rows(value: Any) -> list[Row]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []

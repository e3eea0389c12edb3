"""A gateway that has its settings from a file, which can be read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from running_gateway import Running, run_gateway

from sage.middleware.settings.reading import read_settings


@contextmanager
def configured(file: Path, sections: dict[str, Any], environ: dict[str, str] | None = None) -> Iterator[Running]:
    """A gateway that has read ``sections`` from ``file``."""
    sections = {"data_dir": str(file.parent / "data"), "api": {"port": 0, "access_log": False}, **sections}
    sections["usage"] = {"published_prices": False}
    file.write_text(yaml.safe_dump(sections), encoding="utf-8")
    loaded = read_settings(file, environ or {}, {"api.host": "127.0.0.1"})
    with run_gateway(loaded.settings, loaded=loaded) as running:
        yield running


def rewrite(file: Path, sections: dict[str, Any]) -> None:
    """Writes other ``sections``; the gateway goes on with what it has read."""
    kept = {name: yaml.safe_load(file.read_text())[name] for name in ("data_dir", "api", "usage")}
    file.write_text(yaml.safe_dump({**kept, **sections}), encoding="utf-8")

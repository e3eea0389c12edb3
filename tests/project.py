"""Where this checkout is, for tests that read its files or start its programs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTED = ROOT / "tests" / "scripted"

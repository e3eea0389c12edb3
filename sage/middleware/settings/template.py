"""The commented configuration that states every default: ``config.yaml`` of the repository, which the wheel carries."""

from __future__ import annotations

from pathlib import Path

from sage.errors import ConfigError

_PLACES = (Path(__file__).with_name("config.yaml"), Path(__file__).parents[3] / "config.yaml")
"""In an installation, and in a checkout."""


def config_template() -> str:
    """Its text. Raises :class:`ConfigError` where the installation lacks it."""
    for place in _PLACES:
        if place.is_file():
            return place.read_text(encoding="utf-8")
    raise ConfigError(f"this installation lacks {_PLACES[0]}; install it anew")

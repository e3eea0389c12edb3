"""What Google's models differ in, by the version in their names: whether they think, and how they are told how hard.

Source: Google's guides on thinking and on thought signatures (Gemini API).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_VERSION = re.compile(r"gemini-(\d{1,2})(?:\.(\d{1,2}))?(?!\d)")


@dataclass(frozen=True, slots=True)
class ThinkingFacts:
    """How a model thinks."""

    control: Literal["none", "budget", "level"]
    """Whether it is told for how many tokens to think, or at which level; ``none`` if it does not think."""
    least: str = "minimal"
    """The lowest of the efforts that it has."""
    can_stop: bool = True
    """Whether it can be told not to think, or hardly."""
    needs_signatures: bool = False
    """Whether it refuses a loop of tools whose calls come back without their signatures."""


def facts_of(model: str) -> ThinkingFacts:
    """The facts of ``model``, by Google's name for it; a name without a version stands for the newest."""
    found = _VERSION.search(model)
    is_pro = "-pro" in model
    version = (int(found[1]), int(found[2] or 0)) if found else (3, 0)
    if "gemma" in model or version < (2, 5):
        return ThinkingFacts("none")
    if version < (3, 0):
        return ThinkingFacts("budget", can_stop=not is_pro)
    return ThinkingFacts("level", "low" if is_pro else "minimal", can_stop=not is_pro, needs_signatures=True)


def resource(model: str) -> str:
    """The path of a model: ``models/…`` unless the name says another collection."""
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"

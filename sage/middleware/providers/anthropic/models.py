"""What Anthropic's models differ in, by the version in their names: how they think, and what they take.

Source: Anthropic's model overview, and its guides on extended thinking, effort and structured outputs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_VERSION_LAST = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_VERSION_FIRST = re.compile(r"claude-(\d)(?:[-.](\d))?-([a-z]+)")
_ALWAYS_THINK = frozenset({"fable", "mythos"})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model takes."""

    max_tokens: int
    """For a request that has no bound of its own, which Anthropic asks for: as many as the model gives, or 64,000."""
    thinking: Literal["never", "budget", "adaptive"]
    """Whether it thinks, and whether it is told for how many tokens or how hard."""
    efforts: tuple[str, ...] = ()
    """The values of ``output_config.effort`` that it has, from the least."""
    may_not_think: bool = True
    """Whether it can be told not to think."""
    shows_thinking: bool = True
    """Whether its thoughts come without being asked for."""
    takes_sampling: bool = True
    """Whether it has ``temperature``, ``top_p`` and ``top_k``."""
    takes_schema: bool = False
    """Whether it has ``output_config.format`` and ``strict`` tools."""


UNKNOWN = ModelFacts(8192, "budget")
"""Of a model whose name does not tell: most servers of this wire that are not Anthropic's take as many tokens."""


def facts_of(model: str) -> ModelFacts:
    """The facts of ``model``, by the vendor's name for it."""
    if found := _VERSION_LAST.search(model):
        family, major, minor = found.groups()
    elif found := _VERSION_FIRST.search(model):
        major, minor, family = found.groups()
    else:
        return UNKNOWN
    return _facts(family, (int(major), int(minor or 0)))


def _facts(family: str, version: tuple[int, int]) -> ModelFacts:
    if version < (3, 5):
        return ModelFacts(4096, "never")
    if version < (3, 7):
        return ModelFacts(8192, "never")
    if version < (4, 5):
        return ModelFacts(32_000 if family == "opus" else 64_000, "budget")
    if version < (4, 6):
        efforts = ("low", "medium", "high") if family == "opus" else ()
        return ModelFacts(64_000, "budget", efforts, takes_schema=True)
    is_newer = version >= (4, 7)
    return ModelFacts(
        64_000,
        "adaptive",
        ("low", "medium", "high", "xhigh", "max") if is_newer else ("low", "medium", "high", "max"),
        may_not_think=family not in _ALWAYS_THINK,
        shows_thinking=not is_newer,
        takes_sampling=not is_newer,
        takes_schema=True,
    )

"""What a conversion has to say beside its result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class ConversionReport:
    """What is not carried over, each with its place in the file, and what the result expects of its environment."""

    left_out: list[str] = field(default_factory=list)
    variables: set[str] = field(default_factory=set)
    has_secrets: bool = False
    """Whether keys stand in the result, as they do in the source."""

    def leave_out(self, place: str, reason: str) -> None:
        line = f"{place}: {reason}"
        if line not in self.left_out:
            self.left_out.append(line)

    def leave_out_keys(self, place: str, keys: Iterable[str]) -> None:
        names = ", ".join(sorted(keys))
        if names:
            self.leave_out(place, f"there is no counterpart of {names}")

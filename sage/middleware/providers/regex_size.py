"""How large a regular expression becomes in a server that writes its counted repetitions out."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPED = re.compile(r"\\.|\[(?:\\.|[^\]\\])*+(?:\]|\\?\Z)", re.S)
"""An open class goes to the end, and nothing is read twice: a pattern of ``[`` alone must not take quadratic time."""
_TOKEN = re.compile(r"\(|(?:\)|[^()])(?P<repetition>[*+?]|\{\d*,?\d*\})?")
_COUNT = re.compile(r"\d{1,6}")
_GROUP_KIND = re.compile(r"\(\?(?:[:=!]|<[=!]|P?<\w+>)")


def written_out(pattern: str, most: int, nested_cost: int = 1) -> int:
    """How many pieces ``pattern`` has once its counted repetitions are written out; more than ``most`` are not counted.

    A counted repetition of what is repeated already counts ``nested_cost`` times: its grammar is read in more ways.
    """
    plain = _GROUP_KIND.sub("(", _ESCAPED.sub("x", pattern))
    groups = [_Group()]  # the open ones, the outermost first
    for token in _TOKEN.finditer(plain):
        if token[0] == "(":
            groups.append(_Group())
            continue
        done = _Group(size=1)
        if token[0][0] == ")":
            if len(groups) == 1:
                continue
            done = groups.pop()
        counts = [int(count) for count in _COUNT.findall(token["repetition"] or "")]
        factor = min(max(counts, default=1), most + 1)
        size = done.size * factor * (nested_cost if factor > 1 and done.repeats else 1)
        groups[-1].size = min(groups[-1].size + size, most + 1)
        groups[-1].repeats |= done.repeats or token["repetition"] is not None
    return sum(group.size for group in groups)


@dataclass(slots=True)
class _Group:
    """One group of a pattern."""

    size: int = 0
    repeats: bool = False
    """Whether something in it is repeated."""

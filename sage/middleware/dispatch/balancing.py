"""Who answers, of the deployments that can: pure functions of what is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

_MORE = 4
"""So many more running requests than the least loaded a deployment may have and still keep its conversations."""


class Choosable(Protocol):
    """What is asked of a deployment."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def priority(self) -> int: ...
    @property
    def in_flight(self) -> int: ...


D = TypeVar("D", bound=Choosable)


def choose(usable: Sequence[D], home: str | None = None) -> tuple[D, str]:
    """The one to ask, and why.

    The lowest priority number first; there, the conversation's ``home`` unless it is much busier than others; else a
    draw by weight, and among those of the weight drawn the least loaded.
    """
    if len(usable) == 1:
        return usable[0], "it is the only one that can answer now"
    first = min(d.priority for d in usable)
    group = [d for d in usable if d.priority == first]
    if len(group) == 1:
        return group[0], f"it has the lowest priority number ({first}) of those that can answer now"
    least = min(d.in_flight for d in group)
    for deployment in group:
        if deployment.name == home and deployment.in_flight - least <= _MORE:
            return deployment, "it answered this conversation's previous turn, whose beginning it has in its cache"
    drawn = random.choices(group, [d.weight for d in group])[0]  # noqa: S311
    equals = [d for d in group if d.weight == drawn.weight]
    least = min(d.in_flight for d in equals)
    idle = [d for d in equals if d.in_flight == least]
    chosen = random.choice(idle)  # noqa: S311
    if len(equals) == 1:
        return chosen, f"drawn by weight ({drawn.weight:g} of {sum(d.weight for d in group):g})"
    if len(idle) == 1:
        return chosen, f"the least loaded of {len(equals)} equals"
    return chosen, f"drawn among {len(idle)} equals that are equally loaded"

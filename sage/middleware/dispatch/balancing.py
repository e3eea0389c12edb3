"""Which of the available deployments is asked: a pure function of their state."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

_MOST_EXTRA = 4
"""A deployment keeps its conversations unless it has more than so many more requests running than the least loaded."""


class Choosable(Protocol):
    """What the choice looks at."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def priority(self) -> int: ...
    @property
    def in_flight(self) -> int: ...


D = TypeVar("D", bound=Choosable)


def choose(usable: Sequence[D], preferred: str | None = None) -> tuple[D, str]:
    """The deployment to ask, and why.

    The lowest priority number first. Within it the conversation's ``preferred`` deployment, unless it is much busier
    than others; else a draw by weight, and among those of the drawn weight the least loaded.
    """
    if len(usable) == 1:
        return usable[0], "it is the only one that can answer now"
    lowest = min(d.priority for d in usable)
    group = [d for d in usable if d.priority == lowest]
    if len(group) == 1:
        return group[0], f"it has the lowest priority number ({lowest}) of those that can answer now"
    least = min(d.in_flight for d in group)
    for deployment in group:
        if deployment.name == preferred and deployment.in_flight - least <= _MOST_EXTRA:
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

"""What an attack is: a function that does its worst within some seconds, and what the gateway promises beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hostile.target import Answer, Target


@dataclass(frozen=True)
class Probe:
    """A request that the other user sends again and again; each must be answered with ``status``."""

    name: str
    method: str
    path: str
    body: Any = None
    status: int = 200
    bound: float = 0.250
    """Seconds that one may take beside the attack, on a machine that has time for the gateway."""
    pause: float = 0.02
    """Seconds between two of them."""


@dataclass(frozen=True)
class Attack:
    """One row of attacks.

    ``run`` does it, in a process of its own. It returns what came of it, for the table, and raises
    :class:`AssertionError` where the gateway answered the attacker wrongly: took what it has to refuse, say.
    """

    name: str
    run: Callable[[Target], Awaitable[Mapping[str, Any]]]
    probes: tuple[Probe, ...] = ()
    """Further ones beside ``GET /auth/me`` and a chat, which each attack has."""
    memory: int = 256 * 2**20
    """Bytes that the gateway and its engines may take on top while it goes on."""
    seconds: float = 60.0
    """After so many it counts as stuck."""


def outcomes(answers: Iterable[Answer | BaseException]) -> dict[str, int]:
    """How often each status came, or each failure to get one: for the table."""
    return dict(
        Counter(str(answer.status) if isinstance(answer, Answer) else type(answer).__name__ for answer in answers)
    )

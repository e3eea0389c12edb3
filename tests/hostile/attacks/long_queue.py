"""One tenant fills the queues of models that answer one or two requests at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from hostile.attack import Attack, Probe, outcomes
from hostile.attacks.local_memory import TINY
from hostile.target import Answer, Target

_CHAT = "/v1/chat/completions"
_ONE_LONG = 3.0
"""Seconds that one of the attacker's own requests may take: another tenant's waits for one at most."""
_NARROW = Probe(
    "narrow", "POST", _CHAT, {"model": "narrow", "messages": [{"role": "user", "content": "hi"}]}, bound=1.0, pause=0.1
)


async def run(target: Target) -> dict[str, Any]:
    long = {"model": "tiny", "max_tokens": target.count(120, 60), "messages": [{"role": "user", "content": "hi"}]}
    waiting = {"model": "narrow", "messages": [{"role": "user", "content": "wait 0.3"}]}
    at_tiny, at_narrow = await asyncio.gather(
        target.posts(_CHAT, [long] * target.count(12, 6), within=120),
        target.posts(_CHAT, [waiting] * target.count(30, 8), within=120),
    )
    for answer in (*at_tiny, *at_narrow):
        assert isinstance(answer, Answer), answer
        assert answer.status in (200, 503), answer
    return {"tiny": str(outcomes(at_tiny)), "narrow": str(outcomes(at_narrow))}


ATTACK = Attack("long_queue", run, probes=(_NARROW, replace(TINY, bound=_ONE_LONG, pause=0.1)), seconds=150.0)

"""Many chats at once, at a model that answers two at a time."""

from __future__ import annotations

from typing import Any

from hostile.attack import Attack, outcomes
from hostile.target import Answer, Target


async def run(target: Target) -> dict[str, Any]:
    body = {"model": "narrow", "messages": [{"role": "user", "content": "wait 0.2"}]}
    answers = await target.posts("/v1/chat/completions", [body] * target.count(40, 8))
    for answer in answers:
        assert isinstance(answer, Answer), answer
        assert answer.status in (200, 429, 503), answer
    return outcomes(answers)


ATTACK = Attack("many_chats", run)

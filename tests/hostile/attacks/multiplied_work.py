"""Small requests that ask an upstream for very much."""

from __future__ import annotations

from typing import Any

from hostile.attack import Attack, outcomes
from hostile.target import Answer, Target

_FIELDS: list[dict[str, Any]] = [
    {"use_beam_search": True, "beam_width": 1_000_000},
    {"num_beams": 10_000},
    {"thinking": {"type": "enabled", "budget_tokens": 10**9}},
    {"reasoning": {"max_tokens": 10**9}},
    {"generation_config": {"candidateCount": 1000}},
    {"n": 1000},
    {"best_of": 1000},
    {"max_tokens": 10**9},
    {"options": {"num_ctx": 10**9}},
    {"prompt_logprobs": -1},
    {"top_logprobs": 100_000},
    {"logit_bias": {str(n): 1 for n in range(100_000)}},
    {"stop": [str(n) for n in range(5000)]},
    {"unknown": [[0] * 1000] * 100},
]


async def run(target: Target) -> dict[str, Any]:
    base = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    bodies = [{**base, **fields} for fields in _FIELDS] * target.count(20, 2)
    answers = await target.posts("/v1/chat/completions", bodies)
    for body, answer in zip(bodies, answers, strict=True):
        assert isinstance(answer, Answer), answer
        assert answer.status == 400, (str(body)[:200], answer)
    return outcomes(answers)


ATTACK = Attack("multiplied_work", run)

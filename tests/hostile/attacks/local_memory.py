"""Fields that make llama.cpp take all memory or all time, at a local model."""

from __future__ import annotations

from typing import Any

from hostile.attack import Attack, Probe, outcomes
from hostile.target import Answer, Target

_NESTED = "a?"
for _ in range(20):
    _NESTED = f"({_NESTED}){{2}}"
_GREEDY: list[dict[str, Any]] = [
    {"dry_multiplier": 0.5, "dry_penalty_last_n": 2147483647},
    {"repeat_penalty": 1.1, "repeat_last_n": 2147483647},
    {"options": {"repeat_last_n": 2147483647}},
    {"samplers": ["dry"] * 1000},
    {"n_probs": 2147483647},
    {"top_logprobs": 1000, "logprobs": True},
    {"grammar": "root ::= x9\n" + "\n".join(f"x{n} ::= x{n - 1} x{n - 1}" for n in range(1, 10)) + "\nx0 ::= [a-z]?"},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": _NESTED}}}},
]
TINY = Probe(
    "tiny",
    "POST",
    "/v1/chat/completions",
    {"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]},
    bound=1.0,
)
"""Another user's request of two tokens."""


async def run(target: Target) -> dict[str, Any]:
    base = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    bodies = [{**base, **fields} for fields in _GREEDY] * target.count(20, 1)
    answers = await target.posts("/v1/chat/completions", bodies)
    for body, answer in zip(bodies, answers, strict=True):
        assert isinstance(answer, Answer), (body, answer)
        assert answer.status == 400, (body, answer)
    return outcomes(answers)


ATTACK = Attack("local_memory", run, probes=(TINY,))

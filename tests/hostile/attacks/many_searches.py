"""Many searches and writes at once, on the attacker's own collection."""

from __future__ import annotations

import asyncio
from typing import Any

from hostile.attack import Attack, Probe, outcomes
from hostile.target import Answer, Target

SEARCH = Probe("search", "POST", "/search", {"query": "quiet", "collection": "alices", "mode": "bm25"}, bound=0.5)
"""Another tenant's, on a collection of its own."""


async def run(target: Target) -> dict[str, Any]:
    words = " ".join(f"word{number}" for number in range(50))
    documents = {"documents": [{"text": f"{words} {number}"} for number in range(target.count(300, 50))]}
    query = {"query": words, "collection": "load", "mode": "bm25", "top_k": 50}
    made = await asyncio.to_thread(target.post, "/collections", {"name": "load", "embedder": "none"})
    assert made.status in (201, 409), made
    written, searched = await asyncio.gather(
        target.posts("/collections/load/documents", [documents] * target.count(20, 4)),
        target.posts("/search", [query] * target.count(300, 40)),
    )
    for answer in (*written, *searched):
        assert isinstance(answer, Answer), answer
        assert answer.status in (200, 429, 503), answer
    return {"writes": str(outcomes(written)), "searches": str(outcomes(searched))}


ATTACK = Attack("many_searches", run, probes=(SEARCH,))

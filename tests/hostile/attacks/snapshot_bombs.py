"""Small files that would unpack into large collections, and first lines that claim more than any disk holds."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

from hostile.attack import Attack, outcomes
from hostile.target import Target

_BYTES = {"Content-Type": "application/octet-stream"}


def _bomb(count: int, text: int, **claims: int) -> bytes:
    first = {
        "format": "sage-collection",
        "version": 1,
        "name": "c",
        "options": {"embedder": "none"},
        "embedder": None,
        "languages": None,
        "dimension": None,
        "sequence": count,
        "documents": count,
        "bytes": count * (text + 10),
        "largest": text + 10,
        **claims,
    }
    lines = [json.dumps(first)]
    lines += [json.dumps({"number": n + 1, "id": str(n), "text": "a" * text, "metadata": {}}) for n in range(count)]
    return gzip.compress("\n".join(lines).encode())


async def run(target: Target) -> dict[str, Any]:
    bombs = [
        _bomb(52, 2**20),
        _bomb(1, 60 * 2**20),
        _bomb(20, 1000, bytes=10**18),
        _bomb(20, 1000, bytes=10**12),
        _bomb(20, 1000, documents=10**15, sequence=10**15, dimension=768),
    ]
    answers = []
    for _ in range(target.count(5, 1)):
        for bomb in bombs:
            path = "/collections/bomb/snapshot"
            answers.append(await asyncio.to_thread(target.send, "PUT", path, bomb, headers=_BYTES))
            assert answers[-1].status == 400, answers[-1]
    return outcomes(answers)


ATTACK = Attack("snapshot_bombs", run)

"""Bodies of some 30 MB that hold millions of values, or millions of empty lines."""

from __future__ import annotations

import asyncio
from typing import Any

from hostile.attack import Attack, outcomes
from hostile.target import Target

_NDJSON = {"Content-Type": "application/x-ndjson"}


async def run(target: Target) -> dict[str, Any]:
    count = target.count(1, 5)  # of the full size, or a fifth
    numbers, keys = 15_000_000 // count, 2_000_000 // count
    bodies: list[tuple[str, bytes, dict[str, str]]] = [
        ("/v1/embeddings", b'{"model": "chat", "input": [' + b"1," * numbers + b"1]}", {}),
        ("/v1/embeddings", b'{"model": "chat", "input": [' + b"[1]," * (numbers // 2) + b"[1]]}", {}),
        ("/v1/chat/completions", b'{"model":"chat","x":{' + b",".join(b'"%d":1' % n for n in range(keys)) + b"}}", {}),
        ("/collections/c/documents", b'{"documents":[{"text":"","vector":[' + b"1," * numbers + b"1]}]}", {}),
        ("/collections/c/documents", b'{"documents":[{"text":"' + b"[" * (2 * numbers) + b'"}]}', {}),
        ("/collections/c/documents", b"\n" * (2 * numbers), _NDJSON),
        ("/collections/c/documents", b'{"text":"","vector":[' + b"1," * numbers + b"1]}\n", _NDJSON),
        ("/vdb/c", b'{"items":[{"vector":[' + b"1," * numbers + b"1]}]}", {}),
        ("/search", b'{"query":"x","vector":[' + b"1," * numbers + b"1]}", {}),
        ("/kv/k", b'{"value":[' + b"1," * numbers + b"1]}", {}),
    ]
    answers = []
    for _ in range(target.count(3, 1)):
        for path, body, headers in bodies:
            method = "PUT" if path.startswith("/kv") else "POST"
            try:
                answer = await asyncio.to_thread(target.send, method, path, body, headers=headers)
            except ConnectionError as exc:  # refused by its head, while it was being sent
                answers.append(exc)
                continue
            assert answer.status in (400, 413), (path, answer)
            answers.append(answer)
    return outcomes(answers)


ATTACK = Attack("large_bodies", run)

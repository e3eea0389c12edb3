"""Clients that ask a local model for very long answers, and leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hostile.attack import Attack
from hostile.attacks.local_memory import TINY
from hostile.target import Target


async def run(target: Target) -> dict[str, Any]:
    async def leave(stream: bool) -> None:
        body = {"model": "tiny", "stream": stream, "max_tokens": 500, "messages": [{"role": "user", "content": "hi"}]}
        data = json.dumps(body).encode()
        _, writer = await target.open()
        writer.write(target.request_head("POST", "/v1/chat/completions", Content_Length=str(len(data))) + data)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()

    count = target.count(60, 6)
    for number in range(count):
        await leave(number % 2 == 0)
    answer = await asyncio.to_thread(target.post, TINY.path, TINY.body)
    assert answer.status == 200, answer  # the engine is free again
    return {"left": count}


ATTACK = Attack("leaving_clients", run, probes=(TINY,))

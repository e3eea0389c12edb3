"""One of several processes that count in one Redis: asks for calls, and prints how many were admitted.

Arguments: the URL, the process' name, and how many calls it makes at one time. It ends once there are no more requests.
"""

from __future__ import annotations

import asyncio
import json
import sys

from sage.middleware.limits.over_limit import OverLimit
from sage.middleware.limits.redis_link import RedisServer
from sage.middleware.limits.shared_limiter import SharedLimiter
from sage.middleware.settings.limits import Limits, SubjectLimits

SHARED = (SubjectLimits("tenant:acme", Limits(rpm=400)), SubjectLimits("user:ann", Limits(tpm=30_000, concurrent=6)))


async def main(url: str, name: str, at_once: int) -> None:
    limiter = SharedLimiter(RedisServer(url), patience=20.0)  # no machine is too busy for this test
    limiter.begin()
    while limiter.fault is not None:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    admitted, refused, tokens = 0, dict.fromkeys(("requests", "tokens", "concurrent"), 0), 0

    async def ask() -> None:
        nonlocal admitted, tokens
        while not refused["requests"]:
            try:
                taken = limiter.admit((*SHARED, SubjectLimits(f"key:{name}", Limits(rpm=10_000))), 10, 90)
                call = taken if not asyncio.iscoroutine(taken) else await taken
            except OverLimit as over:
                refused[over.kind] += 1
                await asyncio.sleep(0.005)
            else:
                await asyncio.sleep(0.001)
                call.settle(50)  # type: ignore[union-attr]
                admitted += 1
                tokens += 50

    await asyncio.gather(*(ask() for _ in range(at_once)))
    print(json.dumps({"admitted": admitted, "refused": refused, "tokens": tokens, "fault": limiter.fault}), flush=True)
    await limiter.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))

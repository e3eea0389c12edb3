"""Bytes that are no HTTP, or leave it open where a body ends; each is answered in our envelope."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hostile.attack import Attack
from hostile.target import Target

_REFRESH = b"POST /auth/refresh HTTP/1.1\r\nHost: x\r\n"
_REQUESTS = (
    _REFRESH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    _REFRESH + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\n",
    _REFRESH + b"Transfer-Encoding: xchunked\r\n\r\n",
    _REFRESH + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    _REFRESH + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"SSH-2.0-OpenSSH\r\n\r\n",
)


async def run(target: Target) -> dict[str, Any]:
    async def send(data: bytes) -> str:
        reader, writer = await target.open()
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), (data, answer)
        return str(json.loads(body)["error"]["code"])

    codes: dict[str, int] = {}
    for _ in range(target.count(200, 10)):
        for code in await asyncio.gather(*map(send, _REQUESTS)):
            codes[code] = codes.get(code, 0) + 1
    return codes


ATTACK = Attack("malformed_requests", run)

"""The yardstick: raw ASGI on uvicorn that forwards bytes through one aiohttp session. No key check, no parsing.

``python passthrough.py PORT UPSTREAM`` with the upstream as ``http://127.0.0.1:PORT``.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import uvicorn

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class PassThrough:
    """An ASGI application in front of one upstream."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["path"] == "/ready":
            await _answer(send, 200, b"application/json", b"{}")
        else:
            await self._forward(scope, receive, send)

    async def _live(self, receive: _Receive, send: _Send) -> None:
        await receive()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _forward(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        keep = (b"authorization", b"content-type")
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name in keep}
        url = self._upstream + scope["path"]
        async with self._session.request(scope["method"], url, data=body, headers=headers) as response:
            kind = response.headers["content-type"].encode()
            if kind != b"text/event-stream":
                return await _answer(send, response.status, kind, await response.read())
            await send({"type": "http.response.start", "status": response.status, "headers": [(b"content-type", kind)]})
            while data := await response.content.readany():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _answer(send: _Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    port, upstream = int(sys.argv[1]), sys.argv[2]
    uvicorn.run(
        PassThrough(upstream),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()

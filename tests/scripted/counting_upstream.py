"""An upstream that counts tokens: each request tells it how many to say that it has used, and how to answer.

The last message is ``do=DEED prompt=TOKENS answer=TOKENS``; a stream has an event for each token of its answer. What it
has counted stands in ``counted``, by the ``x-call`` of the first message.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

_MESSAGE = re.compile(r"call=(\S+) do=(\w+) prompt=(\d+) answer=(\d+)")


def message(call: str, deed: str, prompt: int, answer: int) -> str:
    """What to write in the last message. ``deed``: ``answer``, ``silent`` (no usage), ``cut`` (half of a stream),
    ``wait`` (half of a stream, and then nothing), ``fail`` (500)."""
    return f"call={call} do={deed} prompt={prompt} answer={answer}"


class CountingUpstream:
    """The server; ``counted``: what it said that each call has used."""

    def __init__(self) -> None:
        self.url = ""
        self.counted: dict[str, tuple[int, int]] = {}
        self.passed: dict[str, int] = {}
        """Of streams without an end: the events that were sent."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        told = _MESSAGE.search(body["messages"][-1]["content"])
        assert told is not None
        call, deed, prompt, answer = told[1], told[2], int(told[3]), int(told[4])
        usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        if deed == "fail":
            return web.json_response({"error": {"message": "as told", "type": "told"}}, status=500)
        if not body.get("stream"):
            whole: dict[str, Any] = {
                **{"id": "x", "object": "chat.completion", "created": 1, "model": body["model"]},
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
            }
            if deed == "answer":
                self.counted[call] = prompt, answer
                whole["usage"] = usage
            return web.json_response(whole)
        return await self._stream(request, body, call, deed, answer, usage)

    async def _stream(
        self, request: web.Request, body: Any, call: str, deed: str, answer: int, usage: dict[str, int]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        whole = deed in ("answer", "silent")
        if not whole:
            self.passed[call] = answer // 2
        for index in range(answer if whole else answer // 2):
            last = "stop" if whole and index == answer - 1 else None
            choice = {"index": 0, "delta": {"content": f"{index} "}, "finish_reason": last}
            await response.write(b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n")
        if deed == "cut":
            assert request.transport is not None
            request.transport.close()
            return response
        if deed == "wait":
            await asyncio.sleep(3600)
        if deed == "answer":
            self.counted[call] = usage["prompt_tokens"], answer
            await response.write(b"data: " + json.dumps({**head, "choices": [], "usage": usage}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@contextmanager
def counting_upstream() -> Iterator[CountingUpstream]:
    """One on a free port of 127.0.0.1, on an event loop of its own, until the end of the block."""
    upstream, loop = CountingUpstream(), asyncio.new_event_loop()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    started = threading.Event()

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        started.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)

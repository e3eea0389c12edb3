"""A stand-in for an Ollama server: its wire before real llama.cpp engines, which come and go as Ollama's runners do.

Ollama itself is no Python package and is not installed where the tests run. This server speaks the part of its wire
that the gateway uses (docs/api.md of Ollama), loads a model into a process of its own at the first use or at an empty
prompt, and ends that process when ``keep_alive`` is over. It is no part of what is shipped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from ollama_stand_in_runners import Runners, StandInModel
from ollama_stand_in_wire import (
    chat_request,
    embed_answer,
    generate_request,
    parts,
    seconds,
)

from sage.middleware.engines.process import EngineFailed
from sage.middleware.providers.base import Endpoint

KEEP_ALIVE = 300.0
"""Seconds, as Ollama's default."""
_STEP = 64 * 1024


class Refused(Exception):
    """What Ollama answers with a status and ``{"error": …}``."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class OllamaStandIn:
    """``with OllamaStandIn(store, models, registry) as server: server.url``; ends with all its engines.

    ``models`` are there from the start, those in ``registry`` can be pulled: their files are copied into ``store``.
    """

    def __init__(
        self,
        store: Path,
        models: Mapping[str, StandInModel],
        registry: Mapping[str, StandInModel] | None = None,
    ) -> None:
        self.url = ""
        self.requests: list[tuple[str, dict[str, Any]]] = []
        """What it was asked: path and body."""
        self._store = store
        self._models = {_tagged(name): model for name, model in models.items()}
        self._registry = {_tagged(name): model for name, model in (registry or {}).items()}
        self._runners = Runners(store)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="ollama stand-in")
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._store.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def pids(self, name: str) -> tuple[int, ...]:
        """The processes that hold that model now."""
        return self._runners.pids(_tagged(name))

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        routes = {"show": self._show, "chat": self._chat, "generate": self._generate, "embed": self._embed}
        for path, route in {**routes, "pull": self._pull}.items():
            app.router.add_post(f"/api/{path}", self._answering(route))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        # No kept connections: llama.cpp closes them when it likes, and a POST is not sent twice.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as self._client:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()
            await self._runners.close()

    def _answering(self, route: Any) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                body = await request.json()
                self.requests.append((request.path, body))
                return await route(request, body)
            except (ValueError, KeyError) as exc:
                return _json({"error": f"invalid request: {exc}"}, 400)
            except Refused as exc:
                return _json({"error": str(exc)}, exc.status)
            except EngineFailed as exc:
                return _json({"error": f"llama runner process has terminated: {exc.message}"}, 500)

        return answer

    # What there is

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": "0.0.0-stand-in"})

    async def _tags(self, _: web.Request) -> web.Response:
        return _json({"models": [self._card(name, model) for name, model in self._models.items()]})

    async def _ps(self, _: web.Request) -> web.Response:
        loaded = [
            {
                **self._card(name, runner.model),
                "expires_at": _when(runner.expires),
                "size_vram": 0,
                "context_length": runner.model.context,
            }
            for name, runner in self._runners.loaded()
        ]
        return _json({"models": loaded})

    async def _show(self, _: web.Request, body: dict[str, Any]) -> web.Response:
        name, model = self._find(body)
        return _json(
            {
                "modelfile": f"FROM {name}",
                "parameters": "\n".join(f"stop {json.dumps(stop)}" for stop in model.stop),
                "template": model.template or "",
                "details": self._card(name, model)["details"],
                "model_info": {"general.architecture": "llama", "llama.context_length": model.context},
                "capabilities": model.capabilities,
                "modified_at": _when(datetime.now(UTC)),
            }
        )

    def _card(self, name: str, model: StandInModel) -> dict[str, Any]:
        size = model.path.stat().st_size if model.path is not None else 0
        return {
            "name": name,
            "model": name,
            "modified_at": _when(datetime.now(UTC)),
            "size": size,
            "digest": hashlib.sha256(f"{name} {size}".encode()).hexdigest(),
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "",
                "quantization_level": "",
            },
        }

    def _find(self, body: dict[str, Any]) -> tuple[str, StandInModel]:
        name = _tagged(body.get("model") or body["name"])
        if name not in self._models:
            raise Refused(404, f"model '{body.get('model')}' not found")
        return name, self._models[name]

    # What they say

    async def _chat(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        name, model = self._find(body)
        _check(name, model, body)
        if not body.get("messages"):
            return await self._only_load(name, model, body, {"message": {"role": "assistant", "content": ""}})
        return await self._text(request, name, model, body, chat=True)

    async def _generate(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        name, model = self._find(body)
        _check(name, model, body)
        if not body.get("prompt"):
            return await self._only_load(name, model, body, {"response": ""})
        return await self._text(request, name, model, body, chat=not body.get("raw"))

    async def _text(
        self, request: web.Request, name: str, model: StandInModel, body: dict[str, Any], *, chat: bool
    ) -> web.StreamResponse:
        plain = "messages" not in body
        wanted = generate_request(body, model.stop) if plain else chat_request(body, model.stop)
        path = "/v1/chat/completions" if chat else "/v1/completions"
        started = time.perf_counter_ns()
        async with self._using(name, model, "generate", body) as endpoint:
            post = self._client.post(endpoint.base_url + path, json=wanted, headers=endpoint.headers)
            async with post as upstream:
                if upstream.status != 200:
                    answer = await upstream.json()
                    raise Refused(upstream.status, str(answer["error"]["message"]))
                lines = parts(upstream.content, body["model"], started, plain=plain)
                if body.get("stream", True):
                    return await _stream(request, lines)
                return _json(await _whole(lines, plain=plain))

    async def _embed(self, _: web.Request, body: dict[str, Any]) -> web.Response:
        name, model = self._find(body)
        if not body["input"]:
            return await self._only_load(name, model, body, {"embeddings": []})
        started = time.perf_counter_ns()
        async with self._using(name, model, "embed", body) as endpoint:
            post = self._client.post(
                f"{endpoint.base_url}/v1/embeddings", json={"input": body["input"]}, headers=endpoint.headers
            )
            async with post as upstream:
                answer = await upstream.json()
                if upstream.status != 200:
                    raise Refused(400, str(answer["error"]["message"]))
                return _json(embed_answer(answer, body, started))

    # Coming and going

    async def _only_load(
        self, name: str, model: StandInModel, body: dict[str, Any], empty: dict[str, Any]
    ) -> web.Response:
        keep = seconds(body.get("keep_alive"), KEEP_ALIVE)
        if keep == 0:
            await self._runners.unload(name)
        else:
            async with self._using(name, model, model.task, body):
                pass
        head = {"model": body["model"], "created_at": _when(datetime.now(UTC)), "done": True}
        return _json({**head, **empty, "done_reason": "unload" if keep == 0 else "load"})

    def _using(
        self, name: str, model: StandInModel, task: str, body: dict[str, Any]
    ) -> AbstractAsyncContextManager[Endpoint]:
        return self._runners.using(name, model, task, seconds(body.get("keep_alive"), KEEP_ALIVE))

    # Pulling

    async def _pull(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        lines = self._pulling(_tagged(body.get("model") or body["name"]))
        if body.get("stream", True):
            return await _stream(request, lines)
        steps = [line async for line in lines]
        return _json(steps[-1], 500 if "error" in steps[-1] else 200)

    async def _pulling(self, name: str) -> AsyncIterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        model = self._registry.get(name)
        if model is None or model.path is None:
            yield {"error": "pull model manifest: file does not exist"}
            return
        total, digest = model.path.stat().st_size, hashlib.sha256(model.path.read_bytes()).hexdigest()
        step = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": total}
        yield step
        target = self._store / f"sha256-{digest}"
        with model.path.open("rb") as source, target.open("wb") as copy:
            while data := source.read(_STEP):
                copy.write(data)
                yield {**step, "completed": copy.tell()}
        yield {"status": "verifying sha256 digest"}
        if hashlib.sha256(target.read_bytes()).hexdigest() != digest:
            yield {"error": "digest mismatch, file must be downloaded again"}
            return
        yield {"status": "writing manifest"}
        self._models[name] = replace(model, path=target)
        yield {"status": "success"}


def _check(name: str, model: StandInModel, body: dict[str, Any]) -> None:
    """Refuses as Ollama does what the model has not."""
    requested = {"completion": True, "tools": body.get("tools"), "thinking": body.get("think")}
    for capability, wanted in requested.items():
        if wanted and capability not in model.capabilities:
            verb = {"completion": "generate", "tools": "tools", "thinking": "thinking"}[capability]
            raise Refused(400, f'"{name}" does not support {verb}')
    for message in (*(body.get("messages") or ()), body):
        if message.get("images"):
            raise Refused(400, f'"{name}" does not support image input')


def _tagged(name: str) -> str:
    return name if re.search(r":[^/]+$", name) else f"{name}:latest"


def _when(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


async def _stream(request: web.Request, lines: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await answer.prepare(request)
    async for line in lines:
        await answer.write(json.dumps(line).encode() + b"\n")
    await answer.write_eof()
    return answer


async def _whole(lines: AsyncIterator[dict[str, Any]], *, plain: bool) -> dict[str, Any]:
    """One answer of all lines of a stream."""
    complete: dict[str, Any] = {}
    texts: dict[str, str] = {}
    calls: list[Any] = []
    chances: list[Any] = []
    async for line in lines:
        message = line if plain else line["message"]
        for key in ("response", "thinking") if plain else ("content", "thinking"):
            texts[key] = texts.get(key, "") + message.get(key, "")
        calls += message.get("tool_calls", [])
        chances += line.get("logprobs", [])
        complete = line
    message = complete if plain else complete["message"]
    message.update({key: text for key, text in texts.items() if text or key != "thinking"})
    if calls:
        message["tool_calls"] = calls
    return {**complete, "logprobs": chances} if chances else complete

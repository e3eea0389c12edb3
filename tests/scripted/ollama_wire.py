"""A script of an Ollama server's wire for :class:`upstream.Upstream`: every request is checked by the SDK's own types.

Not Ollama: it echoes. What it sends is what Ollama 0.12 sends (docs/api.md, server/routes.go, api/types.go).
"""

from __future__ import annotations

import base64
import json
from typing import Any

import ollama
from ollama import _types as types
from upstream import Received, Script, reply, stream

NDJSON = {"content-type": "application/x-ndjson"}
WHEN = "2026-01-01T00:00:00.123456789Z"
COUNTS = {
    "total_duration": 5_000_000,
    "load_duration": 1_000_000,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 1_000_000,
    "eval_count": 3,
    "eval_duration": 2_000_000,
}
REQUESTS = {
    "/api/chat": types.ChatRequest,
    "/api/generate": types.GenerateRequest,
    "/api/embed": types.EmbedRequest,
    "/api/show": types.ShowRequest,
    "/api/pull": types.PullRequest,
}


def lines(*records: dict[str, Any] | bytes, **options: Any) -> Script:
    """A stream of one line each; ``options`` as for :func:`upstream.stream`."""
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in records]
    return stream(encoded, no_done=True, headers=NDJSON, **options)


def chat_line(text: str = "", model: str = "theirs-0", **message: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **message}
    return {"model": model, "created_at": WHEN, "message": message, "done": False}


def chat_end(reason: str = "stop", model: str = "theirs-0", **fields: Any) -> dict[str, Any]:
    return {**chat_line(model=model), "done": True, "done_reason": reason, **COUNTS, **fields}


def text_line(text: str = "", model: str = "theirs-0") -> dict[str, Any]:
    return {"model": model, "created_at": WHEN, "response": text, "done": False}


def text_end(reason: str = "stop", model: str = "theirs-0", **fields: Any) -> dict[str, Any]:
    return {**text_line(model=model), "done": True, "done_reason": reason, **COUNTS, **fields}


def whole_chat(text: str = "", reason: str = "stop", model: str = "theirs-0", **message: Any) -> dict[str, Any]:
    return {**chat_line(text, model, **message), "done": True, "done_reason": reason, **COUNTS}


def whole_text(text: str, reason: str = "stop", model: str = "theirs-0") -> dict[str, Any]:
    return {**text_line(text, model), "done": True, "done_reason": reason, **COUNTS}


def tool_call(name: str, arguments: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"function": {"index": index, "name": name, "arguments": arguments}}


class OllamaScript:
    """``upstream.handler = OllamaScript()``: models that echo, load, unload and can be pulled."""

    def __init__(self) -> None:
        self.models = {"theirs-0", "llama3:latest", "qwen3:0.6b", "all-minilm:latest"}
        self.embedders = {"all-minilm:latest"}
        """They take no prompt."""
        self.loaded: dict[str, float | str | None] = {}
        """Models in memory and the keep_alive that they were last given."""

    def __call__(self, request: Received) -> Script:
        kind = REQUESTS.get(request.path)
        if kind is not None:
            fault = check(kind, request.body)
            if fault is not None:
                return reply({"error": fault}, status=400)
            name = self._full(request.body["model"])
            if request.path == "/api/pull":
                return self._pull(name)
            if name not in self.models:
                return reply({"error": f"model '{request.body['model']}' not found"}, status=404)
        match request.path:
            case "/api/chat":
                return self._chat(request.body)
            case "/api/generate":
                return self._generate(request.body, name)
            case "/api/embed":
                return self._embed(request.body, name)
            case "/api/show":
                return reply(shown(name))
            case "/api/tags":
                return reply({"models": [card(name) for name in sorted(self.models)]})
            case "/api/ps":
                loaded = [
                    {**card(name), "expires_at": WHEN, "size_vram": 5, "context_length": 4096} for name in self.loaded
                ]
                return reply({"models": loaded})
        return reply({"error": "404 page not found"}, status=404)

    def _full(self, name: str) -> str:
        return name if name in self.models or ":" in name else f"{name}:latest"

    def _chat(self, body: dict[str, Any]) -> Script:
        text, model = body["messages"][-1]["content"], body["model"]
        if body.get("stream", True):
            words = text.split(" ")
            pieces = [word + " " * (i + 1 < len(words)) for i, word in enumerate(words)]
            return lines(*(chat_line(piece, model) for piece in pieces), chat_end(model=model))
        return reply(whole_chat(text, model=model))

    def _generate(self, body: dict[str, Any], name: str) -> Script:
        model = body["model"]
        if name in self.embedders:
            return reply({"error": f'"{model}" does not support generate'}, status=400)
        if not body.get("prompt"):
            return self._keep(body, name)
        if body.get("stream", True):
            return lines(text_line(body["prompt"], model), text_end(model=model))
        return reply(whole_text(body["prompt"], model=model))

    def _keep(self, body: dict[str, Any], name: str) -> Script:
        unload = body.get("keep_alive") == 0
        if unload:
            self.loaded.pop(name, None)
        else:
            self.loaded[name] = body.get("keep_alive")
        reason = "unload" if unload else "load"
        return reply({**text_line(model=body["model"]), "done": True, "done_reason": reason})

    def _embed(self, body: dict[str, Any], name: str) -> Script:
        """Vectors of three numbers: the length of the text, its place, and 0.5; or as many as were asked for."""
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        if texts == [""]:
            self._keep(body, name)
            texts = []
        vectors = [
            [float(len(text)), float(index), 0.5][: body.get("dimensions", 3)] for index, text in enumerate(texts)
        ]
        counted = sum(len(text.split()) for text in texts)
        return reply({"model": body["model"], "embeddings": vectors, "total_duration": 1, "prompt_eval_count": counted})

    def _pull(self, name: str) -> Script:
        if name.startswith("absent"):
            return lines({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"})
        self.models.add(name)
        steps = [{"status": "pulling aabb", "digest": "sha256:aabb", "total": 10, "completed": n} for n in (0, 5, 10)]
        return lines(
            {"status": "pulling manifest"}, *steps, {"status": "verifying sha256 digest"}, {"status": "success"}
        )


def card(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": WHEN,
        "size": 10,
        "digest": "aabb",
        "details": {"family": "llama"},
    }


def shown(name: str) -> dict[str, Any]:
    return {
        "modelfile": "FROM /usr/share/ollama/blobs/sha256-aabb",
        "template": "{{ .Prompt }}",
        "system": "a secret instruction",
        "details": {"format": "gguf", "family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_0"},
        "model_info": {"general.architecture": "llama", "llama.context_length": 8192},
        "capabilities": ["completion", "tools"],
        "modified_at": WHEN,
    }


def check(kind: type[types.BaseRequest], body: Any) -> str | None:
    """What the SDK's own type for this request says against ``body``; fields that it has not are faults too."""
    unknown = set(body) - set(kind.model_fields)
    if unknown:
        return f"unknown fields {sorted(unknown)}"
    try:
        request = kind.model_validate(body)
        for message in body.get("messages") or ():
            # `tool_call_id` is newer than the SDK's type.
            unknown = set(message) - set(types.Message.model_fields) - {"tool_call_id"}
            if unknown:
                return f"unknown fields {sorted(unknown)} of a message"
            images = message.get("images")
            ollama.Message.model_validate({**message, "images": images and [{"value": image} for image in images]})
            for image in images or ():
                base64.b64decode(image, validate=True)
        unknown = set(body.get("options") or {}) - set(types.Options.model_fields) - {"min_p"}
        if unknown:
            return f"unknown options {sorted(unknown)}"
        types.Options.model_validate(body.get("options") or {})
    except ValueError as exc:
        return str(exc)
    return None if request.model else "no model"

"""The translations of the stand-in for an Ollama server: from Ollama's wire to llama.cpp's, and back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

_OPTIONS = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "typical_p")},
    **{name: name for name in ("presence_penalty", "frequency_penalty", "repeat_last_n")},
    "num_predict": "max_tokens",
}
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(keep_alive: Any, default: float) -> float | None:
    """Ollama's ``keep_alive``: seconds, or Go's ``5m``, ``1h30m``; none (for good) for what is negative."""
    if keep_alive is None:
        return default
    if isinstance(keep_alive, str):
        amounts = re.findall(r"([\d.]+)(ns|us|ms|s|m|h)", keep_alive)
        if not amounts:
            raise ValueError(f"time: invalid duration {keep_alive!r}")
        total = sum(float(number) * _UNITS[unit] for number, unit in amounts)
        return None if keep_alive.startswith("-") else total
    return None if keep_alive < 0 else float(keep_alive)


def chat_request(body: dict[str, Any], stop: tuple[str, ...]) -> dict[str, Any]:
    """llama.cpp's streamed chat from ``/api/chat``."""
    wanted = {"messages": [_message(message) for message in body["messages"]], **_common(body, stop)}
    if body.get("tools"):
        wanted["tools"] = body["tools"]
    return wanted


def generate_request(body: dict[str, Any], stop: tuple[str, ...]) -> dict[str, Any]:
    """llama.cpp's streamed chat from ``/api/generate``, or its completion when the prompt is ``raw``."""
    common = _common(body, stop)
    if body.get("raw"):
        return {"prompt": body["prompt"], **common}
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    return {"messages": [*system, {"role": "user", "content": body["prompt"]}], **common}


def _common(body: dict[str, Any], stop: tuple[str, ...]) -> dict[str, Any]:
    options = body.get("options") or {}
    wanted: dict[str, Any] = {_OPTIONS[name]: value for name, value in options.items() if name in _OPTIONS}
    requested = options.get("stop") or []
    wanted["stop"] = [*([requested] if isinstance(requested, str) else requested), *stop]
    wanted |= {"stream": True, "stream_options": {"include_usage": True}}
    shape = body.get("format")
    if shape == "json":
        wanted["response_format"] = {"type": "json_object"}
    elif isinstance(shape, dict):
        wanted["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": shape}}
    if body.get("logprobs"):
        wanted |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    return wanted


def _message(message: dict[str, Any]) -> dict[str, Any]:
    ours = {"role": message["role"], "content": message.get("content") or ""}
    if message.get("thinking"):
        ours["reasoning_content"] = message["thinking"]
    calls = message.get("tool_calls")
    if calls:
        ours["tool_calls"] = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.dumps(call["function"].get("arguments") or {}),
                },
            }
            for number, call in enumerate(calls)
        ]
    return ours


async def parts(
    stream: AsyncIterator[bytes], model: str, started: int, *, plain: bool
) -> AsyncIterator[dict[str, Any]]:
    """Ollama's lines from the events of llama.cpp's stream; a line of the stream each. ``started``: nanoseconds."""
    calls: dict[int, dict[str, str]] = {}
    reason, usage = "stop", {}
    async for raw in stream:
        data = raw.strip().removeprefix(b"data: ")
        if not data.startswith(b"{"):
            continue
        event = json.loads(data)
        if "error" in event:
            yield {"error": event["error"].get("message", "the engine failed")}
            return
        usage = event.get("usage") or usage
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {"content": choice.get("text")}
            for call in delta.get("tool_calls") or ():
                tool_call = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                tool_call["name"] += call["function"].get("name") or ""
                tool_call["arguments"] += call["function"].get("arguments") or ""
            text, thinking = delta.get("content") or "", delta.get("reasoning_content") or ""
            chances = ((choice.get("logprobs") or {}).get("content")) or []
            if text or thinking:
                yield {**_said(model, text, thinking, plain), **({"logprobs": chances} if chances else {})}
            reason = "length" if choice.get("finish_reason") == "length" else reason
    if calls:
        line = _said(model, "", "", plain)
        line["message"]["tool_calls"] = [
            {"function": {"name": call["name"], "arguments": json.loads(call["arguments"] or "{}")}}
            for call in calls.values()
        ]
        yield line
    took = time.perf_counter_ns() - started
    yield {
        **_said(model, "", "", plain),
        "done": True,
        "done_reason": reason,
        "total_duration": took,
        "load_duration": 0,
        "prompt_eval_count": usage.get("prompt_tokens", 0),
        "prompt_eval_duration": took // 2,
        "eval_count": usage.get("completion_tokens", 0),
        "eval_duration": took // 2,
    }


def _said(model: str, text: str, thinking: str, plain: bool) -> dict[str, Any]:
    head = {"model": model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"), "done": False}
    more = {"thinking": thinking} if thinking else {}
    if plain:
        return {**head, "response": text, **more}
    return {**head, "message": {"role": "assistant", "content": text, **more}}


def embed_answer(answer: dict[str, Any], body: dict[str, Any], started: int) -> dict[str, Any]:
    """The answer of ``/api/embed``; shorter vectors, where they are asked for, have length 1 again."""
    vectors = [item["embedding"] for item in answer["data"]]
    if body.get("dimensions"):
        vectors = [_unit(vector[: body["dimensions"]]) for vector in vectors]
    return {
        "model": body["model"],
        "embeddings": vectors,
        "total_duration": time.perf_counter_ns() - started,
        "load_duration": 0,
        "prompt_eval_count": answer["usage"]["prompt_tokens"],
    }


def _unit(vector: list[float]) -> list[float]:
    length = sum(value * value for value in vector) ** 0.5
    return [value / length for value in vector]

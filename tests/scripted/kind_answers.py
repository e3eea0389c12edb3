"""One answer of a model in the wire of each kind of provider: it thinks, says something and calls a tool twice."""

from __future__ import annotations

import json
from typing import Any

import anthropic_wire
import cohere_wire
import gemini_wire
import ollama_wire
from shared_gateway import PATIENT
from surface_losses import KINDS
from upstream import Received, Script, Upstream, chat_chunk, reply, stream, usage_chunk

SF, NY = {"city": "SF"}, {"city": "NY"}
_MODELS = {"anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}


def every_kind(up: Upstream) -> dict[str, Any]:
    """A configuration in which each kind of provider has a model of its name at ``up``."""
    root = up.url.removesuffix("/v1")
    keyed = {kind: {"kind": kind, "base_url": up.url, "api_key": "sk-upstream"} for kind in KINDS}
    keyed["ollama"]["base_url"] = keyed["anthropic"]["base_url"] = keyed["gemini"]["base_url"] = root
    models = {kind: {"deployments": [{"provider": kind, "model": _MODELS.get(kind, "theirs-0")}]} for kind in KINDS}
    return {"llm": {"providers": keyed, "models": models, "routing": PATIENT}}


def answer_of_kind(kind: str, request: Received) -> Script:
    """The answer to ``request``: thinks ``Hm.``, says ``I look.``, and asks for the weather of two cities."""
    return _ANSWERS.get(kind, _openai)(asks_for_a_stream(request))


def _openai(streams: bool) -> Script:
    calls = [
        {"index": n, "id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": json.dumps(city)}}
        for n, city in enumerate((SF, NY))
    ]
    if not streams:
        message = {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        counted = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        return reply({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": counted})
    deltas = [{"reasoning_content": "Hm."}, {"content": "I look."}, *({"tool_calls": [call]} for call in calls)]
    made = [chat_chunk(None, choices=[{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    return stream([*made, chat_chunk(None, "tool_calls"), usage_chunk(9, 5)])


def _ollama(streams: bool) -> Script:
    calls = [ollama_wire.tool_call("weather", SF), ollama_wire.tool_call("weather", NY, 1)]
    if not streams:
        return reply(ollama_wire.whole_chat("I look.", thinking="Hm.", tool_calls=calls))
    said = [ollama_wire.chat_line(thinking="Hm."), ollama_wire.chat_line("I look.")]
    return ollama_wire.lines(*said, ollama_wire.chat_line(tool_calls=calls), ollama_wire.chat_end())


def _cohere(streams: bool) -> Script:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": json.dumps(city)}}
        for n, city in enumerate((SF, NY))
    ]
    if not streams:
        content = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "I look."}]
        return reply(cohere_wire.chat_answer(content=content, tool_calls=calls, finish="TOOL_CALL"))
    return cohere_wire.chat_stream(
        *cohere_wire.text_events("Hm.", kind="thinking"),
        *cohere_wire.text_events("I look.", index=1),
        *cohere_wire.called(0, "weather", json.dumps(SF)),
        *cohere_wire.called(1, "weather", json.dumps(NY)),
        cohere_wire.end("TOOL_CALL"),
    )


def _anthropic(streams: bool) -> Script:
    if not streams:
        return reply(
            anthropic_wire.message(
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c0", "name": "weather", "input": SF},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": NY},
                stop="tool_use",
            )
        )
    return anthropic_wire.events(
        *anthropic_wire.thinking_block("Hm.", signature="c2ln"),
        *anthropic_wire.text_block("I ", "look.", index=1),
        *anthropic_wire.tool_block("weather", json.dumps(SF), index=2, identity="c0"),
        *anthropic_wire.tool_block("weather", json.dumps(NY), index=3, identity="c1"),
        *anthropic_wire.end("tool_use"),
    )


def _gemini(streams: bool) -> Script:
    parts = [
        {"text": "Hm.", "thought": True},
        {"text": "I look."},
        gemini_wire.called("weather", SF),
        gemini_wire.called("weather", NY),
    ]
    if not streams:
        return reply(gemini_wire.answer(*parts))
    return gemini_wire.events(*(gemini_wire.answer(part, finish=None) for part in parts), gemini_wire.answer())


_ANSWERS = {
    "ollama": _ollama,
    "cohere": _cohere,
    "anthropic": _anthropic,
    "gemini": _gemini,
}


def asks_for_a_stream(request: Received) -> bool:
    return "streamGenerateContent" in request.path or bool(request.body.get("stream"))

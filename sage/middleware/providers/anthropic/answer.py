"""Anthropic's messages as chat answers in OpenAI's shape: pure functions.

Source: Anthropic's API reference, *Messages*, and its guides on stop reasons, citations and extended thinking.
"""

from __future__ import annotations

import time
from typing import Any

import orjson

from sage.middleware.providers.anthropic.tools import ANSWER_TOOL
from sage.middleware.providers.anthropic.usage import usage_of
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire.chunks import completion_id
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.sse import read_usage
from sage.middleware.providers.wire.tool_calls import call_id

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def chat_answer(
    answer: dict[str, Any], model: str, *, by_tool: bool = False
) -> tuple[dict[str, Any], Usage | None] | None:
    """OpenAI's answer under the public name, made of Anthropic's; ``None`` if that is no message.

    ``by_tool`` says that a call of :data:`ANSWER_TOOL` is the answer.
    """
    if not isinstance(answer.get("content"), list):
        return None
    message = _message(objects(answer["content"]), by_tool=by_tool)
    finish = finish_reason(answer.get("stop_reason"), has_calls="tool_calls" in message)
    if refusal := refusal_of(answer):
        message["refusal"] = refusal
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    if isinstance(answer.get("stop_sequence"), str):
        choice["stop_reason"] = answer["stop_sequence"]  # vLLM's name for the text that ended it
    identity = answer.get("id")
    translated: dict[str, Any] = {
        "id": identity if identity and isinstance(identity, str) else completion_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
    }
    usage = read_usage(answer.get("usage"))
    if usage is not None:
        translated["usage"] = usage_of(usage)
    return translated, usage


def _message(blocks: list[dict[str, Any]], *, by_tool: bool) -> dict[str, Any]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(string(block.get("text")))
        elif kind == "tool_use" and by_tool and block.get("name") == ANSWER_TOOL:
            texts.append(arguments_of(block))
        elif kind == "tool_use":
            calls.append(tool_call(block, arguments_of(block)))
    text = "".join(texts)
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    thoughts = [block for block in blocks if is_thought(block)]
    if reasoning := "".join(string(block.get("thinking")) for block in thoughts):
        message["reasoning_content"] = reasoning
    if kept := [kept_thought(block) for block in thoughts]:
        message["thinking_blocks"] = kept
    if calls:
        message["tool_calls"] = calls
    if citations := [cited for block in blocks for cited in objects(block.get("citations"))]:
        message["citations"] = citations
    return message


def is_thought(block: dict[str, Any]) -> bool:
    """Whether ``block`` is thinking, in words or encrypted."""
    return block.get("type") in ("thinking", "redacted_thinking")


def kept_thought(block: dict[str, Any]) -> dict[str, Any]:
    """The entry of ``thinking_blocks``, which the caller has to send back in a loop of tools."""
    if block["type"] == "redacted_thinking":
        return {"type": "redacted_thinking", "data": string(block.get("data"))}
    thinking, signature = string(block.get("thinking")), string(block.get("signature"))
    return {"type": "thinking", "thinking": thinking, "signature": signature}


def arguments_of(block: dict[str, Any]) -> str:
    """What a tool is called with, as JSON text."""
    value = block.get("input")
    return orjson.dumps(value if isinstance(value, dict) else {}).decode()


def tool_call(block: dict[str, Any], arguments: str) -> dict[str, Any]:
    """The entry of ``tool_calls``."""
    function = {"name": string(block.get("name")), "arguments": arguments}
    return {"id": string(block.get("id")) or call_id(), "type": "function", "function": function}


def finish_reason(reason: Any, *, has_calls: bool) -> str:
    """OpenAI's ``finish_reason`` for Anthropic's ``stop_reason``."""
    finish = FINISH.get(reason, reason) if isinstance(reason, str) and reason else "stop"
    # The tool that only carried the answer is no call of the caller's.
    return "stop" if finish == "tool_calls" and not has_calls else finish


def refusal_of(answer: dict[str, Any]) -> str:
    """Why the model has refused, in its vendor's words; empty where it has not, or does not say."""
    details = answer.get("stop_details")
    if answer.get("stop_reason") != "refusal" or not isinstance(details, dict):
        return ""
    return string(details.get("explanation"))

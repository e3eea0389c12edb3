"""Responses' own objects: the response, its items and its usage.

Source: OpenAI's API reference (responses, *The response object*), and the Open Responses specification, which requires
every field of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sage.errors import SageError
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.routers.openai.responses import reasoning
from sage.middleware.routers.openai.responses.tools import ToolName, custom_input

_DEFAULTS: dict[str, Any] = {
    "id": "",
    "object": "response",
    "created_at": 0,
    "status": "in_progress",
    "background": False,
    "completed_at": None,
    "error": None,
    "frequency_penalty": 0.0,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "model": "",
    "output": [],
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": None,
    "user": None,
    "metadata": {},
}
"""Every field of a response, and what it is for a request that does not set it."""
_ECHOED = frozenset(
    {"background", "frequency_penalty", "instructions", "max_output_tokens", "max_tool_calls", "model", "metadata"}
    | {"parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt_cache_key", "reasoning", "store"}
    | {"safety_identifier", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation"}
    | {"user", "prompt_cache_retention"}
)
_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_REASONS: Mapping[str | None, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by the chat's reason."""
_FUNCTION = {"description": None, "parameters": None, "strict": None}
_CODES = {"rate_limit_error": "rate_limit_exceeded", "invalid_request_error": "invalid_prompt"}
"""OpenAI's codes of a response that has failed, by the types of our errors; others are its ``server_error``."""


def response_id() -> str:
    """A new id of a response."""
    return f"resp_{os.urandom(24).hex()}"


def item_id(prefix: str, response: str, number: int) -> str:
    """The id of the item of that number in the output of ``response``."""
    return f"{prefix}_{response[5:]}{number:02d}"


def response_of(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A response of that ``name`` before there is anything of it, with the ``fields`` that its request has set."""
    response = _DEFAULTS.copy()  # a third of what it costs to put them into another object
    response.update(fields)
    response["id"], response["created_at"] = name, int(time.time())
    return response


def new_response(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The response to ``body`` before there is anything of it."""
    echoed = {field: body[field] for field in _ECHOED.intersection(body) if body[field] is not None}
    response = response_of(echoed, name)
    if "tools" in echoed:
        response["tools"] = [
            {**_FUNCTION, **tool} if tool.get("type") == "function" else tool for tool in objects(echoed["tools"])
        ]
    if "text" in echoed:
        response["text"] = {"format": {"type": "text"}, **_set(echoed["text"])}
    if "reasoning" in echoed:
        response["reasoning"] = {"effort": None, "summary": None, **_set(echoed["reasoning"])}
    return response


def _set(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if each is not None}


def ended(
    response: dict[str, Any], output: list[dict[str, Any]], finish: str | None, usage: Any, tier: Any = None
) -> dict[str, Any]:
    """``response`` with all that it has become; ``finish`` is the chat's reason."""
    response["output"] = output
    if isinstance(tier, str):
        response["service_tier"] = tier
    response["usage"] = response_usage(usage)
    reason = _REASONS.get(finish) if finish != "stop" else None
    if reason is None:
        response["status"], response["completed_at"] = "completed", int(time.time())
    else:
        response["status"], response["incomplete_details"] = "incomplete", {"reason": reason}
    return response


def failed(response: dict[str, Any], output: list[dict[str, Any]], error: SageError) -> dict[str, Any]:
    """``response`` after ``error``."""
    response["output"], response["status"] = output, "failed"
    response["error"] = {"code": _CODES.get(error.type, "server_error"), "message": error.message}
    return response


def response_usage(usage: Any) -> dict[str, Any] | None:
    """Chat's ``usage`` as that of a response; ``None`` means that the upstream has reported none."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (type(prompt) is type(completion) is int and prompt >= 0 <= completion):
        prompt, completion = _count(prompt), _count(completion)
    if _PLAIN.issuperset(usage):
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        }
    details = _object(usage.get("prompt_tokens_details"))
    cached, written = _count(details.get("cached_tokens")), _count(details.get("cache_creation_tokens"))
    thought = _count(_object(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": prompt + completion,
    }


def add_usage(before: dict[str, Any] | None, usage: dict[str, Any] | None) -> dict[str, Any] | None:
    """The sum of two usages of responses."""
    if before is None or usage is None:
        return before or usage
    return {
        name: {each: value[each] + usage[name][each] for each in value}
        if isinstance(value, dict)
        else value + usage[name]
        for name, value in before.items()
    }


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value < 2**53 else 0


def message_item(name: str, content: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    """A message of the assistant."""
    return {"id": name, "type": "message", "status": status, "role": "assistant", "content": content}


def text_part(text: str, logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """A part of text."""
    return {"type": "output_text", "annotations": [], "logprobs": [*logprobs], "text": text}


def refusal_part(text: str) -> dict[str, Any]:
    """A part that refuses."""
    return {"type": "refusal", "refusal": text}


def reasoning_item(
    name: str, text: str, blocks: list[dict[str, Any]], *, summarised: bool, encrypted: bool
) -> dict[str, Any]:
    """What a model has thought. It can be passed back where it is ``encrypted``, and where a vendor needs its
    signature."""
    item: dict[str, Any] = {"id": name, "type": "reasoning", "summary": [], "content": []}
    if text:
        kind, field = ("summary_text", "summary") if summarised else ("reasoning_text", "content")
        item[field] = [{"type": kind, "text": text}]
    if encrypted or blocks:
        item["encrypted_content"] = reasoning.sealed(text, blocks)
    return item


def call_item(
    response: str, number: int, tool: ToolName, call_id: str, arguments: str, status: str = "completed"
) -> dict[str, Any]:
    """A call of the caller's function or custom tool."""
    if tool.kind == "custom":
        name, content = item_id("ctc", response, number), {"input": custom_input(arguments) if arguments else ""}
        item = {"id": name, "type": "custom_tool_call", "status": status, "call_id": call_id, "name": tool.name}
    else:
        name, content = item_id("fc", response, number), {"arguments": arguments}
        item = {"id": name, "type": "function_call", "status": status, "call_id": call_id, "name": tool.name}
    if tool.namespace is not None:
        item["namespace"] = tool.namespace
    return {**item, **content}


def logprob_list(logprobs: Any) -> list[dict[str, Any]]:
    """Chat's ``logprobs`` of a choice as those of a text."""
    content = objects(logprobs.get("content")) if isinstance(logprobs, dict) else []
    return [{**_logprob(item), "top_logprobs": [*map(_logprob, objects(item.get("top_logprobs")))]} for item in content]


def _logprob(item: Mapping[str, Any]) -> dict[str, Any]:
    token, given = str(item.get("token") or ""), item.get("bytes")
    value = item.get("logprob")
    return {
        "token": token,
        "bytes": given if isinstance(given, list) else list(token.encode("utf-8", "replace")),
        "logprob": value if isinstance(value, int | float) else 0.0,
    }

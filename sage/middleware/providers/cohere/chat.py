"""Translates chat requests and answers between OpenAI's shapes and Cohere's: pure functions.

Source: Cohere's API reference, *Chat* (v2), and its guides on tool use, structured outputs and reasoning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sage.errors import InvalidRequest, SageError
from sage.middleware.providers.base import Usage
from sage.middleware.providers.vendor import HINTS
from sage.middleware.providers.wire.chunks import completion_id, usage_object
from sage.middleware.providers.wire.messages import REASONING, content_of, reasoning_of
from sage.middleware.providers.wire.sse import count
from sage.middleware.providers.wire.tool_calls import whole_calls, with_arguments_text

FINISH = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}
_FAILED = {"ERROR": 502, "TIMEOUT": 504}
Fail = Callable[[int, str], SageError]
"""``fail(status, message)`` makes our error of the vendor's."""


class Refuse(Protocol):
    """Raises for a field that Cohere does not have, or returns if the model leaves out such fields."""

    def __call__(self, field: str, why: str = "") -> None: ...


# Fields that have the same name and meaning at Cohere, and Cohere's own.
_SAME = frozenset(
    {
        "max_tokens",
        "temperature",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logprobs",
        "p",
        "k",
        "stop_sequences",
        "documents",
        "citation_options",
        "safety_mode",
        "strict_tools",
        "thinking",
        "raw_prompting",
    }
)
# Fields that `chat_request` translates itself.
_TRANSLATED_APART = frozenset(
    {"messages", "tools", "tool_choice", "reasoning_effort", "max_completion_tokens", "models"}
)
# Values that ask for what happens anyway, of fields that Cohere does not have.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "modalities": (["text"],),
}


def chat_request(body: Mapping[str, Any], model: str, stream: bool, refuse: Refuse) -> dict[str, Any]:
    """Cohere's request for OpenAI's ``body``."""
    sent: dict[str, Any] = {"model": model, "stream": stream, "messages": _messages(body["messages"], refuse)}
    for field, value in body.items():
        if value is None or field in HINTS or field in _TRANSLATED_APART:
            continue
        if field in _SAME:
            sent[field] = value
        elif field in _TRANSLATED:
            _TRANSLATED[field](sent, value, refuse)
        elif value not in _NEUTRAL.get(field, ()):
            refuse(field)
    if body.get("max_completion_tokens") is not None:
        sent["max_tokens"] = body["max_completion_tokens"]
    if body.get("reasoning_effort") is not None and "thinking" not in sent:
        # Cohere's thinking is on or off; `thinking.token_budget` bounds it.
        sent["thinking"] = {"type": "disabled" if body["reasoning_effort"] == "none" else "enabled"}
    _add_tools(sent, body, refuse)
    return sent


def _stop(sent: dict[str, Any], value: Any, refuse: Refuse) -> None:
    stops = [value] if isinstance(value, str) else value
    if isinstance(stops, list):
        stops = [stop for stop in stops if stop != ""]  # an empty text stops nothing
    if stops:
        sent["stop_sequences"] = stops


def _top_p(sent: dict[str, Any], value: Any, refuse: Refuse) -> None:
    """Cohere's ``p`` goes from 0.01 to 0.99, OpenAI's from 0 to 1."""
    valid = isinstance(value, int | float) and 0 <= value <= 1
    sent["p"] = min(max(value, 0.01), 0.99) if valid else value


def _top_k(sent: dict[str, Any], value: Any, refuse: Refuse) -> None:
    sent["k"] = 0 if value == -1 else value  # both stand for all tokens


def _response_format(sent: dict[str, Any], value: Any, refuse: Refuse) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "json_schema":
        wrapped = value.get("json_schema")
        schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
        if not isinstance(schema, dict):
            raise InvalidRequest(
                "'response_format.json_schema.schema' must be a JSON schema", param="response_format.json_schema"
            )
        sent["response_format"] = {"type": "json_object", "json_schema": schema}
    elif kind == "json_object":
        schema = value.get("schema") or value.get("json_schema")
        sent["response_format"] = {"type": kind, "json_schema": schema} if schema else {"type": kind}
    elif kind != "text":
        refuse("response_format")


_TRANSLATED: dict[str, Callable[[dict[str, Any], Any, Refuse], None]] = {
    "stop": _stop,
    "top_p": _top_p,
    "top_k": _top_k,
    "response_format": _response_format,
}


def _add_tools(sent: dict[str, Any], body: Mapping[str, Any], refuse: Refuse) -> None:
    listed = body.get("tools") or []
    if not isinstance(listed, list):
        raise InvalidRequest("'tools' must be a list", param="tools")
    tools = [translated for index, tool in enumerate(listed) if (translated := _tool(tool, index, refuse))]
    choice = body.get("tool_choice")
    named: list[Any] | None = None
    if isinstance(choice, dict):
        choice, named = _named(choice)
    if named is not None:
        # Cohere has no choice of one tool, but it can only call the tools that it gets.
        tools = [tool for tool in tools if tool["function"].get("name") in named]
        if not tools:
            raise InvalidRequest("'tool_choice' names no function of 'tools'", param="tool_choice")
    if choice == "required" or (choice == "none" and tools):
        sent["tool_choice"] = choice.upper()
    elif choice not in (None, "auto", "none"):
        refuse("tool_choice")
    if not tools:
        return
    strict = [bool(tool["function"].pop("strict", None)) for tool in tools]
    sent["tools"] = tools
    if any(strict):
        sent.setdefault("strict_tools", True)  # for all tools: Cohere cannot be strict about one of them


def _named(choice: dict[str, Any]) -> tuple[Any, list[Any] | None]:
    """``(mode, names of the only functions that may be called)`` of a ``tool_choice`` that is an object."""
    allowed = choice.get("allowed_tools")
    if choice.get("type") == "function":
        return "required", [_function(choice).get("name", "")]
    if choice.get("type") == "allowed_tools" and isinstance(allowed, dict) and isinstance(allowed.get("tools"), list):
        tools = [tool for tool in allowed["tools"] if isinstance(tool, dict)]
        return allowed.get("mode", "auto"), [_function(tool).get("name", "") for tool in tools]
    return choice, None


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, dict) else {}


def _tool(tool: Any, index: int, refuse: Refuse) -> dict[str, Any] | None:
    if not isinstance(tool, dict) or tool.get("type", "function") != "function" or not _function(tool):
        refuse(f"tools[{index}]", " (it has functions only)")
        return None
    function = {name: value for name, value in _function(tool).items() if value is not None}
    function.setdefault("parameters", {"type": "object", "properties": {}})
    return {"type": "function", "function": function}


_KEYS = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset(
        {"role", "content", "tool_calls", "tool_plan", "citations", "refusal", "annotations", *REASONING}
    ),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}


def _messages(messages: list[dict[str, Any]], refuse: Refuse) -> list[dict[str, Any]]:
    sent = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = "system" if message["role"] == "developer" else message["role"]
        if role not in _KEYS:
            refuse(f"{where}.role", f" (it knows {', '.join(_KEYS)})")
            continue
        for key, value in message.items():
            if value not in (None, [], "") and key not in _KEYS[role]:
                refuse(f"{where}.{key}")
        if role == "assistant":
            sent.append(_assistant(message, where, refuse))
            continue
        translated = {"role": role, "content": _content(message.get("content"), where, _PARTS[role], refuse)}
        if role == "tool":
            translated["tool_call_id"] = _call_id(message, where)
        sent.append(translated)
    return sent


def _call_id(message: dict[str, Any], where: str) -> str:
    call = message.get("tool_call_id")
    if not isinstance(call, str):
        raise InvalidRequest(f"{where} must name its 'tool_call_id'", param=f"{where}.tool_call_id")
    return call


def _assistant(message: dict[str, Any], where: str, refuse: Refuse) -> dict[str, Any]:
    text = content_of(message) or ""
    if isinstance(text, list):
        parts = _content(text, where, _PARTS["assistant"], refuse)
        text = "".join(str(part["text"]) for part in parts)
    thinking, calls = reasoning_of(message), message.get("tool_calls")
    translated: dict[str, Any] = {"role": "assistant"}
    if calls:
        translated["tool_calls"] = [with_arguments_text(call) for call in calls] if isinstance(calls, list) else calls
        # "text content is not allowed when tool_calls are provided": a text beside calls is the plan.
        if plan := "\n".join(str(part) for part in (message.get("tool_plan"), text) if part):
            translated["tool_plan"] = plan
        text = ""
    if thinking:
        blocks = [{"type": "thinking", "thinking": thinking}]
        translated["content"] = [*blocks, {"type": "text", "text": text}] if text else blocks
    elif text or not calls:
        translated["content"] = text
    if message.get("citations"):
        translated["citations"] = message["citations"]
    return translated


def _text_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": part.get("text", "")}


def _refusal_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": part.get("refusal", "")}


def _image_part(part: dict[str, Any]) -> dict[str, Any]:
    image = part.get("image_url")
    return {"type": "image_url", "image_url": {"url": image} if isinstance(image, str) else image}


def _document_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "document", "document": part.get("document")}


_Parts = dict[str, Callable[[dict[str, Any]], dict[str, Any]]]
_PARTS: dict[str, _Parts] = {
    "system": {"text": _text_part},
    "user": {"text": _text_part, "image_url": _image_part},
    "assistant": {"text": _text_part, "refusal": _refusal_part},
    "tool": {"text": _text_part, "document": _document_part},
}


def _content(content: Any, where: str, allowed: _Parts, refuse: Refuse) -> Any:
    """A text, or a list of Cohere's blocks."""
    if not isinstance(content, list):
        return content or ""
    blocks = []
    for index, part in enumerate(content):
        translate = allowed.get(str(part.get("type")))
        if translate is None:
            refuse(f"{where}.content[{index}]", f" (it takes parts of type {' and '.join(allowed)} there)")
        else:
            blocks.append(translate(part))
    return blocks


def chat_answer(answer: dict[str, Any], model: str, fail: Fail) -> tuple[dict[str, Any], Usage | None] | None:
    """OpenAI's answer under the public name, made of Cohere's; ``None`` if that is not an answer to a chat."""
    message = answer.get("message")
    if message is None and answer.get("finish_reason") not in (None, "", "COMPLETE", "TOOL_CALL"):
        message = {}  # it ended before there was one
    if not isinstance(message, dict):
        return None
    finish = finish_reason(answer.get("finish_reason"), None, fail)
    usage = read_usage(answer.get("usage"))
    translated = {
        "id": answer.get("id") or completion_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": _answer_message(message),
                "logprobs": logprobs(answer["logprobs"]) if answer.get("logprobs") else None,
                "finish_reason": finish,
            }
        ],
    }
    if usage is not None:
        translated["usage"] = usage_of(answer["usage"], usage)
    return translated, usage


def _answer_message(message: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's message; ``tool_plan`` and ``citations`` stay on it as Cohere's own fields."""
    content = message.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    text = content if isinstance(content, str) else "".join(_text_of(block, "text") for block in blocks)
    calls = [call.as_openai() for call in whole_calls(message)]
    translated: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if thinking := "".join(_text_of(block, "thinking") for block in blocks):
        translated["reasoning_content"] = thinking
    if calls:
        translated["tool_calls"] = calls
    for field in ("tool_plan", "citations"):
        if message.get(field):
            translated[field] = message[field]
    return translated


def _text_of(block: dict[str, Any], kind: str) -> str:
    text = block.get(kind)
    return text if isinstance(text, str) else ""


def finish_reason(reason: Any, error: Any, fail: Fail) -> str:
    """OpenAI's ``finish_reason`` for Cohere's; raises the error of ``fail`` if the answer ended with an error."""
    if error or not isinstance(reason, str) or reason in _FAILED or reason.startswith("ERROR"):
        status = _FAILED.get(reason, 502) if isinstance(reason, str) else 502
        raise fail(status, error if isinstance(error, str) and error else f"the answer ended with {reason}")
    return FINISH.get(reason) or reason.lower()


def logprobs(items: Any) -> dict[str, Any]:
    """OpenAI's ``logprobs``, one entry for each token.

    Cohere gives one text for several tokens where only together they make a piece of text. The first token then has
    that text and the others are empty, so that the texts add up to the answer, and the log probabilities to its own.
    """
    entries = []
    for item in items if isinstance(items, list) else [items]:
        if not isinstance(item, dict):
            continue
        text, numbers = str(item.get("text") or ""), _list(item.get("token_ids"))
        for index, logprob in enumerate(_list(item.get("logprobs"))):
            token = "" if index else text
            entry = {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
            if index < len(numbers):
                entry["token_id"] = numbers[index]
            entries.append(entry)
    return {"content": entries, "refusal": None}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def read_usage(reported: Any) -> Usage | None:
    """The tokens in a ``usage`` or ``meta`` object: those that were used, else those that are billed."""
    if not isinstance(reported, dict):
        return None
    for kind in ("tokens", "billed_units"):
        units = reported.get(kind)
        if isinstance(units, dict) and ("input_tokens" in units or "output_tokens" in units):
            return Usage(count(units.get("input_tokens")), count(units.get("output_tokens")), reported)
    return None


def usage_of(reported: dict[str, Any], usage: Usage) -> dict[str, Any]:
    """OpenAI's ``usage``, and what Cohere reports beyond it: tokens from its cache, and what it bills."""
    counts: dict[str, Any] = dict(usage_object(usage))
    if reported.get("cached_tokens") is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": count(reported["cached_tokens"])}
    if isinstance(reported.get("billed_units"), dict):
        counts["billed_units"] = reported["billed_units"]
    return counts

"""The messages of a chat in OpenAI's shape as Anthropic's ``system`` and ``messages``: pure functions.

Source: Anthropic's API reference, *Messages*, and its guides on vision, PDF files, tool use and extended thinking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.providers.anthropic.parts import Refuse, part_block, with_cache_control
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.messages import content_of
from sage.middleware.providers.wire.thought_signatures import is_googles
from sage.middleware.providers.wire.tool_calls import arguments_object

_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")
"""What Anthropic does not take in the id of a call; other vendors do."""
_KEYS = {
    "system": frozenset({"role", "content", "cache_control"}),
    "user": frozenset({"role", "content", "cache_control"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name", "is_error", "cache_control"}),
}


def conversation(messages: list[dict[str, Any]], refuse: Refuse) -> tuple[Any, list[dict[str, Any]]]:
    """``(system, messages)``: what ``system`` and ``developer`` messages say, wherever they stand, and the turns.

    Messages of one role that follow each other are one turn, and so are the results of tools and the user's words.
    """
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = "system" if message["role"] == "developer" else message["role"]
        translate = _BLOCKS.get(role)
        if translate is None:
            refuse(f"{where}.role", f" (it knows {', '.join(_BLOCKS)})")
            continue
        for key, value in message.items():
            if role in _KEYS and key not in _KEYS[role] and value not in (None, [], ""):
                refuse(f"{where}.{key}", "")
        blocks = with_cache_control(translate(message, where, refuse), message)
        if role == "system":
            system += blocks
        else:
            _add_turn(turns, role, blocks)
    if turns and turns[-1]["role"] == "assistant":
        _trim_prefill(turns[-1]["content"])
    return _short(_without_blanks(system)), [
        {**turn, "content": _short(turn["content"])} for turn in turns if turn["content"]
    ]


def _add_turn(turns: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    if role == "assistant":
        blocks = [block for block in blocks if not _is_blank(block)]
        if not blocks:
            return
    else:
        role, blocks = "user", _without_blanks(blocks)
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _trim_prefill(blocks: list[dict[str, Any]]) -> None:
    """Cuts the white space at the end of an answer that the model is to go on with: Anthropic refuses it."""
    if blocks and blocks[-1]["type"] == "text":
        blocks[-1]["text"] = blocks[-1]["text"].rstrip()
        if not blocks[-1]["text"]:
            blocks.pop()


def _is_blank(block: Mapping[str, Any]) -> bool:
    """Whether it is a text of white space alone, which Anthropic refuses. Some models write one before a call. White
    space is what Python takes for it: Unicode's, and the control characters U+001C to U+001F."""
    return block["type"] == "text" and not block["text"].strip()


def _without_blanks(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``blocks`` without blank texts, if there is more than those."""
    return [block for block in blocks if not _is_blank(block)] or blocks


def _short(blocks: list[dict[str, Any]]) -> Any:
    """One plain text as a text."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return blocks[0]["text"]
    return blocks


def _blocks(content: Any, where: str, refuse: Refuse) -> list[dict[str, Any]]:
    """The blocks of a ``content``. Empty texts are left out: Anthropic refuses them."""
    if not isinstance(content, list):
        return [{"type": "text", "text": content}] if content else []
    return [block for n, part in enumerate(content) if (block := part_block(part, f"{where}.content[{n}]", refuse))]


def _said(message: Mapping[str, Any], where: str, refuse: Refuse) -> list[dict[str, Any]]:
    return _blocks(message.get("content"), where, refuse)


def _instructions(message: Mapping[str, Any], where: str, refuse: Refuse) -> list[dict[str, Any]]:
    blocks = _said(message, where, refuse)
    for block in blocks:
        if block["type"] != "text":
            refuse(f"{where}.content", f" (no {block['type']} in a system message)")
    return [block for block in blocks if block["type"] == "text"]


def _result(message: Mapping[str, Any], where: str, refuse: Refuse) -> list[dict[str, Any]]:
    """The result of a tool, which the user's turn brings."""
    call = message.get("tool_call_id")
    if not isinstance(call, str):
        raise InvalidRequest(f"{where} must name its 'tool_call_id'", param=f"{where}.tool_call_id")
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _call_id(call)}
    content = _short(_without_blanks(_said(message, where, refuse)))
    if content:
        result["content"] = content
    if message.get("is_error") is True:
        result["is_error"] = True
    return [result]


def _answer(message: Mapping[str, Any], where: str, refuse: Refuse) -> list[dict[str, Any]]:
    """An earlier answer: its thoughts, which Anthropic has signed, its text, and its calls.

    Other fields are those of answers that clients send back (``annotations``, ``audio``): left out.
    """
    if message.get("function_call") is not None:
        refuse(f"{where}.function_call", " (it has tool_calls)")
    blocks = [block for block in map(_thought, objects(message.get("thinking_blocks"))) if block]
    blocks += _blocks(content_of(message), where, refuse)
    calls = message.get("tool_calls") or []
    for index, call in enumerate(calls if isinstance(calls, list) else [calls]):
        blocks.append(_call(call, f"{where}.tool_calls[{index}]"))
    return blocks


def _thought(block: Mapping[str, Any]) -> dict[str, Any] | None:
    """A block of thinking as Anthropic made it. Without its signature it is another vendor's."""
    if block.get("type") == "redacted_thinking" and isinstance(block.get("data"), str):
        return {"type": "redacted_thinking", "data": block["data"]}
    signature = string(block.get("signature"))
    if block.get("type") == "thinking" and signature and not is_googles(signature):
        return {"type": "thinking", "thinking": string(block.get("thinking")), "signature": signature}
    return None


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{where} must be the call of a function, with its 'name'", param=where)
    arguments = arguments_object(function.get("arguments"))
    if arguments is None:
        raise InvalidRequest(f"{where}.function.arguments must be a JSON object", param=f"{where}.function.arguments")
    used = {"type": "tool_use", "id": _call_id(str(call.get("id", ""))), "name": function["name"], "input": arguments}
    return with_cache_control([used], call)[0]


def _call_id(identity: str) -> str:
    return _NO_ID.sub("_", identity) or "_"


_BLOCKS: dict[str, Callable[[Mapping[str, Any], str, Refuse], list[dict[str, Any]]]] = {
    "system": _instructions,
    "user": _said,
    "assistant": _answer,
    "tool": _result,
}

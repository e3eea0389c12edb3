"""Hypothesis strategies: chats and answers in OpenAI's shape, as valid clients and servers send them."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import orjson
from hypothesis import strategies as st

texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
words = st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)
names = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(words, values, max_size=3)
schemas = st.builds(
    lambda fields: {"type": "object", "properties": {name: {"type": kind} for name, kind in fields.items()}},
    st.dictionaries(words, st.sampled_from(["string", "integer", "boolean"]), max_size=3),
)
pictures = st.one_of(
    st.binary(min_size=1, max_size=9).map(lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}"),
    words.map(lambda word: f"https://pictures.example/{word}.png"),
)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have some of ``fields``."""
    return st.fixed_dictionaries({}, optional=fields)


text_parts = texts.map(lambda text: {"type": "text", "text": text})
picture_parts = pictures.map(lambda url: {"type": "image_url", "image_url": {"url": url}})
file_parts = st.builds(
    lambda name, data: {
        "type": "file",
        "file": {
            "filename": f"{name}.pdf",
            "file_data": f"data:application/pdf;base64,{base64.b64encode(data).decode()}",
        },
    },
    words,
    st.binary(min_size=1, max_size=9),
)
users = st.builds(
    lambda content: {"role": "user", "content": content},
    texts | st.lists(text_parts | picture_parts | file_parts, min_size=1, max_size=3),
)
systems = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "developer"]),
    texts | st.lists(text_parts, min_size=1, max_size=2),
)
thinking_blocks = st.lists(
    st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "c2ln"}, texts)
    | st.builds(lambda text: {"type": "redacted_thinking", "data": text}, words),
    min_size=1,
    max_size=2,
)


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """An answer, and the results of the tools that it calls."""
    calls = draw(st.lists(st.tuples(names, objects), max_size=2))
    if not calls:
        message: dict[str, Any] = {"role": "assistant", "content": draw(texts)}
    else:
        message = {"role": "assistant", "content": draw(st.none() | texts)}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(texts)
    if draw(st.booleans()):
        message["thinking_blocks"] = draw(thinking_blocks)
    results = []
    if calls:
        number = draw(st.integers(0, 10**6))
        indent = draw(st.sampled_from([None, 1]))
        message["tool_calls"] = [
            {
                "id": f"call_{number}_{index}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(given, indent=indent, ensure_ascii=False)},
            }
            for index, (name, given) in enumerate(calls)
        ]
        for call in message["tool_calls"]:
            content = draw(texts | st.lists(text_parts, min_size=1, max_size=2))
            results.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    return [message, *results]


tools = st.builds(
    lambda name, described, schema, strict: {
        "type": "function",
        "function": {"name": name, **described, "parameters": schema, **strict},
    },
    names,
    optional(description=texts),
    schemas,
    optional(strict=st.booleans()),
)
options = optional(
    temperature=st.sampled_from([0, 0.5, 1]),
    top_p=st.sampled_from([0.1, 1]),
    stop=words | st.lists(words, min_size=1, max_size=3),
    user=words,
    seed=st.integers(0, 99),
    n=st.sampled_from([1, 2]),
    frequency_penalty=st.sampled_from([0, 0.5]),
    logprobs=st.booleans(),
    metadata=st.dictionaries(words, words, max_size=2),
    store=st.booleans(),
    service_tier=st.sampled_from(["auto", "default", "flex"]),
    parallel_tool_calls=st.booleans(),
    max_tokens=st.integers(2000, 9000),
    max_completion_tokens=st.integers(2000, 9000),
    reasoning_effort=st.sampled_from(["none", "low", "medium", "high"]),
    response_format=schemas.map(
        lambda schema: {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    ),
)


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    """A chat: perhaps a system message, turns of the user and of the model, tools, and options."""
    messages = draw(st.lists(systems, max_size=2))
    messages.append(draw(users))
    for turn in draw(st.lists(turns(), max_size=2)):
        messages += turn
        if draw(st.booleans()) or turn[-1]["role"] == "assistant":
            messages.append(draw(users))
    offered = draw(st.lists(tools, max_size=2, unique_by=lambda tool: tool["function"]["name"]))
    chat = {"model": "m", "messages": messages, **draw(options)}
    if offered:
        chat["tools"] = offered
        choice = draw(st.sampled_from([None, "auto", "required", "none", "named"]))
        named = {"type": "function", "function": {"name": offered[0]["function"]["name"]}}
        chat |= {"tool_choice": named if choice == "named" else choice} if choice else {}
    return chat


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """A whole answer."""
    calls = draw(st.lists(st.tuples(names, objects), max_size=2))
    message: dict[str, Any] = {"role": "assistant", "content": draw(texts if not calls else st.none() | texts)}
    if draw(st.booleans()):
        signed = draw(thinking_blocks)
        message["thinking_blocks"] = signed
        if reasoning := "".join(block.get("thinking", "") for block in signed):
            message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": compact(given)}}
            for index, (name, given) in enumerate(calls)
        ]
    finish = "tool_calls" if calls else draw(st.sampled_from(["stop", "length", "content_filter"]))
    prompt, cached, written = draw(st.integers(20, 99)), draw(st.integers(0, 9)), draw(st.integers(0, 9))
    answer, reasoned = draw(st.integers(10, 99)), draw(st.integers(0, 9))
    counted = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    counted["prompt_tokens_details"] = {"cached_tokens": cached, "cache_creation_tokens": written}
    counted["completion_tokens_details"] = {"reasoning_tokens": reasoned}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-7", "object": "chat.completion", "model": "m", "choices": [choice], "usage": counted}


def compact(given: dict[str, Any]) -> str:
    """JSON without spaces."""
    return json.dumps(given, separators=(",", ":"), ensure_ascii=False)


def comparable(value: dict[str, Any]) -> dict[str, Any]:
    """Counts of zero are as good as none."""
    value = copy.deepcopy(value)
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = value.get("usage", {}).pop(name, {})
        if kept := {unit: count for unit, count in details.items() if count}:
            value["usage"][name] = kept
    return value


def chunks(answer: dict[str, Any]) -> list[bytes]:
    """The stream of chat chunks that says what ``answer`` says, piece by piece."""
    message = answer["choices"][0]["message"]
    deltas: list[dict[str, Any]] = []
    for block in message.get("thinking_blocks", ()):
        if "thinking" in block:
            deltas += [{"reasoning_content": letter} for letter in block["thinking"]]
        deltas.append({"thinking_blocks": [block]})
    deltas += [{"content": letter} for letter in message["content"] or ""]
    for index, call in enumerate(message.get("tool_calls", ())):
        deltas.append({"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": letter}}]}
            for letter in call["function"]["arguments"]
        ]
    head = {"id": answer["id"], "object": "chat.completion.chunk", "model": "m"}
    bodies: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    bodies.append({"choices": [{"index": 0, "delta": {}, "finish_reason": answer["choices"][0]["finish_reason"]}]})
    bodies.append({"choices": [], "usage": answer["usage"]})
    return [b"data: " + orjson.dumps({**head, **body}) + b"\n\n" for body in bodies]

"""Requests of Responses: hypothesis strategies, how a chat of OpenAI's shape is asked there, and how an answer reads.

Source: OpenAI's API reference (responses, *Create a model response*), and its guide *Migrate to the Responses API*.
"""

from __future__ import annotations

from typing import Any

import chat_shapes as shapes
from hypothesis import strategies as st

from sage.middleware.routers.openai.responses import reasoning

LOGPROBS = "message.output_text.logprobs"
_FIELDS = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}


def request_of(chat: dict[str, Any]) -> dict[str, Any]:
    """The request that asks what ``chat`` does. Fields that Responses does not have stay as they are."""
    request = {_FIELDS.get(name, name): value for name, value in chat.items() if name not in _ELSEWHERE}
    request["input"] = [item for message in chat["messages"] for item in _items(message)]
    if "tools" in chat:
        request["tools"] = [{"type": "function", **tool["function"]} for tool in chat["tools"]]
    if "tool_choice" in chat:
        choice = chat["tool_choice"]
        request["tool_choice"] = choice if isinstance(choice, str) else {"type": "function", **choice["function"]}
    if "reasoning_effort" in chat:
        request["reasoning"] = {"effort": chat["reasoning_effort"]}
    if chat.get("logprobs"):
        request["include"] = [LOGPROBS]
    text = {"verbosity": chat["verbosity"]} if "verbosity" in chat else {}
    if "response_format" in chat:
        form = chat["response_format"]
        text["format"] = {"type": form["type"], **form.get("json_schema", {})}
    return {**request, "text": text} if text else request


_ELSEWHERE = {"messages", "tools", "tool_choice", "reasoning_effort", "logprobs", "verbosity", "response_format"}


def _items(message: dict[str, Any]) -> list[dict[str, Any]]:
    role, content = message["role"], message["content"]
    if role == "tool":
        output = content if isinstance(content, str) else _parts(content)
        return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}]
    if role != "assistant":
        return [{"type": "message", "role": role, "content": _parts(content)}]
    items: list[dict[str, Any]] = []
    thought, blocks = message.get("reasoning_content", ""), message.get("thinking_blocks", [])
    if thought or blocks:
        items.append(thoughts(thought, blocks))
    said = [{"type": "output_text", "text": content}] if content is not None else []
    if "refusal" in message:
        said.append({"type": "refusal", "refusal": message["refusal"]})
    if said:
        items.append({"type": "message", "role": role, "content": said})
    for call in message.get("tool_calls", ()):
        items.append({"type": "function_call", "call_id": call["id"], **call["function"]})
    return items


def thoughts(text: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """An item of reasoning."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    sealed = {"encrypted_content": reasoning.sealed(text, blocks)} if blocks else {}
    return {"type": "reasoning", "summary": [], "content": content, **sealed}


def _parts(content: Any) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [_part(part) for part in parts]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    if part["type"] == "image_url":
        image = dict(part["image_url"])
        return {"type": "input_image", "image_url": image.pop("url"), **image}
    return {"type": "input_file", **part["file"]}


def answer_of(response: dict[str, Any]) -> dict[str, Any]:
    """The chat's answer that says what ``response`` says."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    logprobs, calls = None, []
    for item in response["output"]:
        if item["type"] == "reasoning":
            opened = reasoning.opened(item.get("encrypted_content"))
            shown = "".join(part["text"] for part in item["summary"] + item["content"])
            blocks = opened[1] if opened else []
            message |= {
                name: value for name, value in (("reasoning_content", shown), ("thinking_blocks", blocks)) if value
            }
        elif item["type"] == "message":
            for part in item["content"]:
                if part["type"] == "refusal":
                    message["refusal"] = part["refusal"]
                else:
                    message["content"] = part["text"]
                    logprobs = {"content": part["logprobs"]} if part["logprobs"] else None
        elif item["type"] == "function_call":
            name = "__".join(filter(None, (item.get("namespace"), item["name"])))
            calls.append((item["call_id"], name, item["arguments"]))
        else:
            calls.append((item["call_id"], item["name"], shapes.compact({"input": item["input"]})))
    if calls:
        message["tool_calls"] = [
            {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
            for identity, name, arguments in calls
        ]
    reason = (response["incomplete_details"] or {}).get("reason")
    finish = {"max_output_tokens": "length", None: "tool_calls" if calls else "stop"}.get(reason, reason)
    used = response["usage"]
    counted = {"prompt_tokens": used["input_tokens"], "completion_tokens": used["output_tokens"]}
    read, made = used["input_tokens_details"], used["output_tokens_details"]
    return {
        "model": response["model"],
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}],
        "usage": {
            **counted,
            "total_tokens": used["total_tokens"],
            "prompt_tokens_details": {
                "cached_tokens": read["cached_tokens"],
                "cache_creation_tokens": read["cache_write_tokens"],
            },
            "completion_tokens_details": {"reasoning_tokens": made["reasoning_tokens"]},
        },
    }


_texts, _words, _names = shapes.texts, shapes.words, shapes.names
_input_texts = _texts.map(lambda text: {"type": "input_text", "text": text})
_images = st.builds(
    lambda url, detail: {"type": "input_image", "image_url": url, **detail},
    shapes.pictures,
    shapes.optional(detail=st.sampled_from(["low", "high"])),
)
_files = shapes.file_parts.map(lambda part: {"type": "input_file", **part["file"]})
_marks = shapes.optional(id=_words.map("msg_{}".format), status=st.just("completed"))
_said = st.builds(
    lambda text, found: {"type": "output_text", "text": text, "annotations": found, "logprobs": []},
    _texts,
    st.just([]) | st.just([{"type": "file_citation", "file_id": "file-1", "filename": "a", "index": 0}]),
)
_refusals = _texts.map(lambda text: {"type": "refusal", "refusal": text})
_users = st.builds(
    lambda content, marks: {"role": "user", "content": content, **marks},
    _texts | st.lists(_input_texts | _images | _files, min_size=1, max_size=3),
    shapes.optional(type=st.just("message")),
)
_systems = st.builds(
    lambda role, content: {"type": "message", "role": role, "content": content},
    st.sampled_from(["system", "developer"]),
    _texts | st.lists(_input_texts, min_size=1, max_size=2),
)
_answers = st.builds(
    lambda content, marks: {"type": "message", "role": "assistant", "content": content, **marks},
    _texts
    | st.builds(lambda said, refused: said + refused, st.lists(_said, max_size=2), st.lists(_refusals, max_size=1)),
    _marks,
)
_thoughts = st.one_of(
    st.builds(thoughts, st.just("") | _texts, st.just([]) | shapes.thinking_blocks),
    st.lists(_texts, max_size=2).map(
        lambda texts: {"type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in texts]}
    ),
    st.just({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAABo"}),
)
_outputs = _texts | st.lists(_input_texts | _images, min_size=1, max_size=3)


@st.composite
def _calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A call, and what its tool answers."""
    name, identity = draw(_names), f"call_{draw(st.integers(0, 10**6))}"
    kind, marks = draw(st.sampled_from(["function", "namespace", "custom", "mcp", "file_search"])), draw(_marks)
    if kind == "file_search":
        return [{"type": "file_search_call", "id": "fs_1", "queries": [name], "results": None, "status": "completed"}]
    if kind == "mcp":
        ran = {"type": "mcp_call", "id": identity, "server_label": draw(_words), "name": name, "arguments": "{}"}
        return [{**ran, "output": draw(_texts), "error": None, "approval_request_id": None}]
    if kind == "custom":
        call = {"type": "custom_tool_call", "call_id": identity, "name": name, "input": draw(_texts), **marks}
    else:
        arguments = shapes.compact(draw(shapes.objects))
        call = {"type": "function_call", "call_id": identity, "name": name, "arguments": arguments, **marks}
    if kind == "namespace":
        call["namespace"] = draw(_words)
    between = draw(st.lists(_thoughts | _answers | _users, max_size=1))
    output = draw(_texts if between else _outputs)
    return [call, *between, {"type": call["type"] + "_output", "call_id": identity, "output": output}]


_functions = st.builds(
    lambda name, fields, schema: {"type": "function", "name": name, **fields, "parameters": schema},
    _names,
    shapes.optional(description=_texts, strict=st.booleans()),
    shapes.schemas,
)
_customs = st.builds(
    lambda name, fields: {"type": "custom", "name": name, **fields},
    _names,
    shapes.optional(
        description=_texts,
        format=st.just({"type": "text"})
        | _texts.map(lambda text: {"type": "grammar", "syntax": "lark", "definition": text}),
    ),
)
_namespaces = st.builds(
    lambda name, tools: {"type": "namespace", "name": name, "description": "d", "tools": tools},
    _words,
    st.lists(_functions | _customs, min_size=1, max_size=2),
)
_options = shapes.optional(
    instructions=_texts,
    temperature=st.sampled_from([0, 0.5, 1]),
    top_p=st.sampled_from([0.1, 1]),
    max_output_tokens=st.integers(1, 9000),
    max_tool_calls=st.integers(1, 9),
    top_logprobs=st.integers(0, 20),
    parallel_tool_calls=st.booleans(),
    include=st.lists(st.sampled_from([LOGPROBS, "reasoning.encrypted_content"]), unique=True),
    reasoning=shapes.optional(effort=st.sampled_from(["low", "high"]), summary=st.just("auto")),
    text=shapes.optional(
        verbosity=st.sampled_from(["low", "medium", "high"]),
        format=st.sampled_from([{"type": "text"}, {"type": "json_object"}])
        | shapes.schemas.map(lambda schema: {"type": "json_schema", "name": "a", "schema": schema, "strict": True}),
    ),
    metadata=st.dictionaries(_words, _words, max_size=2),
    truncation=st.sampled_from(["auto", "disabled"]),
    store=st.booleans(),
    user=_words,
    service_tier=st.just("flex"),
    prompt_cache_key=_words,
    safety_identifier=_words,
    stop=st.lists(_words, max_size=2),
    seed=st.integers(0, 9),
)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Any request that a model behind chat completions can answer."""
    turn = st.one_of(
        _users.map(lambda item: [item]), _systems.map(lambda item: [item]), _answers.map(lambda item: [item]),
        _thoughts.map(lambda item: [item]), _calls(),
    )  # fmt: skip
    items: Any = draw(_texts | st.lists(turn, max_size=5).map(lambda turns: [item for each in turns for item in each]))
    if isinstance(items, list):
        items.append(draw(_users))
    request = {"model": "m", "input": items, **draw(_options)}
    tools = draw(st.lists(_functions | _customs | _namespaces, max_size=3, unique_by=lambda tool: tool["name"]))
    if tools:
        request["tools"] = tools
        named = [tool for tool in tools if tool["type"] != "namespace"]
        choices: list[Any] = ["auto", "none", "required"]
        for tool in named[-1:]:
            choice = {"type": tool["type"], "name": tool["name"]}
            choices += [choice, {"type": "allowed_tools", "mode": "required", "tools": [choice]}]
        if draw(st.booleans()):
            request["tool_choice"] = draw(st.sampled_from(choices))
    return request

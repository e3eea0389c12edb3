"""``POST /v1/responses`` over a model that speaks chat completions: items, tools, events, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from response_oracle import check_events, check_response, events_of
from running_gateway import Running
from upstream import Upstream, chat_chunk, stream, usage, usage_chunk

_FUNCTION = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
_PICTURE = "data:image/png;base64,iVBORw0KGgo="


def ask(running: Running, input: Any = "hello out there", **fields: Any) -> dict[str, Any]:
    answer = running.post("/v1/responses", {"model": "bench", "input": input, **fields})
    assert answer.status_code == 200, answer.text
    return check_response(answer.json())


def streamed(running: Running, input: Any = "hello out there", **fields: Any) -> list[dict[str, Any]]:
    answer = running.post("/v1/responses", {"model": "bench", "input": input, "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.content)
    check_events(events)
    return events


def answers(up: Upstream, message: dict[str, Any], finish: str = "stop", **fields: Any) -> None:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}, **fields}
    up.reply({"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}, times=1)


def sent(up: Upstream) -> Any:
    return up.requests[-1].body


# The cases of the Open Responses specification (src/lib/compliance-tests.ts), in our own words.
@pytest.mark.parametrize("streams", [False, True])
def test_compliance_cases(running: Running, up: Upstream, streams: bool) -> None:
    user = {"type": "message", "role": "user", "content": "Say hello in exactly 3 words."}
    cases: list[tuple[list[Any], list[dict[str, Any]]]] = [
        ([user], [{"role": "user", "content": user["content"]}]),
        (
            [{"type": "message", "role": "system", "content": "You are a pirate."}, user],
            [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": user["content"]}],
        ),
        (
            [
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is this?"},
                        {"type": "input_image", "image_url": _PICTURE},
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": _PICTURE}},
                    ],
                }
            ],
        ),
        (
            [user, {"type": "message", "role": "assistant", "content": "Hello Alice!"}, user],
            [
                {"role": "user", "content": user["content"]},
                {"role": "assistant", "content": "Hello Alice!"},
                {"role": "user", "content": user["content"]},
            ],
        ),
    ]
    for items, messages in cases:
        response = streamed(running, items)[-1]["response"] if streams else ask(running, items)
        assert response["status"] == "completed"
        assert response["model"] == "bench"
        assert response["output"][0]["content"][0]["text"] == (
            messages[-1]["content"] if isinstance(messages[-1]["content"], str) else "What is this?"
        )
        assert response["usage"]["input_tokens"] > response["usage"]["output_tokens"] > 0
        assert sent(up)["messages"] == messages
        assert sent(up)["model"] == "theirs-0"
        assert sent(up).keys() <= {"model", "messages", "stream", "stream_options"}
        assert sent(up).get("stream", False) is streams


def test_a_function_call_whole_and_streamed(running: Running, up: Upstream) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location":"SF"}'}}
    answers(up, {"content": None, "tool_calls": [call]}, "tool_calls")
    response = ask(running, tools=[_FUNCTION], tool_choice="required", parallel_tool_calls=False)
    (item,) = response["output"]
    assert (item["type"], item["call_id"], item["name"]) == ("function_call", "call_1", "get_weather")
    assert item["arguments"] == '{"location":"SF"}'
    assert sent(up)["tools"] == [
        {"type": "function", "function": {name: _FUNCTION[name] for name in ("name", "description", "parameters")}}
    ]
    assert (sent(up)["tool_choice"], sent(up)["parallel_tool_calls"]) == ("required", False)

    pieces = [
        {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "get_weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"loc'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ation":"SF"}'}}]},
        {"tool_calls": [{"index": 1, "id": "call_2", "function": {"name": "get_weather", "arguments": "{}"}}]},
    ]
    chunks = [{**chat_chunk(None), "choices": [{"index": 0, "delta": piece}]} for piece in pieces]
    up.stream([chat_chunk("Let me see. "), *chunks, chat_chunk(None, "tool_calls"), usage_chunk(5, 4)], times=1)
    events = streamed(running, tools=[_FUNCTION])
    response = events[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["message", "function_call", "function_call"]
    assert [item["arguments"] for item in response["output"][1:]] == ['{"location":"SF"}', "{}"]
    assert response["usage"]["total_tokens"] == 9
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert deltas == ['{"loc', 'ation":"SF"}', "{}"]


def test_a_custom_tool_is_a_function_with_one_text(running: Running, up: Upstream) -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'}
    tool = {"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": grammar}
    arguments = json.dumps({"input": "*** Begin Patch\n+\u4e2d"})
    call = {"id": "call_1", "type": "function", "function": {"name": "apply_patch", "arguments": arguments}}
    answers(up, {"content": "", "tool_calls": [call]}, "tool_calls")
    response = ask(running, tools=[tool], tool_choice={"type": "custom", "name": "apply_patch"})
    (item,) = response["output"]
    assert (item["type"], item["name"], item["input"]) == (
        "custom_tool_call",
        "apply_patch",
        "*** Begin Patch\n+\u4e2d",
    )
    function = sent(up)["tools"][0]["function"]
    assert function["parameters"]["required"] == ["input"]
    assert function["description"] == (
        'Edits files.\n\nThe input must match this grammar (lark):\nstart: "*** Begin Patch"'
    )
    assert sent(up)["tool_choice"] == {"type": "function", "function": {"name": "apply_patch"}}

    entry = {"index": 0, "id": "call_1", "function": {"name": "apply_patch", "arguments": arguments[:9]}}
    more = {"index": 0, "function": {"arguments": arguments[9:]}}
    chunks = [
        {**chat_chunk(None), "choices": [{"index": 0, "delta": {"tool_calls": [each]}}]} for each in (entry, more)
    ]
    up.stream([*chunks, chat_chunk(None, "tool_calls")], times=1)
    kinds = [event["type"] for event in streamed(running, tools=[tool])]
    assert kinds[2:-1] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    # A model that writes the input in place of its JSON is taken at its word.
    call["function"] = {"name": "apply_patch", "arguments": "*** Begin Patch"}
    answers(up, {"content": None, "tool_calls": [call]})
    assert ask(running, tools=[tool])["output"][0]["input"] == "*** Begin Patch"


def test_a_tool_loop_comes_back_as_messages(running: Running, up: Upstream) -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Look."}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I do."}]},
        {"type": "function_call", "call_id": "a", "name": "get_weather", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "shell", "input": "ls"},
        {
            "type": "function_call_output",
            "call_id": "a",
            "output": [{"type": "input_text", "text": "a picture"}, {"type": "input_image", "image_url": _PICTURE}],
        },
        {"type": "custom_tool_call_output", "call_id": "b", "output": "file"},
        {"type": "message", "role": "user", "content": "And?"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAA-another's"},
        {"type": "message", "role": "user", "content": "Why?"},
    ]
    ask(running, items, instructions="You are a helper.", tools=[{"type": "custom", "name": "shell"}])
    assert sent(up)["messages"] == [
        {"role": "system", "content": "You are a helper.\n\nBe brief."},
        {"role": "user", "content": "Look."},
        {
            "role": "assistant",
            "content": "I do.",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "shell", "arguments": '{"input":"ls"}'}},
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "a",
            "content": "a picture\nThe tool's pictures and files follow in the next message.",
        },
        {"role": "tool", "tool_call_id": "b", "content": "file"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": _PICTURE}}]},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "Why?"},
    ]


def test_reasoning_is_a_content_or_a_summary_and_comes_back(running: Running, up: Upstream) -> None:
    thought = [{**chat_chunk(None), "choices": [{"index": 0, "delta": {"reasoning_content": "Let "}}]}]
    thought += [{**chat_chunk(None), "choices": [{"index": 0, "delta": {"reasoning_content": "me."}}]}]
    chunks = [*thought, chat_chunk("42"), chat_chunk(None, "stop")]
    up.stream(chunks, times=2)
    shown = streamed(running, reasoning={"effort": "high"})
    assert sent(up)["reasoning_effort"] == "high"
    assert shown[-1]["response"]["output"][0]["content"] == [{"type": "reasoning_text", "text": "Let me."}]
    options = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"], "store": False}
    summarised = streamed(running, **options)
    item, message = summarised[-1]["response"]["output"]
    assert (item["summary"], item["content"]) == ([{"type": "summary_text", "text": "Let me."}], [])
    # As Codex sends it back: without what it has been shown.
    kept = {"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}
    ask(running, [{"role": "user", "content": "6*7?"}, kept, message, {"role": "user", "content": "Sure?"}])
    assert sent(up)["messages"][1] == {"role": "assistant", "content": "42", "reasoning_content": "Let me."}
    answers(up, {"content": "42", "reasoning_content": "Let me."})
    whole = ask(running, **options)
    assert [each["type"] for each in whole["output"]] == ["reasoning", "message"]
    assert whole["output"][0]["encrypted_content"] == item["encrypted_content"]


def test_refusals_ends_and_probabilities(running: Running, up: Upstream) -> None:
    answers(up, {"content": None, "refusal": "I will not."})
    assert ask(running)["output"][0]["content"] == [{"type": "refusal", "refusal": "I will not."}]
    refusing = {**chat_chunk(None), "choices": [{"index": 0, "delta": {"refusal": "I will not."}}]}
    up.stream([chat_chunk("Well. "), refusing, chat_chunk(None, "stop")], times=1)
    content = streamed(running)[-1]["response"]["output"][0]["content"]
    assert [part["type"] for part in content] == ["output_text", "refusal"]

    answers(up, {"content": "Once upon"}, "length")
    response = ask(running, max_output_tokens=20)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert sent(up)["max_tokens"] == 20
    up.stream([chat_chunk("Once"), chat_chunk(None, "content_filter")], times=1)
    response = streamed(running)[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})

    logprob = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    answers(up, {"content": "Hi"}, logprobs={"content": [logprob]})
    part = ask(running, include=["message.output_text.logprobs"], top_logprobs=2)["output"][0]["content"][0]
    assert part["logprobs"] == [logprob]
    assert (sent(up)["logprobs"], sent(up)["top_logprobs"]) == (True, 2)


def test_text_formats_and_other_fields(running: Running, up: Upstream) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    fields = {"temperature": 0.2, "top_p": 0.5, "seed": 7, "user": "u", "metadata": {"a": "b"}, "store": False}
    response = ask(running, text={"format": form, "verbosity": "low"}, **fields)
    assert sent(up)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
    chat = {name: value for name, value in sent(up).items() if name not in ("messages", "model", "response_format")}
    assert chat == {"temperature": 0.2, "top_p": 0.5, "seed": 7, "user": "u", "verbosity": "low"}
    assert (response["temperature"], response["metadata"], response["store"]) == (0.2, {"a": "b"}, False)
    assert response["text"] == {"format": form, "verbosity": "low"}


def test_allowed_tools_are_those_that_are_sent(running: Running, up: Upstream) -> None:
    other = {**_FUNCTION, "name": "other"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    response = ask(running, tools=[_FUNCTION, other], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in sent(up)["tools"]] == ["other"]
    assert sent(up)["tool_choice"] == "required"
    assert (response["tool_choice"], len(response["tools"])) == (allowed, 2)


def test_tools_in_a_namespace(running: Running, up: Upstream) -> None:
    space = {"type": "namespace", "name": "mail", "description": "", "tools": [{"type": "function", "name": "read"}]}
    call = {"id": "c", "type": "function", "function": {"name": "mail__read", "arguments": "{}"}}
    answers(up, {"content": None, "tool_calls": [call]})
    (item,) = ask(running, tools=[space])["output"]
    assert (item["namespace"], item["name"]) == ("mail", "read")
    ask(running, [{"role": "user", "content": "?"}, item, {**item, "type": "function_call_output", "output": "-"}])
    assert sent(up)["messages"][1]["tool_calls"][0]["function"]["name"] == "mail__read"


def test_streams_are_the_same_byte_by_byte(running: Running, up: Upstream) -> None:
    thought = {**chat_chunk(None), "choices": [{"index": 0, "delta": {"reasoning_content": "\u4e2d"}}]}
    entry = {"index": 0, "id": "c", "function": {"name": "get_weather", "arguments": '{"location":"\u6587"}'}}
    called = {**chat_chunk(None), "choices": [{"index": 0, "delta": {"tool_calls": [entry]}}]}
    chunks = [thought, chat_chunk("a\u4e2d"), called, chat_chunk(None, "tool_calls"), usage_chunk(3, 4)]
    whole = stream(chunks)
    up.use(whole, 1)
    expected = streamed(running, tools=[_FUNCTION])
    size = sum(len(data) for _, data in whole.writes)
    up.stream(chunks, times=1, split=range(1, size), delay=1e-6)
    torn = streamed(running, tools=[_FUNCTION])

    def shape(events: list[dict[str, Any]]) -> list[tuple[str, Any]]:
        return [(event["type"], event.get("delta")) for event in events]

    assert shape(torn) == shape(expected)
    assert torn[-1]["response"]["usage"]["total_tokens"] == 7


def test_a_stream_that_breaks_ends_as_failed(running: Running, up: Upstream) -> None:
    up.stream([chat_chunk("One "), chat_chunk("two")], cut_after=1, times=1)
    answer = running.post("/v1/responses", {"model": "bench", "input": "hi", "stream": True})
    events = events_of(answer.content)
    response = check_events(events)
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert events[-1]["type"] == "response.failed"
    up.reply(status=429, times=3)
    answer = running.post("/v1/responses", {"model": "bench", "input": "hi", "stream": True})
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search_preview"}]}, "tools[0].type"),
        ({"tools": [{"type": "computer_use_preview", "environment": "browser"}]}, "tools[0].type"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools[0].type"),
        ({"tools": [{"type": "image_generation"}]}, "tools[0].type"),
        ({"tools": [{"type": "local_shell"}]}, "tools[0].type"),
        ({"input": [{"type": "computer_call_output", "call_id": "c", "output": {}}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"tools": [_FUNCTION], "tool_choice": {"type": "function", "name": "no"}}, "tool_choice.name"),
        ({"include": ["everything"]}, "include[0]"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"background": True, "store": False}, "store"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"metadata": {"a": 1}}, "metadata.a"),
    ],
)
def test_what_cannot_be_is_refused_by_name(running: Running, up: Upstream, fields: dict[str, Any], param: str) -> None:
    answer = running.post("/v1/responses", {"model": "bench", "input": "hi", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not up.requests


_JUNK: tuple[Any, ...] = (None, True, 0, -1, 1.5, "x", "", [], {}, [None], [[]], [{}], {"type": None}, {"type": "x"})
_ITEM_FIELDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("message", {"role": "user", "content": [{"type": "input_text", "text": "x"}], "status": "completed", "id": "m"}),
    ("reasoning", {"summary": [], "content": [], "encrypted_content": "sage1.AAAA", "id": "r"}),
    ("function_call", {"call_id": "c", "name": "n", "arguments": "{}", "namespace": "s", "id": "f"}),
    ("function_call_output", {"call_id": "c", "output": "o"}),
    ("custom_tool_call", {"call_id": "c", "name": "n", "input": "i"}),
    ("custom_tool_call_output", {"call_id": "c", "output": [{"type": "input_text", "text": "x"}]}),
    ("mcp_call", {"id": "c", "name": "n", "arguments": "{}", "server_label": "s", "output": "o", "error": None}),
)


def test_wrong_types_everywhere_are_never_ours_to_fail_on(running: Running, up: Upstream) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    up.reply({"id": "c", "model": "theirs", "choices": [choice]})
    from sage.middleware.routers.openai.responses.request import _READERS

    bodies: list[dict[str, Any]] = [{"input": "hi", name: junk} for name in (*_READERS, "x") for junk in _JUNK]
    for kind, fields in _ITEM_FIELDS:
        for name in ("type", *fields):
            bodies += [{"input": [{"type": kind, **fields, name: junk}]} for junk in _JUNK]
    for part in ("input_text", "input_image", "input_file", "input_audio", "output_text", "refusal"):
        for name in (
            "type",
            "text",
            "image_url",
            "detail",
            "file_data",
            "file_id",
            "file_url",
            "refusal",
            "input_audio",
        ):
            bodies += [
                {"input": [{"role": role, "content": [{"type": part, name: junk}]}]}
                for junk in _JUNK
                for role in ("user", "assistant")
            ]
    for kind in ("function", "custom", "namespace", "mcp", "file_search"):
        for name in ("type", "name", "description", "parameters", "strict", "format", "tools", "vector_store_ids"):
            bodies += [{"input": "hi", "tools": [{"type": kind, "name": "n", name: junk}]} for junk in _JUNK]
    for kind in ("function", "custom", "allowed_tools", "mcp", "file_search", "x"):
        for name in ("type", "name", "mode", "tools", "server_label"):
            tools = [_FUNCTION]
            bodies += [{"input": "hi", "tools": tools, "tool_choice": {"type": kind, name: junk}} for junk in _JUNK]
    wrong = []
    for body in bodies[:: 1 if len(bodies) < 400 else 7]:
        answer = running.post("/v1/responses", {"model": "bench", **body})
        if answer.status_code >= 500:
            wrong.append((body, answer.text))
    assert not wrong, wrong[:3]


def test_usage_says_what_was_cached_and_thought(running: Running, up: Upstream) -> None:
    counted = usage(10, 5) | {
        "prompt_tokens_details": {"cached_tokens": 4, "cache_creation_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    up.reply({"id": "c", "model": "theirs", "choices": [choice], "usage": counted}, times=1)
    assert ask(running)["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 15,
    }


def test_signed_thoughts_go_to_vendors_that_read_them_alone(running: Running, up: Upstream) -> None:
    block = {"type": "thinking", "thinking": "Let me.", "signature": "s"}
    answers(up, {"content": "42", "reasoning_content": "Let me.", "thinking_blocks": [block]})
    thought, message = ask(running, store=False)["output"]
    assert thought["encrypted_content"]
    ask(running, [{"role": "user", "content": "6*7?"}, thought, message, {"role": "user", "content": "Sure?"}])
    assert sent(up)["messages"][1] == {"role": "assistant", "content": "42", "reasoning_content": "Let me."}


def test_a_result_stands_behind_its_call_whatever_was_said_meanwhile(running: Running, up: Upstream) -> None:
    """Servers of chats refuse a message between a call and its result, and an answer that says nothing."""

    def call(name: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": name, "name": "get_weather", "arguments": "{}"}

    def output(name: str) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": name, "output": f"of {name}"}

    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    user = {"type": "message", "role": "user", "content": "Be quick."}
    said = {"type": "message", "role": "assistant", "content": "I look."}
    items = [call("a"), call("b"), thought, output("b"), user, call("c"), said, output("c"), output("a"), thought, user]
    ask(running, items, tools=[_FUNCTION])

    def calls(*names: str) -> list[dict[str, Any]]:
        return [
            {"id": name, "type": "function", "function": {"name": "get_weather", "arguments": "{}"}} for name in names
        ]

    def result(name: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": name, "content": f"of {name}"}

    assert sent(up)["messages"] == [
        {"role": "assistant", "content": None, "tool_calls": calls("a", "b")},
        result("b"),
        result("a"),
        {"role": "user", "content": "Be quick."},
        {"role": "assistant", "content": None, "tool_calls": calls("c")},
        result("c"),
        {"role": "assistant", "content": "I look."},
        {"role": "user", "content": "Be quick."},
    ]

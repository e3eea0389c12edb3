"""What models say beside text (calls of tools, refusals, reasoning) on every surface, whole and streamed, alike."""

from __future__ import annotations

import json
from typing import Any

import cohere
import ollama
import pytest
from shared_gateway import each_kind
from upstream import Upstream, chat_chunk, usage_chunk

pytestmark = pytest.mark.slow  # each surface before each kind of upstream

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello out there"}]
SF, NY = '{"city":"SF"}', '{"city":"NY"}'


def sections(up: Upstream) -> dict[str, Any]:
    """A model of each kind at ``up``."""
    return each_kind(up, ("openai", "vllm", "zhipu", "deepseek", "cohere", "ollama"))


def call(name: str | None, arguments: Any, identity: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return chat_chunk(None, choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


def whole(finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}


class Told:
    """What a surface tells of one answer, in a shape that is the same for all."""

    def __init__(self, surface: str, running: Any, *, stream: bool, model: str = "openai") -> None:
        self.text, self.thinking, self.finish = "", "", None
        self.calls: list[tuple[str, Any]] = []
        self.ids: list[str] = []
        getattr(self, f"_{surface}")(running, model, stream)

    def _ollama(self, running: Any, model: str, stream: bool) -> None:
        with ollama.Client(host=running.url, headers=running.headers(), trust_env=False) as client:
            answer = client.chat(model, HELLO, stream=stream)
            for part in answer if stream else [answer]:
                self.text += part.message.content or ""
                self.thinking += part.message.thinking or ""
                for made in part.message.tool_calls or ():
                    self.calls.append((made.function.name, dict(made.function.arguments)))
                self.finish = part.done_reason
        self.ids = [str(number) for number in range(len(self.calls))]  # the SDK does not read them

    def _cohere(self, running: Any, model: str, stream: bool) -> None:
        with cohere.ClientV2(api_key=running.key, base_url=running.url) as client:
            if stream:
                for event in client.chat_stream(model=model, messages=HELLO):
                    self._cohere_event(event)
            else:
                answer = client.chat(model=model, messages=HELLO)
                self.finish = answer.finish_reason
                for block in answer.message.content or ():
                    self.text += getattr(block, "text", "") or ""
                    self.thinking += getattr(block, "thinking", "") or ""
                for made in answer.message.tool_calls or ():
                    self.calls.append((made.function.name, json.loads(made.function.arguments)))
                    self.ids.append(made.id)

    def _cohere_event(self, event: Any) -> None:
        if event.type == "content-delta":
            self.text += event.delta.message.content.text or ""
            self.thinking += event.delta.message.content.thinking or ""
        elif event.type == "tool-call-start":
            made = event.delta.message.tool_calls
            assert event.index == len(self.calls)
            self.calls.append((made.function.name, made.function.arguments))
            self.ids.append(made.id)
        elif event.type == "tool-call-delta":
            name, text = self.calls[event.index]
            self.calls[event.index] = (name, text + event.delta.message.tool_calls.function.arguments)
        elif event.type == "tool-call-end":
            name, text = self.calls[event.index]
            self.calls[event.index] = (name, json.loads(text or "{}"))
        elif event.type == "message-end":
            self.finish = event.delta.finish_reason

    def _generate(self, running: Any, model: str, stream: bool) -> None:
        answer = running.post("/generate", {"model": model, "prompt": "hello", "stream": stream})
        assert answer.status_code == 200, answer.text
        events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
        for event in events if stream else [answer.json()]:
            self.text += event["text"]
            self.finish = event.get("finish_reason")
            self.refusal = event.get("refusal")
            for made in event.get("tool_calls") or ():
                self.calls.append((made["function"]["name"], json.loads(made["function"]["arguments"])))
                self.ids.append(made["id"])


SURFACES = ("ollama", "cohere", "generate")
EVERYWHERE = pytest.mark.parametrize("surface", SURFACES)
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])

TWO = [("get_weather", {"city": "SF"}), ("get_weather", {"city": "NY"})]
STREAMED: dict[str, tuple[list[list[dict[str, Any]]], list[tuple[str, Any]]]] = {
    "another id under the same index": ([[call("get_weather", SF, "a")], [call("get_weather", NY, "b")]], TWO),
    "name and id in each fragment": (
        [[call("get_weather", part, "a")] for part in ('{"ci', 'ty":"', 'SF"}')],
        TWO[:1],
    ),
    "arguments as an object": (
        [[call("get_weather", {"city": "SF"}, "a")], [call("f", {}, "b", 1)]],
        [TWO[0], ("f", {})],
    ),
    "name in pieces": ([[call("get_", "", "a")], [call("weather", "")], [call(None, SF)]], TWO[:1]),
    "no arguments": ([[call("f", "", "a")], [call("g", None, "b")]], [("f", {}), ("g", {})]),
    "interleaved": (
        [
            [call("get_weather", "", "a", 0), call("get_weather", "", "b", 1)],
            [call(None, NY, None, 1)],
            [call(None, SF)],
        ],
        TWO,
    ),
    "no ids": ([[call("get_weather", SF)], [call("get_weather", NY)]], TWO),
}


@EVERYWHERE
@pytest.mark.parametrize("case", STREAMED)
def test_streamed_calls_of_tools(case: str, surface: str, running: Any, up: Upstream) -> None:
    fragments, expected = STREAMED[case]
    up.stream([*(delta(tool_calls=calls) for calls in fragments), delta("stop"), usage_chunk(3, 2)])
    told = Told(surface, running, stream=True)
    assert told.calls == expected
    assert len(set(told.ids) - {""}) == len(expected)
    assert told.finish == {"ollama": "stop", "cohere": "TOOL_CALL", "generate": "stop"}[surface]


@EVERYWHERE
def test_whole_calls_of_tools(surface: str, running: Any, up: Upstream) -> None:
    sent = [call("get_weather", {"city": "SF"}, "a"), call("get_weather", NY, "a"), call("f", None)]
    up.reply(whole(content=None, tool_calls=sent))
    told = Told(surface, running, stream=False)
    assert told.calls == [*TWO, ("f", {})]
    assert len(set(told.ids)) == 3
    assert told.finish == {"ollama": "stop", "cohere": "TOOL_CALL", "generate": "stop"}[surface]


def test_a_length_that_ends_calls_stays_one(running: Any, up: Upstream) -> None:
    up.reply(whole("length", content=None, tool_calls=[call("f", "{}", "a")]))
    assert Told("cohere", running, stream=False).finish == "MAX_TOKENS"


@EVERYWHERE
@BOTH
@pytest.mark.parametrize("kind", ["openai", "zhipu"])
def test_a_refusal_is_told(kind: str, surface: str, stream: bool, running: Any, up: Upstream) -> None:
    if stream:
        up.stream([delta(role="assistant", content=None), delta(refusal="I "), delta(refusal="cannot"), delta("stop")])
    else:
        up.reply(whole(content=None, refusal="I cannot"))
    told = Told(surface, running, stream=stream, model=kind)
    assert told.text == "I cannot"
    if surface == "generate":
        assert told.refusal == "I cannot"


@EVERYWHERE
@BOTH
@pytest.mark.parametrize("kind", ["openai", "vllm", "deepseek"])
def test_a_legacy_call_of_a_function_is_told(kind: str, surface: str, stream: bool, running: Any, up: Upstream) -> None:
    if stream:
        parts = [{"name": "get_weather", "arguments": ""}, {"arguments": SF[:3]}, {"arguments": SF[3:]}]
        up.stream([*(delta(function_call=part) for part in parts), delta("function_call")])
    else:
        up.reply(whole("function_call", content=None, function_call={"name": "get_weather", "arguments": SF}))
    told = Told(surface, running, stream=stream, model=kind)
    assert (told.calls, len(told.ids)) == (TWO[:1], 1)
    assert told.finish == {"ollama": "stop", "cohere": "TOOL_CALL", "generate": "function_call"}[surface]


@EVERYWHERE
@BOTH
@pytest.mark.parametrize(
    "said",
    [
        {"reasoning": "2+2", "content": "4"},
        {"reasoning_content": "2+2", "content": "4"},
        {"content": [{"type": "thinking", "thinking": "2+2"}, {"type": "text", "text": "4"}]},
        {"reasoning": "2+2", "reasoning_content": "2+2", "content": [{"type": "text", "text": "4"}]},
    ],
    ids=["reasoning", "reasoning_content", "parts", "both"],
)
def test_reasoning_is_told(said: dict[str, Any], surface: str, stream: bool, running: Any, up: Upstream) -> None:
    if stream:
        up.stream([delta(**said), delta("stop")])
    else:
        up.reply(whole(**said))
    told = Told(surface, running, stream=stream)
    assert told.text == "4"
    if surface != "generate":  # which has text alone
        assert told.thinking == "2+2"


@EVERYWHERE
@pytest.mark.parametrize("choice", [{"message": None}, {}, {"delta": None}], ids=["null", "none", "stream"])
def test_a_filtered_answer_is_one(choice: dict[str, Any], surface: str, running: Any, up: Upstream) -> None:
    ended = {"index": 0, "finish_reason": "content_filter", **choice}
    if "delta" in choice:
        up.stream([chat_chunk(None, choices=[ended])])
    else:
        up.reply({"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [ended]})
    told = Told(surface, running, stream="delta" in choice)
    assert (told.text, told.calls) == ("", [])
    assert told.finish in ("content_filter", "CONTENT_FILTER")


@BOTH
@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("ollama", {"model": "theirs", "done": True, "done_reason": "content_filter"}),
        ("cohere", {"id": "c", "message": None, "finish_reason": "CONTENT_FILTER"}),
        ("zhipu", {"id": "c", "choices": [{"index": 0, "finish_reason": "sensitive", "message": None}]}),
    ],
)
def test_a_filtered_answer_of_another_wire_is_one(
    kind: str, sent: dict[str, Any], stream: bool, running: Any, up: Upstream
) -> None:
    if not stream:
        up.reply(sent)
        choice = running.chat(kind).json()["choices"][0]
        assert (choice["message"]["content"] or None, choice["finish_reason"]) == (None, "content_filter")
        return
    event = {"type": "message-end", "delta": sent} if kind == "cohere" else sent
    up.stream([f"{json.dumps(event)}\n".encode() if kind == "ollama" else event], no_done=True)
    lines = running.chat(kind, stream=True).text.split("\n\n")
    assert json.loads(lines[-3][6:])["choices"][0]["finish_reason"] == "content_filter"
    assert lines[-2] == "data: [DONE]"


@EVERYWHERE
def test_messages_in_place_of_deltas_are_read(surface: str, running: Any, up: Upstream) -> None:
    said = {"role": "assistant", "content": "4", "tool_calls": [call("get_weather", {"city": "SF"}, "a")]}
    up.stream([chat_chunk(None, choices=[{"index": 0, "message": said, "finish_reason": "tool_calls"}])])
    told = Told(surface, running, stream=True)
    assert (told.text, told.calls) == ("4", TWO[:1])


def test_api_generate_tells_calls_and_refusals(running: Any, up: Upstream) -> None:
    up.reply(whole(content=None, refusal="I cannot", tool_calls=[call("f", SF, "a")]))
    answer = running.post("/api/generate", {"model": "openai", "prompt": "hi", "stream": False}).json()
    assert answer["response"] == "I cannot"
    assert answer["tool_calls"] == [{"id": "a", "function": {"index": 0, "name": "f", "arguments": {"city": "SF"}}}]


@pytest.mark.parametrize("arguments", [SF, {"city": "SF"}])
def test_arguments_in_messages_of_ollamas_clients_are_encoded_once(arguments: Any, running: Any, up: Upstream) -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    answer = running.post("/api/chat", {"model": "openai", "messages": [*HELLO, called, *HELLO], "stream": False})
    assert answer.status_code == 200
    assert up.requests[0].body["messages"][1]["tool_calls"][0]["function"]["arguments"] == SF
    running.post("/v2/chat", {"model": "openai", "messages": [*HELLO, called, *HELLO]})
    assert up.requests[1].body["messages"][1]["tool_calls"][0]["function"]["arguments"] == SF


SAID = {"role": "assistant", "content": None, "refusal": "I cannot"}
PARTS = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot"}]}


@pytest.mark.parametrize("kind", ["ollama", "zhipu", "cohere", "vllm"])
@pytest.mark.parametrize("said", [SAID, {**SAID, "content": ""}, {"role": "assistant", "refusal": "I cannot"}, PARTS])
def test_a_refusal_sent_back_is_text(kind: str, said: dict[str, Any], running: Any, up: Upstream) -> None:
    if kind == "vllm" and said is PARTS:
        return  # vLLM reads parts itself
    running.chat(kind, messages=[*HELLO, said, *HELLO])
    content = up.requests[0].body["messages"][1]["content"]
    assert (content if isinstance(content, str) else content[0]["text"]) == "I cannot"


@pytest.mark.parametrize("kind", ["zhipu", "cohere", "ollama"])
@pytest.mark.parametrize("arguments", [SF, {"city": "SF"}, None])
def test_calls_sent_back_have_arguments_of_the_vendors_form(
    kind: str, arguments: Any, running: Any, up: Upstream
) -> None:
    made = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    said = {"role": "assistant", "content": None, "tool_calls": made, "reasoning": "2+2"}
    running.chat(kind, messages=[*HELLO, said, {"role": "tool", "tool_call_id": "a", "content": "3"}])
    message = up.requests[0].body["messages"][1]
    sent = message["tool_calls"][0]["function"]["arguments"]
    wanted = {} if arguments is None else {"city": "SF"}
    assert (sent if kind == "ollama" else json.loads(sent)) == wanted
    assert "2+2" in json.dumps(message)


@EVERYWHERE
@BOTH
@pytest.mark.parametrize("arguments", [SF, {"city": "SF"}])
def test_calls_of_servers_of_ollamas_wire(
    arguments: Any, surface: str, stream: bool, running: Any, up: Upstream
) -> None:
    """Each entry is a whole call, whatever its index; one may come without its list."""
    first = {"function": {"index": 0, "name": "get_weather", "arguments": arguments}}
    second = {"function": {"index": 0, "name": "get_weather", "arguments": NY}}
    lines: list[dict[str, Any]] = [
        {"message": {"role": "assistant", "content": "", "tool_calls": made}, "done": False}
        for made in ([first], second)
    ]
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    if stream:
        up.stream([f"{json.dumps(line)}\n".encode() for line in (*lines, last)], no_done=True)
    else:
        up.reply({**last, "message": {**last["message"], "tool_calls": [first, second]}})
    told = Told(surface, running, stream=stream, model="ollama")
    assert (told.calls, len(set(told.ids))) == (TWO, 2)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("start", 0, call("f", SF, "a")), ("start", 0, call("f", NY, "b"))], [("a", SF), ("b", NY)]),
        ([("start", 0, call("f", {"city": "SF"}, "a"))], [("a", SF)]),
        ([("start", 0, call("f", "", "a")), ("delta", 0, call("f", SF, "a")), ("end", 0, {})], [("a", SF)]),
    ],
    ids=["one index", "object", "repeated"],
)
def test_calls_of_servers_of_coheres_wire(
    events: list[Any], expected: list[tuple[str, str]], running: Any, up: Upstream
) -> None:
    told = [
        {"type": f"tool-call-{kind}", "index": index, "delta": {"message": {"tool_calls": made}}}
        for kind, index, made in events
    ]
    up.stream([*told, {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL"}}], no_done=True)
    lines = running.chat("cohere", stream=True).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    calls = [made for chunk in chunks for made in chunk["choices"][0]["delta"].get("tool_calls", ())]
    gathered: dict[int, list[str]] = {}
    for made in calls:
        entry = gathered.setdefault(made["index"], [made.get("id") or "", ""])
        entry[1] += made["function"]["arguments"]
    assert [tuple(entry) for _, entry in sorted(gathered.items())] == expected
    assert [made["function"]["name"] for made in calls if "name" in made["function"]] == ["f"] * len(expected)

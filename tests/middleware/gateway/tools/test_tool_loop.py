"""Answers in which the gateway runs tools itself, over a scripted upstream: what model and caller see of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from upstream import Upstream, chat_chunk, reply, stream, usage, usage_chunk

from sage.errors import InvalidRequest, NotFound, SageError
from sage.middleware.app.main import make_gateway
from sage.middleware.auth.principal import LOCAL, Principal
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.tools.loop import MOST_RUNS, WithTools
from sage.middleware.gateway.tools.server_tool import ToolOutput, ToolRun
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.settings.settings import Settings


@dataclass
class Adder:
    """A tool that adds ``a`` and ``b``."""

    name: str = "add"
    needs_approval: bool = False
    ran: list[Mapping[str, Any]] = field(default_factory=list)
    origin: Mapping[str, Any] = field(default_factory=lambda: {"type": "test"})
    waits: bool = False
    cancelled: bool = False

    @property
    def definition(self) -> Mapping[str, Any]:
        return {"type": "function", "function": {"name": self.name, "parameters": {"type": "object"}}}

    async def run(self, principal: Principal, arguments: Mapping[str, Any]) -> ToolOutput:
        assert principal is LOCAL
        self.ran.append(arguments)
        if self.waits:
            try:
                await asyncio.sleep(60)
            finally:
                self.cancelled = True
        if "a" not in arguments:
            raise NotFound("there is no 'a'")
        return ToolOutput(str(arguments["a"] + arguments["b"]), details={"exact": True})


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def gateway(up: Upstream, tmp_path: Path) -> Gateway:
    up.reset()
    provider = {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}
    llm = {"providers": {"up": provider}, "models": {"m": {"deployments": [{"provider": "up", "model": "theirs"}]}}}
    return make_gateway(Settings.model_validate({"data_dir": tmp_path, "llm": llm}))


def called(*calls: tuple[str, str, Any], text: str | None = None) -> dict[str, Any]:
    """A whole answer that calls functions: ``(id, name, arguments)``."""
    entries = [
        {"id": each, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for each, name, arguments in calls
    ]
    message = {"role": "assistant", "content": text, "tool_calls": entries}
    return answer(message, "tool_calls")


def answer(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 7,
        "model": "x",
        "choices": [choice],
        "usage": usage(10, 4),
    }


def said(text: str) -> dict[str, Any]:
    return answer({"role": "assistant", "content": text})


def call_chunk(index: int, identity: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    """A chunk with a fragment of a call."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    entry = {"index": index, "function": function} | ({"id": identity, "type": "function"} if identity else {})
    chunk = chat_chunk(None)
    chunk["choices"][0]["delta"] = {"tool_calls": [entry]}
    return chunk


def ask(gateway: Gateway, options: WithTools, body: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The whole answer, and the loop."""

    async def run() -> tuple[dict[str, Any], Any]:
        body["messages"] = body.get("messages") or [{"role": "user", "content": "2+3?"}]
        call = ModelCall(Operation.CHAT, {"model": "m", **body}, "m")
        try:
            async with options.call(LOCAL, call) as loop:
                return json.loads(loop.body), loop
        finally:
            await gateway.close()

    return asyncio.run(run())


def listen(gateway: Gateway, options: WithTools, body: dict[str, Any]) -> tuple[list[Any], Any]:
    """The events of a stream, and the loop; an error ends them."""

    async def run() -> tuple[list[Any], Any]:
        fields = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "2+3?"}], **body}
        call = ModelCall(Operation.CHAT, fields, "m", stream=True, wants_usage=True)
        events: list[Any] = []
        try:
            async with options.call(LOCAL, call) as loop:
                piece = loop.body
                try:
                    while piece:
                        for event in piece.decode().split("\n\n"):
                            if data := event.removeprefix("data: "):
                                events.append(data if data == "[DONE]" else json.loads(data))
                        piece = await loop.more()
                except SageError as error:
                    events.append(error)
                return events, loop
        finally:
            await gateway.close()

    return asyncio.run(run())


def test_the_model_goes_on_with_what_a_tool_has_answered(up: Upstream, gateway: Gateway) -> None:
    add = Adder()
    up.use(reply(called(("c1", "add", {"a": 2, "b": 3}), ("c2", "add", {"b": 3}), text="I add.")), 1)
    up.use(reply(said("It is 5.")), 1)
    whole, loop = ask(gateway, WithTools(gateway, [add]), {"tool_choice": "required"})
    assert whole["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "I add.\n\nIt is 5."}, "finish_reason": "stop"}
    ]
    assert whole["usage"] == usage(20, 8)
    assert whole["model"] == "m"
    first, second = (request.body for request in up.requests)
    assert first["tools"] == [add.definition]
    assert (first["tool_choice"], second["tool_choice"]) == ("required", "auto")
    assert second["messages"][1]["tool_calls"] == loop.steps[0]["tool_calls"]
    assert second["messages"][2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
        {"role": "tool", "tool_call_id": "c2", "content": "there is no 'a'"},
    ]
    assert [(run["id"], run["status"], run["output"]) for run in whole["tool_runs"]] == [
        ("c1", "completed", "5"),
        ("c2", "failed", "there is no 'a'"),
    ]
    assert loop.run("c1").output.details == {"exact": True}


def test_a_stream_shows_texts_and_runs_and_the_callers_calls_as_they_come(up: Upstream, gateway: Gateway) -> None:
    first = [
        chat_chunk("Adding"),
        call_chunk(0, "c1", "add", '{"a":'),
        call_chunk(0, None, None, ' 2, "b": 3}'),
        chat_chunk(None, "tool_calls"),
        usage_chunk(10, 4),
    ]
    second = [
        chat_chunk("Now yours"),
        call_chunk(0, "c2", "theirs", '{"x"'),
        call_chunk(0, None, None, ": 1}"),
        call_chunk(1, "c3", "bare", ""),
        chat_chunk(None, "tool_calls"),
        usage_chunk(20, 6),
    ]
    up.use(stream(first), 1)
    up.use(stream(second), 1)
    theirs = [{"type": "function", "function": {"name": name}} for name in ("theirs", "bare")]
    events, _ = listen(gateway, WithTools(gateway, [Adder()]), {"tools": theirs})
    shown: list[Any] = []
    for event in events:
        if isinstance(event, dict) and event["choices"]:
            choice = event["choices"][0]
            runs = [(run["status"], run.get("output")) for run in event.get("tool_runs", ())]
            shown.append(
                choice["delta"].get("content") or choice["delta"].get("tool_calls") or runs or choice["finish_reason"]
            )
    assert shown == [
        "Adding",
        [("running", None)],
        [("completed", "5")],
        "\n\nNow yours",
        [{"index": 0, "id": "c2", "type": "function", "function": {"name": "theirs", "arguments": '{"x"'}}],
        [{"index": 0, "function": {"arguments": ": 1}"}}],
        [{"index": 1, "id": "c3", "type": "function", "function": {"name": "bare", "arguments": "{}"}}],
        "tool_calls",
    ]
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"] == usage(30, 10)
    assert {event["id"] for event in events[:-1]} == {"chatcmpl-1"}


@pytest.mark.parametrize("beside", [False, True])
def test_a_turn_that_calls_tools_of_both_ends_the_answer(up: Upstream, gateway: Gateway, beside: bool) -> None:
    add = Adder()
    up.use(reply(called(("c1", "add", {"a": 2, "b": 3}), ("c2", "theirs", {}))), 1)
    tools = [{"type": "function", "function": {"name": "theirs"}}]
    whole, loop = ask(gateway, WithTools(gateway, [add], beside=beside), {"tools": tools})
    assert [call["id"] for call in whole["choices"][0]["message"]["tool_calls"]] == ["c2"]
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert len(add.ran) == beside
    assert [step.status for step in loop.steps if isinstance(step, ToolRun)] == ["completed"] * beside


def test_a_tool_that_needs_approval_ends_the_answer_and_runs_first_once_it_has_it(
    up: Upstream, gateway: Gateway
) -> None:
    add = Adder(needs_approval=True)
    asked = called(("c1", "add", {"a": 2, "b": 3}))
    up.use(reply(asked), 1)
    up.use(stream([chat_chunk("5"), chat_chunk(None, "stop")]), 1)

    async def run() -> None:
        call = ModelCall(Operation.CHAT, {"messages": [{"role": "user", "content": "x"}]}, "m")
        async with WithTools(gateway, [add]).call(LOCAL, call) as loop:
            whole = json.loads(loop.body)
        assert whole["tool_runs"][0]["status"] == "needs_approval"
        assert whole["choices"][0]["finish_reason"] == "stop"
        assert add.ran == []
        messages = [{"role": "user", "content": "x"}, asked["choices"][0]["message"]]
        approved = ToolRun("c1", add, '{"a": 2, "b": 3}')
        call = ModelCall(Operation.CHAT, {"messages": messages, "stream": True}, "m", stream=True)
        async with WithTools(gateway, [add], approved=[approved]).call(LOCAL, call) as loop:
            first = json.loads(loop.body.decode().split("\n\n")[0].removeprefix("data: "))
            assert first["tool_runs"][0]["output"] == "5"
            assert loop.deployment
        await gateway.close()

    asyncio.run(run())
    assert up.requests[1].body["messages"][-1] == {"role": "tool", "tool_call_id": "c1", "content": "5"}


def test_turns_and_runs_are_bounded(up: Upstream, gateway: Gateway) -> None:
    add = Adder()
    up.reply(called(*((f"c{number}", "add", {"a": number, "b": 1}) for number in range(MOST_RUNS + 2))))
    whole, _ = ask(gateway, WithTools(gateway, [add], turns=3), {})
    assert [request.body.get("tool_choice") for request in up.requests] == [None, None, "none"]
    assert len(add.ran) == 2 * MOST_RUNS
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["warnings"] == ["the model has used all its turns with tools"]
    assert "tool_calls" not in whole["choices"][0]["message"]
    assert up.requests[1].body["messages"][-1]["content"].startswith("not run")


def test_an_error_of_a_later_turn_is_the_answers_error(up: Upstream, gateway: Gateway) -> None:
    up.use(stream([call_chunk(0, "c1", "add", "[1]"), chat_chunk(None, "tool_calls")]), 1)
    up.reply(status=400)
    events, loop = listen(gateway, WithTools(gateway, [Adder()]), {})
    assert isinstance(events[-1], InvalidRequest)
    assert loop.steps[-1].output.text == "the arguments must be a JSON object; call the tool again with one"
    assert "[DONE]" not in events


def test_a_caller_that_leaves_cancels_the_tool_that_runs(up: Upstream, gateway: Gateway) -> None:
    add = Adder(waits=True)
    up.reply(called(("c1", "add", {})))

    async def run() -> None:
        call = ModelCall(Operation.CHAT, {"messages": [{"role": "user", "content": "x"}]}, "m")

        async def asking() -> None:
            async with WithTools(gateway, [add]).call(LOCAL, call):
                pass

        task = asyncio.create_task(asking())
        while not add.ran:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await gateway.close()

    asyncio.run(run())
    assert add.cancelled


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "add"}}]}, "tools[0]"),
        ({"tools": {}}, "tools"),
        ({"n": 2}, "n"),
        ({"functions": [{"name": "x"}]}, "functions"),
    ],
)
def test_what_cannot_be_joined_with_the_gateways_tools_is_refused(
    up: Upstream, gateway: Gateway, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(gateway, WithTools(gateway, [Adder()]), fields)
    assert refused.value.param == param
    assert up.requests == []

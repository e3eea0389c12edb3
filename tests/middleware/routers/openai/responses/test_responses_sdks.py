"""OpenAI's SDK and its agents, unchanged, over a model that speaks chat completions; and what Codex sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from agents import Agent, RunConfig, Runner, function_tool
from agents.models.openai_provider import OpenAIProvider
from pydantic import BaseModel
from response_oracle import check_events, events_of
from running_gateway import Running
from upstream import Upstream, chat_chunk, reply, stream, usage, usage_chunk


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as found:
        yield found


class Answer(BaseModel):
    number: int


def says(up: Upstream, text: str | None, *calls: tuple[str, str], streamed: bool = False) -> None:
    """The model says ``text``, and calls functions by name and arguments."""
    made = [
        {"index": number, "id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    finish = "tool_calls" if calls else "stop"
    if streamed:
        chunks = [] if text is None else [chat_chunk(text)]
        if made:
            chunks.append({**chat_chunk(None), "choices": [{"index": 0, "delta": {"tool_calls": made}}]})
        up.use(stream([*chunks, chat_chunk(None, finish), usage_chunk(3, 2)]), 1)
        return
    message = {"role": "assistant", "content": text, **({"tool_calls": made} if made else {})}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    up.use(reply({"id": "c", "model": "theirs", "choices": [choice], "usage": usage(3, 2)}), 1)


def test_openai_creates_streams_and_parses(client: openai.OpenAI, up: Upstream) -> None:
    response = client.responses.create(model="bench", input="hello there", instructions="Brief.", max_output_tokens=9)
    assert response.output_text == "hello there"
    assert client.responses.retrieve(response.id) == response
    with client.responses.stream(model="bench", input="one two") as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert (kinds[0], kinds[-1], final.output_text) == ("response.created", "response.completed", "one two")
    says(up, '{"number": 42}')
    parsed = client.responses.parse(model="bench", input="6*7?", text_format=Answer)
    assert parsed.output_parsed == Answer(number=42)
    assert up.requests[-1].body["response_format"]["json_schema"]["name"] == "Answer"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nothing-like-it", input="x")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="bench", input="x", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0].type"
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


@pytest.mark.parametrize("streamed", [False, True])
def test_agents_run_tools_and_hand_over(running: Running, up: Upstream, streamed: bool) -> None:
    asked: list[str] = []

    @function_tool
    def weather(city: str) -> str:
        asked.append(city)
        return f"sun in {city}"

    says(up, None, ("weather", '{"city": "Bonn"}'), streamed=streamed)
    says(up, None, ("transfer_to_poet", "{}"), streamed=streamed)
    says(up, "O sun of Bonn!", streamed=streamed)
    poet = Agent(name="poet", instructions="Rhyme.", model="bench")
    agent = Agent(name="helper", instructions="Help.", model="bench", tools=[weather], handoffs=[poet])

    async def run() -> Any:
        client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
        provider = OpenAIProvider(openai_client=client)  # its default: Responses
        config = RunConfig(model_provider=provider, tracing_disabled=True)
        async with client:
            if not streamed:
                return await Runner.run(agent, "Weather in Bonn?", run_config=config)
            result = Runner.run_streamed(agent, "Weather in Bonn?", run_config=config)
            async for _ in result.stream_events():
                pass
            return result

    result = asyncio.run(run())
    assert (result.final_output, result.last_agent.name, asked) == ("O sun of Bonn!", "poet", ["Bonn"])
    assert [request.path for request in up.requests] == ["/v1/chat/completions"] * 3
    roles = [message["role"] for message in up.requests[-1].body["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool"]


def test_a_request_as_codex_sends_it(running: Running, up: Upstream) -> None:
    grammar = 'start: begin_patch hunk+ end_patch\nbegin_patch: "*** Begin Patch" LF\nPATH: /(.+)/\nURL: "https://x"'
    shell = {"type": "object", "properties": {"command": {"type": "array", "items": {"type": "string"}}}}
    body: dict[str, Any] = {
        "model": "bench",
        "instructions": "You are Codex, a coding agent. " * 200,
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment_context>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix http://x/y in a.py"}]},
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABo", "content": None},
            {"type": "function_call", "name": "shell", "arguments": '{"command":["ls","/"]}', "call_id": "c1"},
            {"type": "function_call_output", "call_id": "c1", "output": "/etc/passwd\nhttp://localhost/"},
        ],
        "tools": [
            {"type": "function", "name": "shell", "description": "Runs.", "strict": False, "parameters": shell},
            {
                "type": "custom",
                "name": "apply_patch",
                "description": "Edits.",
                "format": {"type": "grammar", "syntax": "lark", "definition": grammar},
            },
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199-abc",
        "text": {"verbosity": "low"},
        "client_metadata": {"x-codex-installation-id": "1"},
    }
    patch = "*** Begin Patch\n*** Update File: a.py\n+x = 1\n*** End Patch"
    says(up, None, ("apply_patch", json.dumps({"input": patch})), streamed=True)
    answer = running.post("/v1/responses", body)
    assert answer.status_code == 200, answer.text
    response = check_events(events_of(answer.content))
    (item,) = response["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", patch)
    sent = up.requests[-1].body
    assert sent.keys() == {"model", "messages", "stream", "stream_options", "tools", "tool_choice"} | {
        *("reasoning_effort", "verbosity")
    }
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "user", "assistant", "tool"]
    assert grammar in sent["tools"][1]["function"]["description"]
    output = {"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "Done"}
    says(up, "Fixed.", streamed=True)
    again = running.post("/v1/responses", {**body, "input": [*body["input"], item, output]})
    assert check_events(events_of(again.content))["output"][0]["content"][0]["text"] == "Fixed."
    assert up.requests[-1].body["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "call_apply_patch",
        "content": "Done",
    }


@pytest.mark.slow
def test_the_local_model_answers(module_gateway: Any) -> None:
    pytest.importorskip("xllamacpp")
    running = module_gateway()
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        first = client.responses.create(model="gemma-3-270m", input="What is the capital of France?")
        assert "Paris" in first.output_text
        with client.responses.stream(
            model="gemma-3-270m", input="And of Germany?", previous_response_id=first.id, truncation="auto"
        ) as events:
            final = events.get_until_done() if hasattr(events, "get_until_done") else events.get_final_response()
        assert final.output_text
        assert final.usage is not None
        assert final.usage.input_tokens > 10

"""Memory in Messages and Responses, with the vendors' own clients: recalled, shown, stored, plain and streaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from running_gateway import Running
from upstream import Received, Script, Upstream, openai_like, reply
from waiting import wait_until

pytestmark = pytest.mark.slow

PREFERENCE = "My favourite drink is oolong tea."
ASKED = "What is my favourite drink?"
MEMORY = {"memory": {"session_id": "s1"}}
TURN = [("user", PREFERENCE), ("assistant", "Noted. Well.")]


@pytest.fixture
def up() -> Iterator[Upstream]:
    """Answers every chat with ``Noted. Well.``."""

    def noted(request: Received) -> Script:
        body = {**request.body, "messages": [{"role": "user", "content": "Noted. Well."}]}
        return openai_like(Received(request.method, request.path, request.headers, request.raw, body))

    with Upstream() as upstream:
        upstream.handler = noted
        yield upstream


@pytest.fixture
def running(up: Upstream, upstreams: Callable[..., Running]) -> Running:
    return upstreams(up, services={"memory": {"embedder": "none"}}, retrieval={"defaults": {"embedder": "none"}})


def stored(running: Running) -> list[tuple[Any, str]]:
    answer = running.get("/memory/sessions/s1")
    if answer.status_code == 404:
        return []
    return [(memory["metadata"].get("role"), memory["content"]) for memory in answer.json()["memories"]]


def told(up: Upstream) -> str:
    """What the model was told last."""
    content = up.requests[-1].body["messages"][-1]["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def recalled(memories: Any) -> list[str]:
    return [memory["text"] for memory in memories]


def test_messages_have_memory(running: Running, up: Upstream) -> None:
    with anthropic.Anthropic(base_url=running.url, api_key=running.key, max_retries=0) as client:
        first = client.messages.create(
            model="bench", max_tokens=50, messages=[{"role": "user", "content": PREFERENCE}], extra_body=MEMORY
        )
        assert first.content[0].to_dict()["text"] == "Noted. Well."
        assert first.to_dict()["memories"] == []
        assert stored(running) == TURN
        with client.messages.stream(
            model="bench", max_tokens=50, messages=[{"role": "user", "content": ASKED}], extra_body=MEMORY
        ) as stream:
            events = list(stream)
            assert stream.get_final_text() == "Noted. Well."
    start = next(event for event in events if event.type == "message_start")
    assert PREFERENCE in recalled(start.message.to_dict()["memories"])
    assert told(up).endswith(ASKED)
    assert PREFERENCE in told(up)
    assert stored(running) == [*TURN, ("user", ASKED)]


def test_responses_have_memory(running: Running, up: Upstream) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        first = client.responses.create(model="bench", input=PREFERENCE, extra_body=MEMORY)
        assert first.output_text == "Noted. Well."
        assert first.to_dict()["memories"] == []
        assert stored(running) == TURN
        events = list(client.responses.create(model="bench", input=ASKED, extra_body=MEMORY, stream=True))
        created, completed = events[0], events[-1]
        assert (created.type, completed.type) == ("response.created", "response.completed")
        assert PREFERENCE in recalled(created.to_dict()["response"]["memories"])
        assert told(up).endswith(ASKED)
        assert PREFERENCE in told(up)
        assert stored(running) == [*TURN, ("user", ASKED)]
        kept = client.responses.input_items.list(first.id).data
        assert PREFERENCE in str(kept[0].to_dict())
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="bench", input="x", extra_body={"memory": {"session_id": ""}})
    assert refused.value.param == "memory.session_id"


def test_a_response_that_calls_a_tool_is_stored_with_the_answer_to_its_result(running: Running, up: Upstream) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "brew", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    up.use(reply({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}), 1)
    tools: Any = [{"type": "function", "name": "brew", "parameters": {"type": "object", "properties": {}}}]
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        first = client.responses.create(model="bench", input=PREFERENCE, tools=tools, extra_body=MEMORY)
        assert first.output[0].type == "function_call"
        assert stored(running) == []
        result: Any = [{"role": "user", "content": PREFERENCE}, *[each.to_dict() for each in first.output]]
        result.append({"type": "function_call_output", "call_id": "c1", "output": "brewed"})
        client.responses.create(model="bench", input=result, tools=tools, extra_body=MEMORY)
    assert stored(running) == TURN


def test_a_response_in_the_background_has_memory(running: Running, up: Upstream) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        made = client.responses.create(model="bench", input=PREFERENCE, background=True, extra_body=MEMORY)
        wait_until(lambda: client.responses.retrieve(made.id).status == "completed")
    assert stored(running) == TURN

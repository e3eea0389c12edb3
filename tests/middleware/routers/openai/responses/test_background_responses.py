"""Responses in the background: jobs that a worker waits for, polled, followed and cancelled with OpenAI's own SDK."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import openai
import pytest
from openai.types.responses import Response
from running_gateway import Running
from shared_gateway import one_model as sections  # noqa: F401 (what `shared` starts)
from upstream import Upstream, chat_chunk, stream, usage_chunk

pytestmark = pytest.mark.slow  # a worker


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as found:
        yield found


def ended(client: openai.OpenAI, name: str, until: Callable[[Response], bool]) -> Response:
    deadline = time.monotonic() + 40
    while not until(response := client.responses.retrieve(name)):
        assert time.monotonic() < deadline, response.status
        time.sleep(0.1)
    return response


def test_it_is_made_by_a_job(client: openai.OpenAI, up: Upstream, running: Running) -> None:
    first = client.responses.create(model="bench", input="one", store=True)
    queued = client.responses.create(
        model="bench", input="two", background=True, previous_response_id=first.id, metadata={"a": "b"}
    )
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    with pytest.raises(openai.ConflictError):
        client.responses.create(model="bench", input="x", previous_response_id=queued.id)
    done = ended(client, queued.id, lambda response: response.status not in ("queued", "in_progress"))
    assert (done.status, done.output_text, done.id) == ("completed", "two", queued.id)
    assert done.usage is not None
    assert up.requests[-1].body["messages"][-1] == {"role": "user", "content": "two"}
    assert [each["content"] for each in up.requests[-1].body["messages"]] == ["one", "one", "two"]
    after = client.responses.create(model="bench", input="three", previous_response_id=done.id)
    assert after.output_text == "three"
    (item,) = client.responses.input_items.list(done.id).data
    assert item.type == "message"
    events = list(client.responses.retrieve(done.id, stream=True))
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    later = list(client.responses.retrieve(done.id, stream=True, starting_after=3))
    assert later == events[4:]
    client.responses.delete(done.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)


def test_it_is_followed_while_it_is_made(client: openai.OpenAI, up: Upstream) -> None:
    gate = threading.Event()
    up.use(stream([chat_chunk("One "), chat_chunk("two"), chat_chunk(None, "stop"), usage_chunk(2, 2)], gate=gate), 1)
    kinds = []
    for event in client.responses.create(model="bench", input="x", background=True, stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            gate.set()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_it_is_cancelled_and_it_fails(client: openai.OpenAI, up: Upstream, running: Running) -> None:
    up.use(stream([chat_chunk("One ")], hang_after=1), 1)
    response = client.responses.create(model="bench", input="x", background=True)
    up.wait_requests(1, 40)
    cancelled = client.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    assert client.responses.cancel(response.id).status == "cancelled"
    assert up.wait_closed(30).closed_at is not None
    assert client.responses.retrieve(response.id).status == "cancelled"
    up.stream([chat_chunk("One "), chat_chunk("two")], cut_after=1, delay=0.05, times=1)
    response = client.responses.create(model="bench", input="x", background=True)
    failed = ended(client, response.id, lambda response: response.status not in ("queued", "in_progress"))
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "server_error"
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="bench", input="x", background=True, tools=[{"type": "web_search"}])
    with pytest.raises(openai.ConflictError):
        list(client.responses.retrieve(client.responses.create(model="bench", input="x").id, stream=True))
    other = client.with_options(api_key=running.new_key(scopes=["generate"]))
    with pytest.raises(openai.PermissionDeniedError):
        other.responses.create(model="bench", input="x", background=True)

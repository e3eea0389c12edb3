"""Any request of Responses becomes a chat and comes back, and so does any chat's answer: nothing is lost but what
docs/surfaces.md names. A chat that is asked as a request is one of them."""

from __future__ import annotations

import copy
from typing import Any

import chat_shapes as shapes
import orjson
import pytest
import surface_losses
from hypothesis import given
from hypothesis import strategies as st
from response_oracle import check_events, check_response, events_of
from response_shapes import answer_of, request_of, requests
from surface_losses import Loss, expected

from sage.middleware.routers.openai.responses import resource
from sage.middleware.routers.openai.responses.answer import complete
from sage.middleware.routers.openai.responses.events import ChatStreamEvents
from sage.middleware.routers.openai.responses.request import ResponsesRequest
from sage.middleware.routers.openai.responses.writer import EventWriter

QUESTIONS = surface_losses.of("responses", answer=False)
ANSWERS = surface_losses.of("responses", answer=True)
REFUSED = [loss for loss in QUESTIONS if loss.refused]
TOOLS = [
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "f"}]},
]
ASKED = {
    "model": "m",
    "input": "Hi",
    "tools": TOOLS,
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
}
chats = st.builds(
    lambda chat, more: {**chat, **more}, shapes.chats(), shapes.optional(verbosity=st.sampled_from(["low", "high"]))
)
LOGPROBS = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}


def there_and_back(request: dict[str, Any]) -> dict[str, Any]:
    """``request`` as a chat, which also goes over the wire, and that as a request again."""
    asked = copy.deepcopy(request)
    for loss in REFUSED:
        loss.apply(asked)
    read = ResponsesRequest(asked)
    chat = orjson.loads(orjson.dumps(read.translate()))
    assert read.only_native is None
    return request_of({"model": request["model"], **chat})


def answer_there_and_back(answer: dict[str, Any]) -> dict[str, Any]:
    return answer_of(check_response(orjson.loads(orjson.dumps(whole(ASKED, answer)))))


def whole(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return complete(ResponsesRequest(body), resource.new_response(body, "resp_7"), answer)


@given(requests() | chats.map(request_of))
def test_a_request_loses_nothing_else(request: dict[str, Any]) -> None:
    assert there_and_back(request) == expected(request, QUESTIONS)


@given(shapes.answers(), st.none() | st.just(LOGPROBS))
def test_an_answer_loses_nothing_else(answer: dict[str, Any], logprobs: Any) -> None:
    choice = answer["choices"][0]
    choice["logprobs"] = logprobs if choice["message"]["content"] else None
    assert shapes.comparable(answer_there_and_back(answer)) == shapes.comparable(expected(answer, ANSWERS))


@given(shapes.answers(), st.sampled_from([{}, {"reasoning": {"summary": "auto"}}, ASKED]), st.integers(1, 9))
def test_a_stream_says_what_the_whole_answer_says(answer: dict[str, Any], fields: dict[str, Any], size: int) -> None:
    """However many chunks come at once."""
    body = {"model": "m", "input": "Hi", **fields}
    events = ChatStreamEvents(ResponsesRequest(body), EventWriter(resource.new_response(body, "resp_7")))
    chunks = shapes.chunks(answer)
    pieces = [b"".join(chunks[start : start + size]) for start in range(0, len(chunks), size)]
    sent = b"".join(map(events.translate, pieces))
    last = events.end()
    assert isinstance(last, bytes)
    sent += last
    said, once = check_events(events_of(sent)), whole(body, answer)
    for name in ("output", "usage", "status", "incomplete_details"):
        assert said[name] == once[name]


@pytest.mark.parametrize("loss", QUESTIONS + ANSWERS, ids=lambda loss: loss.what)
def test_each_row_of_the_table_is_really_lost(loss: Loss) -> None:
    losses, way = (ANSWERS, answer_there_and_back) if loss.answer else (QUESTIONS, there_and_back)
    assert expected(loss.example, [loss]) != loss.example
    assert shapes.comparable(way(loss.example)) == shapes.comparable(expected(loss.example, losses))


@pytest.mark.parametrize("loss", REFUSED, ids=lambda loss: loss.what)
def test_what_is_refused_is_named(loss: Loss) -> None:
    request = ResponsesRequest(copy.deepcopy(loss.example))
    request.translate()
    assert request.only_native is not None
    assert request.only_native.param == "input[0].content[0].file_url"

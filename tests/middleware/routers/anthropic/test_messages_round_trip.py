"""Any chat of OpenAI's shape becomes Messages and comes back: nothing is lost but what docs/surfaces.md names."""

from __future__ import annotations

import copy
import json
from typing import Any

import chat_shapes as shapes
import orjson
import pytest
import surface_losses
from hypothesis import example, given
from surface_losses import Loss, expected

from sage.middleware.providers.anthropic.answer import chat_answer
from sage.middleware.providers.anthropic.request import messages_body
from sage.middleware.routers.anthropic import answer as answers
from sage.middleware.routers.anthropic.events import MessageEvents
from sage.middleware.routers.anthropic.request import chat_request

MODEL = "claude-opus-4-6"
QUESTIONS = surface_losses.of("messages", answer=False)
ANSWERS = surface_losses.of("messages", answer=True)


def _blank_between(content: Any, role: str = "assistant", **fields: Any) -> dict[str, Any]:
    """A chat with ``content``, whose texts are blank, between two words of the user."""
    first, last = ({"role": "user", "content": text} for text in ("a", "b"))
    return {"model": "m", "max_tokens": 4000, "messages": [first, {"role": role, "content": content, **fields}, last]}


def there_and_back(chat: dict[str, Any]) -> dict[str, Any]:
    """``chat`` as Messages, which also goes over the wire, and that as a chat again."""
    asked = copy.deepcopy({**chat, "model": MODEL})
    for loss in QUESTIONS:
        if loss.refused:  # a test of kind anthropic shows that each of these fields is a 400
            loss.apply(asked)
    wire = orjson.loads(orjson.dumps(messages_body(asked, MODEL)))
    body, effort, foreign = chat_request({**wire, "model": chat["model"]})
    assert foreign is None
    if effort is not None:
        body["reasoning_effort"] = effort
    return body


def answer_there_and_back(answer: dict[str, Any]) -> dict[str, Any]:
    message = answers.message(answer, (), (0, 0))
    assert set(message) >= {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
    decoded = chat_answer(orjson.loads(orjson.dumps(message)), answer["model"])
    assert decoded is not None
    return {name: value for name, value in decoded[0].items() if name not in ("object", "created")}


@given(shapes.chats())
@example(_blank_between("\x85"))
@example(_blank_between("\x1f\u2028", thinking_blocks=[{"type": "redacted_thinking", "data": "a"}]))
@example(_blank_between([{"type": "text", "text": "\xa0"}, {"type": "text", "text": "b"}], role="user"))
@example(_blank_between(" ", role="user"))
def test_a_question_loses_nothing_else(chat: dict[str, Any]) -> None:
    assert there_and_back(chat) == expected(chat, QUESTIONS)


@given(shapes.answers())
def test_an_answer_loses_nothing_else(answer: dict[str, Any]) -> None:
    assert shapes.comparable(answer_there_and_back(answer)) == shapes.comparable(expected(answer, ANSWERS))


@given(shapes.answers())
def test_a_stream_says_what_the_whole_answer_says(answer: dict[str, Any]) -> None:
    events = MessageEvents("m", (), 1, "id")
    sent = b"".join(map(events.translate, shapes.chunks(answer))) + events.end()
    said = gathered([json.loads(part.partition(b"\ndata: ")[2]) for part in sent.split(b"\n\n")[:-1]])
    whole = answers.message(answer, (), (0, 0))
    assert said == {name: whole[name] for name in said}


@pytest.mark.parametrize("loss", QUESTIONS + ANSWERS, ids=lambda loss: loss.what)
def test_each_row_of_the_table_is_really_lost(loss: Loss) -> None:
    losses, way = (ANSWERS, answer_there_and_back) if loss.answer else (QUESTIONS, there_and_back)
    assert expected(loss.example, [loss]) != loss.example
    assert shapes.comparable(way(loss.example)) == shapes.comparable(expected(loss.example, losses))


def gathered(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events make, one open block at a time and indexes without gaps."""
    assert [events[0]["type"], events[-2]["type"], events[-1]["type"]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    is_open = False
    for event in events[2:-2]:
        if event["type"] == "content_block_start":
            assert (is_open, event["index"]) == (False, len(blocks))
            is_open = True
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            assert (is_open, event["index"]) == (True, len(blocks) - 1)
            delta = dict(event["delta"])
            kind = delta.pop("type")
            for name, piece in delta.items():
                if kind == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + piece
                else:
                    blocks[-1][name] += piece
        else:
            assert (event["type"], is_open, event["index"]) == ("content_block_stop", True, len(blocks) - 1)
            is_open = False
    assert not is_open
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text)
    message = events[0]["message"]
    ended = events[-2]
    return {**message, "content": blocks, **ended["delta"], "usage": ended["usage"]}

"""The surfaces that the load can ask: the same question in each one's shape, and whether its answer is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from checks import answer_fault, stream_fault
from wire import answer, piece, usage


@dataclass(frozen=True)
class Surface:
    """One surface: its path, the body for that of a chat, and the checks of whole answers and of streams, which say
    what is wrong (:mod:`checks`)."""

    path: str
    body: Callable[[dict[str, Any]], dict[str, Any]]
    answer_fault: Callable[[bytes, int, str | None], str | None]
    stream_fault: Callable[[bytes, int, str | None, int, bool], str | None]


def _messages_body(chat: dict[str, Any]) -> dict[str, Any]:
    """Anthropic's Messages."""
    body = {name: value for name, value in chat.items() if name != "stream_options"}
    system = [message["content"] for message in chat["messages"] if message["role"] == "system"]
    body["messages"] = [message for message in chat["messages"] if message["role"] != "system"]
    return {**body, "system": system[0]} if system else body


def _message_fault(body: bytes, number: int, model: str | None) -> str | None:
    try:
        reply = orjson.loads(body)
        text = reply["content"][0]["text"]
        if (text, reply["stop_reason"], len(reply["content"])) != (answer(number), "end_turn", 1):
            return f"wrong answer {text!r:.60}, {reply['stop_reason']!r}"
        if model and reply["model"] != model:
            return f"model {reply['model']!r}"
        return _usage_fault(reply["usage"], number)
    except (orjson.JSONDecodeError, LookupError, TypeError) as exc:
        return f"not a message ({exc!r:.60}): {body[:120]!r}"


def _message_stream_fault(body: bytes, number: int, model: str | None, chunks: int, wants_usage: bool) -> str | None:
    index, kinds = 0, []
    fault: str | None = "no usage"
    try:
        for line in body.split(b"\n\n")[:-1]:
            event = orjson.loads(line.partition(b"\ndata: ")[2])
            kinds.append(event["type"])
            if event["type"] == "content_block_delta":
                if event["delta"]["text"] != piece(number, index):
                    return f"wrong chunk {event['delta']['text']!r:.40} at {index} of a stream"
                index += 1
            elif event["type"] == "message_delta":
                fault = _usage_fault(event["usage"], number)
            elif event["type"] == "message_start" and model and event["message"]["model"] != model:
                return f"model {event['message']['model']!r} in a stream"
    except (orjson.JSONDecodeError, LookupError, TypeError) as exc:
        return f"not an event ({exc!r:.60}): {line[:120]!r}"
    expected = ["message_start", "ping", "content_block_start", *["content_block_delta"] * chunks]
    expected += ["content_block_stop", "message_delta", "message_stop"]
    return fault if kinds == expected else f"{index} of {chunks} chunks in a stream that ends with {body[-60:]!r}"


def _responses_body(chat: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's Responses, of which nothing is kept."""
    body = {name: value for name, value in chat.items() if name not in ("stream_options", "messages", "max_tokens")}
    items = [{"type": "message", **message} for message in chat["messages"]]
    bound = {"max_output_tokens": chat["max_tokens"]} if "max_tokens" in chat else {}
    return {**body, **bound, "input": items, "store": False}


def _response_fault(body: bytes, number: int, model: str | None) -> str | None:
    try:
        reply = orjson.loads(body)
        text = reply["output"][0]["content"][0]["text"]
        if (text, reply["status"], len(reply["output"])) != (answer(number), "completed", 1):
            return f"wrong answer {text!r:.60}, {reply['status']!r}"
        if model and reply["model"] != model:
            return f"model {reply['model']!r}"
        return _usage_fault(reply["usage"], number)
    except (orjson.JSONDecodeError, LookupError, TypeError) as exc:
        return f"not a response ({exc!r:.60}): {body[:120]!r}"


def _response_stream_fault(body: bytes, number: int, model: str | None, chunks: int, wants_usage: bool) -> str | None:
    index = 0
    try:
        for line in body.split(b"\n\n")[:-1]:
            event = orjson.loads(line.partition(b"\ndata: ")[2])
            if event["type"] == "response.output_text.delta":
                if event["delta"] != piece(number, index):
                    return f"wrong chunk {event['delta']!r:.40} at {index} of a stream"
                index += 1
        if event["type"] != "response.completed" or index != chunks:
            return f"{index} of {chunks} chunks in a stream that ends with {body[-60:]!r}"
        if model and event["response"]["model"] != model:
            return f"model {event['response']['model']!r} in a stream"
        return _usage_fault(event["response"]["usage"], number)
    except (orjson.JSONDecodeError, LookupError, TypeError) as exc:
        return f"not an event ({exc!r:.60}): {line[:120]!r}"


def _usage_fault(counted: dict[str, Any], number: int) -> str | None:
    expected = usage(number)
    found = counted["input_tokens"], counted["output_tokens"]
    return None if found == (expected["prompt_tokens"], expected["completion_tokens"]) else f"wrong usage {found}"


def _same(chat: dict[str, Any]) -> dict[str, Any]:
    return chat


CHAT = Surface("/v1/chat/completions", _same, answer_fault, stream_fault)
SURFACES = {
    "chat": CHAT,
    "messages": Surface("/v1/messages", _messages_body, _message_fault, _message_stream_fault),
    "responses": Surface("/v1/responses", _responses_body, _response_fault, _response_stream_fault),
}
"""By the names that ``--surface`` takes."""

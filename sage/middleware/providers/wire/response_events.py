"""The stream that says what a whole response says, for an upstream that sends one where a stream was asked for.

Source: OpenAI's API reference (responses, *Streaming*).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from sage.middleware.providers.wire.json_values import objects, string

_CALLS = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}
_PARTS = {"output_text": ("text", "response.output_text"), "refusal": ("refusal", "response.refusal")}
_SUMMARY = "response.reasoning_summary"
Fields = dict[str, Any]


def response_events(answer: Mapping[str, Any]) -> bytes:
    """All events of ``answer``, a response with its ``output``."""
    begun = {**answer, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    events: list[tuple[str, Fields]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
    ]
    for index, item in enumerate(objects(answer.get("output"))):
        events += _item(index, item)
    end = "response.incomplete" if answer.get("status") == "incomplete" else "response.completed"
    events.append((end, {"response": dict(answer)}))
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, "sequence_number": number, **fields}))
        for number, (kind, fields) in enumerate(events)
    )


def _item(index: int, item: Fields) -> Iterator[tuple[str, Fields]]:
    kind, place = item.get("type"), {"output_index": index, "item_id": string(item.get("id"))}
    empty = {**item, "status": "in_progress"} if "status" in item else dict(item)
    for name in ("content", "summary"):
        if isinstance(item.get(name), list):
            empty[name] = []
    field, prefix = _CALLS.get(kind if isinstance(kind, str) else "", ("", ""))
    if field:
        empty[field] = ""
    yield "response.output_item.added", {"output_index": index, "item": empty}
    if field:
        yield f"{prefix}.delta", {**place, "delta": string(item.get(field))}
        of_function = {"name": item.get("name")} if field == "arguments" else {}
        yield f"{prefix}.done", {**place, field: string(item.get(field)), **of_function}
    for number, part in enumerate(objects(item.get("summary"))):
        yield from _summary({**place, "summary_index": number}, part)
    if kind == "message":
        for number, part in enumerate(objects(item.get("content"))):
            yield from _part({**place, "content_index": number}, part)
    yield "response.output_item.done", {"output_index": index, "item": item}


def _part(place: Fields, part: Fields) -> Iterator[tuple[str, Fields]]:
    field, prefix = _PARTS.get(string(part.get("type")), ("", ""))
    begun = dict(part)
    if field:
        begun[field] = ""
    if "annotations" in part:
        begun["annotations"] = []
    yield "response.content_part.added", {**place, "part": begun}
    if field:
        logprobs = {"logprobs": part.get("logprobs") or []} if field == "text" else {}
        yield f"{prefix}.delta", {**place, "delta": string(part.get(field)), **logprobs}
        for number, annotation in enumerate(objects(part.get("annotations"))):
            yield f"{prefix}.annotation.added", {**place, "annotation_index": number, "annotation": annotation}
        yield f"{prefix}.done", {**place, field: string(part.get(field)), **logprobs}
    yield "response.content_part.done", {**place, "part": part}


def _summary(place: Fields, part: Fields) -> Iterator[tuple[str, Fields]]:
    text = string(part.get("text"))
    yield f"{_SUMMARY}_part.added", {**place, "part": {**part, "text": ""}}
    yield f"{_SUMMARY}_text.delta", {**place, "delta": text}
    yield f"{_SUMMARY}_text.done", {**place, "text": text}
    yield f"{_SUMMARY}_part.done", {**place, "part": part}

"""A chat's stream of chunks as the events of a response.

Items come one after the other, each whole before the next one begins. Numbers of events have no gap.

Source: OpenAI's API reference (responses, *Streaming*).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sage.errors import SageError
from sage.middleware.gateway.tools.server_tool import ToolRun
from sage.middleware.gateway.vector_stores.citations import CitationStream
from sage.middleware.providers.wire.event_bytes import DONE
from sage.middleware.providers.wire.json_values import first_object, objects
from sage.middleware.providers.wire.messages import DeltaReader, finish_of, plain_text
from sage.middleware.providers.wire.repeated_events import HasShape, in_runs
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.providers.wire.tool_calls import CallFragment, ToolCall
from sage.middleware.routers.openai.responses import resource
from sage.middleware.routers.openai.responses.request import ENCRYPTED, ResponsesRequest
from sage.middleware.routers.openai.responses.run_events import RunEvents
from sage.middleware.routers.openai.responses.text_deltas import TextDeltas
from sage.middleware.routers.openai.responses.writer import EventWriter

Keep = Callable[[dict[str, Any]], Awaitable[None]]
"""Keeps a response that is complete, before its last event is sent."""


class _OpenItem:
    """An item of text that goes on: a message, or reasoning."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.parts: list[dict[str, Any]] = []
        """The parts that are whole."""
        self.part: str | None = None
        """The type of the part that goes on."""
        self.texts: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self.blocks: list[dict[str, Any]] = []
        self.citing: CitationStream | None = None
        """Takes the marks of citations out of the part of text that goes on."""
        self.annotations: list[dict[str, Any]] = []
        """Those of that part."""

    @property
    def is_one_text(self) -> bool:
        """Whether it is a message that has nothing but a text which goes on."""
        return self.is_plain_text and not self.parts and not self.logprobs

    @property
    def is_plain_text(self) -> bool:
        """Whether the part that goes on is a text without citations."""
        return self.part == "output_text" and self.citing is None


class ChatStreamEvents:
    """The events that the chunks of one chat add to a response."""

    def __init__(
        self,
        request: ResponsesRequest,
        writer: EventWriter,
        keep: Keep | None = None,
        found: Sequence[Mapping[str, Any]] | None = None,
        find_run: Callable[[str], ToolRun | None] = lambda _: None,
        lists: Sequence[dict[str, Any]] = (),
        sender: HasShape | None = None,
    ) -> None:
        """``found`` are passages of files that the text may cite, and may become more; ``find_run`` finds a run of a
        tool of the gateway by its id; ``lists`` are items that come first; ``sender`` is who sends the chunks, if it
        does so by their shape."""
        self._request = request
        self._found = found
        self._find_run = find_run
        self._runs = RunEvents(request, writer)
        self._lists = list(lists)
        self._writer = writer
        self._keep = keep
        self._deltas = TextDeltas(writer)
        self._sender = sender
        self._reader = DeltaReader()
        self._open: _OpenItem | None = None
        self._call: ToolCall | None = None
        """The call that goes on."""
        self._waiting: list[ToolCall] = []
        """Calls that have not begun as items."""
        self._begun: set[ToolCall] = set()
        self._has_begun = False
        self.finish: str | None = None
        self.usage: Any = None
        self._tier: Any = None

    def translate(self, events: bytes) -> bytes:
        """The complete chat ``events`` as those of the response."""
        deltas = self._deltas
        if deltas.shape is not None:
            texts = deltas.shape.texts_sent(self._sender, events)
            if texts is not None:
                return deltas.write(texts)
        return self._begin() + in_runs(events, deltas, deltas.write, self._translated)

    def _translated(self, event: bytes) -> bytes:
        """One event that is like none before."""
        if event == DONE:
            return b""
        before, translated = self._open, b""
        for chunk in payloads(event):
            if isinstance(chunk, dict):
                translated += self._chunk(chunk)
                item = self._open  # the event that opens one is mostly like no other one
                if translated and item is not None and item is before and item.is_plain_text:
                    self._deltas.learn(event, chunk, item.name, len(item.parts), item.texts)
        return translated

    def end(self) -> bytes | Awaitable[bytes]:
        """The last events of a complete answer; it is kept first where it is to be."""
        last = self.close()
        writer = self._writer
        resource.ended(writer.response, writer.output, self.finish, self.usage, self._tier)
        return last + writer.last() if self._keep is None else self._kept(self._keep, last)

    async def _kept(self, keep: Keep, last: bytes) -> bytes:
        await keep(self._writer.response)
        return last + self._writer.last()

    def close(self) -> bytes:
        """Ends what is open at the end of the chat."""
        status = "incomplete" if self.finish in ("length", "content_filter") else "completed"
        last = self._begin() + self._begin_waiting(status)
        if not self._writer.output and self._open is None and self._call is None:
            last += self._text("output_text", "", [])
        return last + self._close(status)

    def error_event(self, error: SageError) -> bytes:
        """The last event of a response that broke."""
        writer = self._writer
        resource.failed(writer.response, writer.output, error)
        return self._begin() + writer.last()

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        return self._writer.begin() + self._runs.lists(self._lists)

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        self._tier = chunk.get("service_tier") or self._tier
        events = self._ran(chunk["tool_runs"]) if "tool_runs" in chunk else b""
        choices = chunk.get("choices")
        if not choices:
            return events
        choice = first_object(choices)
        if choice.get("finish_reason"):
            self.finish = finish_of(choice)
        delta = choice.get("delta")
        if not delta or not isinstance(delta, dict):
            return events
        text = plain_text(delta) if not choice.get("logprobs") else None
        if text is None:
            return events + self._delta(delta, choice)
        return events + self._text("output_text", text, []) if text else events

    def _ran(self, runs: Any) -> bytes:
        """What has become of runs of the gateway's tools."""
        events = self._close("completed")
        for entry in objects(runs):
            run = self._find_run(str(entry.get("id")))
            if run is not None:
                events += self._runs.changed(run)
        return events

    def _delta(self, delta: dict[str, Any], choice: dict[str, Any]) -> bytes:
        read, events = self._reader.read(delta), b""
        blocks = objects(delta.get("thinking_blocks")) if "thinking_blocks" in delta else []
        if read.reasoning or blocks:
            events += self._reasoning(read.reasoning, blocks)
        logprobs = resource.logprob_list(choice["logprobs"]) if choice.get("logprobs") else []
        if read.text or (logprobs and isinstance(delta.get("content"), str)):
            events += self._text("output_text", read.text, logprobs)
        if read.refusal and read.refusal != read.text:
            events += self._text("refusal", read.refusal, [])
        for fragment in read.calls:
            events += self._fragment(fragment)
        return events

    def _place(self, item: _OpenItem) -> dict[str, Any]:
        return {"item_id": item.name, "output_index": len(self._writer.output)}

    def _part_place(self, item: _OpenItem) -> dict[str, Any]:
        return {**self._place(item), "content_index": len(item.parts)}

    def _reasoning(self, text: str, blocks: list[dict[str, Any]]) -> bytes:
        item, events = self._open, b""
        if item is None or item.kind != "reasoning":
            events = self._close("completed")
            item = self._open = _OpenItem("reasoning", self._name("rs"))
            events += self._writer.added({"id": item.name, "type": "reasoning", "summary": [], "content": []})
        item.blocks += blocks
        if not text:
            return events
        place, summarised = self._place(item), self._request.summarised
        index = {"summary_index": 0} if summarised else {"content_index": 0}
        if item.part is None:
            item.part = "summary_text" if summarised else "reasoning_text"
            added = "reasoning_summary_part" if summarised else "content_part"
            events += self._writer.event(f"response.{added}.added", **place, **index, part=_text_of(item.part, ""))
        item.texts.append(text)
        kind = "reasoning_summary_text" if summarised else "reasoning_text"
        return events + self._writer.event(f"response.{kind}.delta", **place, **index, delta=text)

    def _text(self, kind: str, text: str, logprobs: list[dict[str, Any]]) -> bytes:
        item, events = self._open, b""
        if item is None or item.kind != "message":
            events = self._close("completed")
            item = self._open = _OpenItem("message", self._name("msg"))
            if kind == "output_text" and self._found is None:  # as nearly all do
                item.part = kind
                events += self._writer.text_begun(item.name)
            else:
                events += self._writer.added(resource.message_item(item.name, [], "in_progress"))
        if item.part != kind:
            events += self._end_part(item)
            item.part = kind
            item.citing = CitationStream(self._found) if self._found is not None else None
            part = resource.text_part("") if kind == "output_text" else resource.refusal_part("")
            place = self._part_place(item)
            events += self._writer.event("response.content_part.added", **place, part=part)
        if not text and not logprobs:
            return events
        if item.citing is None and not logprobs and kind == "output_text":
            item.texts.append(text)
            return events + self._writer.text_delta(item.name, len(item.parts), text)
        if kind == "refusal":
            item.texts.append(text)
            return events + self._writer.event("response.refusal.delta", **self._part_place(item), delta=text)
        if item.citing is None:
            return events + self._text_delta(item, text, [], logprobs)
        return events + self._text_delta(item, *item.citing.feed(text), logprobs)

    def _text_delta(
        self, item: _OpenItem, text: str, annotations: list[dict[str, Any]], logprobs: list[dict[str, Any]]
    ) -> bytes:
        """More of the text that goes on, and what it cites."""
        event, events = self._writer.event, b""
        place = self._part_place(item)
        if text or logprobs:
            item.texts.append(text)
            item.logprobs += logprobs
            events = event("response.output_text.delta", **place, delta=text, logprobs=logprobs)
        for annotation in annotations:
            number = len(item.annotations)
            kind = "response.output_text.annotation.added"
            events += event(kind, **place, annotation_index=number, annotation=annotation)
            item.annotations.append(annotation)
        return events

    def _end_part(self, item: _OpenItem) -> bytes:
        """Ends the part of ``item`` that goes on."""
        kind, rest = item.part, b""
        if kind is None:
            return b""
        self._deltas.forget()
        if item.citing is not None:
            rest, item.citing = self._text_delta(item, *item.citing.end(), []), None
        text, item.part, item.texts = "".join(item.texts), None, []
        place, event = self._place(item), self._writer.event
        if kind == "summary_text":
            place, part = {**place, "summary_index": 0}, _text_of(kind, text)
            ended = event("response.reasoning_summary_text.done", **place, text=text)
            ended += event("response.reasoning_summary_part.done", **place, part=part)
            item.parts.append(part)
            return ended
        place = {**place, "content_index": len(item.parts)}
        if kind == "reasoning_text":
            part = _text_of(kind, text)
            ended = event("response.reasoning_text.done", **place, text=text)
        elif kind == "refusal":
            part = resource.refusal_part(text)
            ended = event("response.refusal.done", **place, refusal=text)
        else:
            part = {**resource.text_part(text, item.logprobs), "annotations": item.annotations}
            ended = event("response.output_text.done", **place, text=text, logprobs=item.logprobs)
            item.annotations, item.logprobs = [], []
        item.parts.append(part)
        return rest + ended + event("response.content_part.done", **place, part=part)

    def _close(self, status: str) -> bytes:
        """Ends the item that goes on."""
        item, call = self._open, self._call
        if item is not None:
            text = "".join(item.texts)
            if item.is_one_text:
                self._open = None
                self._deltas.forget()
                return self._writer.text_ended(item.name, text, status)
            events, self._open = self._end_part(item), None
            if item.kind == "message":
                return events + self._writer.done(resource.message_item(item.name, item.parts, status))
            encrypted = ENCRYPTED in self._request.include
            thought = resource.reasoning_item(
                item.name, text, item.blocks, summarised=self._request.summarised, encrypted=encrypted
            )
            return events + self._writer.done(thought)
        if call is not None:
            self._call = None
            return self._end_call(call, status)
        return b""

    def _fragment(self, fragment: CallFragment) -> bytes:
        """A call begins with its first arguments, or when there is more of a later one, and that waits until this one
        is whole."""
        call = fragment.call
        if fragment.starts:
            self._waiting.append(call)
        if not fragment.arguments:
            return b""
        events = self._arguments(call, fragment.arguments) if call in self._begun else b""
        while self._waiting and self._waiting[0].name and (self._call is None or self._call.complete):
            events += self._begin_call(self._waiting[0])
        return events

    def _begin_call(self, call: ToolCall) -> bytes:
        events = self._close("completed")
        self._waiting.remove(call)
        self._call = call
        self._begun.add(call)
        tool, number = self._request.tools.of(call.name), len(self._writer.output)
        item = resource.call_item(self._writer.response["id"], number, tool, call.id, "", "in_progress")
        return events + self._writer.added(item) + self._arguments(call, call.arguments)

    def _arguments(self, call: ToolCall, arguments: str) -> bytes:
        tool = self._request.tools.of(call.name)
        if not arguments or tool.kind == "custom":  # whose input is known once its JSON is whole
            return b""
        place = {"item_id": self._name("fc"), "output_index": len(self._writer.output)}
        return self._writer.event("response.function_call_arguments.delta", **place, delta=arguments)

    def _end_call(self, call: ToolCall, status: str) -> bytes:
        tool, number, event = self._request.tools.of(call.name), len(self._writer.output), self._writer.event
        arguments = call.arguments or ("" if tool.kind == "custom" else "{}")
        item = resource.call_item(self._writer.response["id"], number, tool, call.id, arguments, status)
        place = {"item_id": item["id"], "output_index": number}
        if tool.kind == "custom":
            kind, text = "response.custom_tool_call_input", item["input"]
            events = event(f"{kind}.delta", **place, delta=text) if text else b""
            return events + event(f"{kind}.done", **place, input=text) + self._writer.done(item)
        kind = "response.function_call_arguments"
        events = b"" if call.arguments else event(f"{kind}.delta", **place, delta=arguments)
        events += event(f"{kind}.done", **place, name=tool.name, arguments=arguments)
        return events + self._writer.done(item)

    def _begin_waiting(self, status: str) -> bytes:
        """The calls that are left at the end of the answer; the last ones may have no arguments."""
        return b"".join([self._begin_call(call) for call in tuple(self._waiting)])

    def _name(self, prefix: str) -> str:
        return resource.item_id(prefix, self._writer.response["id"], len(self._writer.output))


def _text_of(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": text}

"""Google's stream of answers as OpenAI's chunks, event by event.

Source: Google's API reference (``models.streamGenerateContent`` with ``alt=sse``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import SageError
from sage.middleware.providers.gemini.answer import blocked, finish_reason, grounding, logprobs, read_parts
from sage.middleware.providers.gemini.usage import read_usage
from sage.middleware.providers.wire.errors import reported_error
from sage.middleware.providers.wire.event_bytes import cut_off
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.translated_stream import TranslatedStream

_MOST_CANDIDATES = 64


class GeminiRelay(TranslatedStream):
    """The relay of one chat stream.

    Google's streams have no last event: an answer is whole when each candidate has said why it ended and the stream
    has come to its clean end.
    """

    def __init__(self, model: str, *, keep_usage: bool, candidates: int, on_error: Callable[[Any], SageError]) -> None:
        """``candidates`` is how many have to end."""
        super().__init__(model, keep_usage=keep_usage, on_error=on_error)
        self._wanted = candidates
        self._candidates: dict[int, _Candidate] = {}

    def _event(self, event: Any) -> bytes:
        answers = event if isinstance(event, list) else [event]  # all at once, without alt=sse
        return b"".join([self._answer(each) for each in answers if isinstance(each, dict)])

    def _answer(self, event: dict[str, Any]) -> bytes:
        if (error := reported_error(event)) is not None:
            raise self._on_error(error)
        self.usage = read_usage(event.get("usageMetadata")) or self.usage
        if refusal := blocked(event):
            candidate = self._candidates.setdefault(0, _Candidate())
            candidate.finish, candidate.last_delta = "content_filter", {"refusal": refusal}
        pieces = []
        for place, each in enumerate(objects(event.get("candidates"))):
            index = each.get("index")
            number = index if type(index) is int and 0 <= index < _MOST_CANDIDATES else min(place, _MOST_CANDIDATES - 1)
            pieces.append(self._candidate(number, each))
        return b"".join(pieces)

    def _ended(self) -> bytes:
        ended = [candidate for candidate in self._candidates.values() if candidate.finish]
        if len(ended) < self._wanted or len(ended) < len(self._candidates):
            raise cut_off()
        rest = b""
        for index, candidate in sorted(self._candidates.items()):
            rest += self._delta(candidate.last_delta, candidate.finish, index)
        self.finished = True
        counted = dict(self.usage.reported) if self.usage is not None and self.usage.reported is not None else None
        return rest + self._writer.done(self.usage, counted)

    def _candidate(self, index: int, event: dict[str, Any]) -> bytes:
        candidate, read = self._candidates.setdefault(index, _Candidate()), read_parts(event)
        delta = {**read.fields("".join(candidate.thoughts)), **grounding(event)}
        if read.text:
            delta["content"] = read.text
        if "thinking_blocks" in delta:  # a later signature is not for them
            candidate.thoughts.clear()
        elif read.reasoning:
            candidate.thoughts.append(read.reasoning)
        if read.calls:
            delta["tool_calls"] = [{"index": candidate.calls + n, **call} for n, call in enumerate(read.calls)]
            candidate.calls += len(read.calls)
        finish = finish_reason(event, has_calls=candidate.calls > 0)
        if finish is not None:
            candidate.finish = finish
            if finish == "content_filter" and string(event.get("finishMessage")):
                candidate.last_delta = {"refusal": event["finishMessage"]}
        chances = logprobs(event)
        fields = {} if chances is None else {"logprobs": chances}
        return self._delta(delta, None, index, **fields) if delta or fields else b""


class _Candidate:
    """One candidate so far."""

    __slots__ = ("calls", "finish", "last_delta", "thoughts")

    def __init__(self) -> None:
        self.calls = 0
        self.finish = ""
        self.last_delta: dict[str, Any] = {}
        self.thoughts: list[str] = []

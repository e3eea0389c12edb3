"""A conversation with one model: what was said, and the next answer as it arrives."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage.middleware.client.connection import Client


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer. ``reasoning`` tells that the model thinks aloud, which is not part of what it says."""

    text: str
    reasoning: bool = False


@dataclass
class Conversation:
    """The turns so far, without those that failed."""

    client: Client
    model: str
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request, such as ``temperature``."""
    cut: bool = False
    """The last answer ended because it reached its limit of tokens."""
    _turns: list[dict[str, str]] = field(default_factory=list)

    def ask(self, message: str) -> Generator[Piece]:
        """The answer to ``message``, piece by piece.

        A caller that stops early keeps what has arrived as the answer. A turn that brought nothing is forgotten.
        """
        turn = {"role": "user", "content": message}
        said: list[str] = []
        self.cut = False
        try:
            for piece in self._stream(turn):
                if not piece.reasoning:
                    said.append(piece.text)
                yield piece
        finally:
            if said:
                self._turns += [turn, {"role": "assistant", "content": "".join(said)}]

    def clear(self) -> None:
        """Forgets all turns. The system prompt stays."""
        self._turns.clear()

    def _stream(self, turn: dict[str, str]) -> Generator[Piece]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        body = {"model": self.model, "messages": [*system, *self._turns, turn], "stream": True, **self.options}
        for event in self.client.events("/v1/chat/completions", body):
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                if delta.get("reasoning_content"):
                    yield Piece(delta["reasoning_content"], reasoning=True)
                if delta.get("content"):
                    yield Piece(delta["content"])
                self.cut = self.cut or choice.get("finish_reason") == "length"

"""A whole answer gathered from the chunks of a stream, for an upstream that streams where it was asked not to."""

from __future__ import annotations

from typing import Any

from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.messages import REASONING, DeltaReader
from sage.middleware.providers.wire.tool_calls import LEGACY, ToolCall

_READ = frozenset({"role", "content", "refusal", "tool_calls", LEGACY, *REASONING})
"""The fields of a delta that the reader reads; others are the server's own (``citations``)."""
_NAMES = frozenset({"id", "type", "name", "format"})
"""Fields of the server's own whose text comes whole each time."""


class AnswerGathering:
    """Takes the parsed chunks of one stream of a chat, or of ``completions``, then makes the whole answer.

    Whether the stream was whole is for the caller to judge.
    """

    def __init__(self, *, chat: bool) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._chat = chat

    def add(self, chunk: Any) -> None:
        """Takes one chunk; what is no object is ignored."""
        if not isinstance(chunk, dict):
            return
        self._head.update((name, value) for name, value in chunk.items() if name != "choices" and value is not None)
        for choice in objects(chunk.get("choices")):
            index = choice.get("index")
            number = index if type(index) is int else 0
            if number not in self._choices:
                self._choices[number] = _Choice(number, self._chat)
            self._choices[number].add(choice)

    def answer(self) -> dict[str, Any]:
        """The whole answer in OpenAI's shape."""
        choices = [choice.whole() for _, choice in sorted(self._choices.items())]
        return {**self._head, "object": "chat.completion" if self._chat else "text_completion", "choices": choices}


class _Choice:
    """One choice of the answer so far."""

    def __init__(self, index: int, chat: bool) -> None:
        self._chat = chat
        self._finish_reason: str | None = None
        self._index = index
        self._reader = DeltaReader()
        self._texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
        self._others: dict[str, Any] = {}
        """The server's own fields beside the text."""
        self._fields: dict[str, Any] = {}
        """The fields beside the delta."""
        self._legacy = False

    def add(self, choice: dict[str, Any]) -> None:
        value = choice.get("finish_reason")
        self._finish_reason = value if value and isinstance(value, str) else self._finish_reason
        delta = choice.get("delta") if self._chat else choice
        added = self._reader.read(delta)
        for name, part in zip(self._texts, (added.text, added.reasoning, added.refusal), strict=True):
            self._texts[name].append(part)
        beside = {"index", "finish_reason", "delta", "text", *(() if self._chat else REASONING)}
        _merge(self._fields, {name: value for name, value in choice.items() if name not in beside})
        if isinstance(delta, dict) and self._chat:
            self._legacy = self._legacy or (bool(delta.get(LEGACY)) and not delta.get("tool_calls"))
            _merge(self._others, {name: value for name, value in delta.items() if name not in _READ}, joins=True)

    def whole(self) -> dict[str, Any]:
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        choice = {"index": self._index, "logprobs": None, **self._fields, "finish_reason": self._finish_reason}
        reasoning = {"reasoning_content": texts["reasoning_content"]} if texts["reasoning_content"] else {}
        if not self._chat:
            return {**choice, "text": texts["content"], **reasoning}
        calls = self._reader.calls
        content: str | None = texts["content"]
        if not content and (calls or texts["refusal"] or self._finish_reason == "content_filter"):
            content = None
        message = {"role": "assistant", "content": content, "refusal": texts["refusal"] or None, **reasoning}
        message |= self._others | self._calls(calls)
        return {**choice, "message": message}

    def _calls(self, calls: list[ToolCall]) -> dict[str, Any]:
        if not calls:
            return {}
        whole = [call.as_openai() for call in calls]
        return {LEGACY: whole[0]["function"]} if self._legacy else {"tool_calls": whole}


def _merge(gathered: dict[str, Any], fields: dict[str, Any], *, joins: bool = False) -> None:
    """Adds ``fields`` to those ``gathered``: lists and objects go on, and texts if it ``joins``."""
    for name, value in fields.items():
        before = gathered.get(name)
        if value is None:
            gathered.setdefault(name, None)
        elif isinstance(before, list) and isinstance(value, list):
            gathered[name] = before + value
        elif joins and isinstance(before, str) and isinstance(value, str):
            gathered[name] = value if name in _NAMES else before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            gathered[name] = dict(before)
            _merge(gathered[name], value, joins=joins)
        else:
            gathered[name] = value

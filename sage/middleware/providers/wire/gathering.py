"""A whole answer gathered from the chunks of a stream, for an upstream that streams where it was asked not to."""

from __future__ import annotations

from typing import Any

from sage.middleware.providers.wire.messages import REASONING, DeltaReader
from sage.middleware.providers.wire.tool_calls import LEGACY, ToolCall

_READ = frozenset({"role", "content", "refusal", "tool_calls", LEGACY, *REASONING})
"""The fields of a delta that the reader reads; others are the server's own (``citations``)."""


class AnswerGathering:
    """Takes the parsed chunks of one stream of chat or ``completions``, then makes the whole answer.

    ``finished`` tells whether every choice so far has a ``finish_reason``. Whether the stream itself was whole is for
    the caller to judge.
    """

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._chat = True

    def add(self, chunk: Any) -> None:
        """Takes one chunk; what is no object is ignored."""
        if not isinstance(chunk, dict):
            return
        self._head.update((name, value) for name, value in chunk.items() if name != "choices" and value is not None)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            self._chat = self._chat and "text" not in choice
            index = choice.get("index")
            number = index if type(index) is int else 0
            self._choices.setdefault(number, _Choice(number)).add(choice)

    @property
    def finished(self) -> bool:
        """Whether there is a choice, and every one has ended."""
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    def answer(self) -> dict[str, Any]:
        """The whole answer in OpenAI's shape."""
        choices = [choice.whole(chat=self._chat) for _, choice in sorted(self._choices.items())]
        return {**self._head, "object": "chat.completion" if self._chat else "text_completion", "choices": choices}


class _Choice:
    """One choice of the answer so far."""

    def __init__(self, index: int) -> None:
        self.finish_reason: str | None = None
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
        self.finish_reason = value if value and isinstance(value, str) else self.finish_reason
        text = "text" in choice
        delta = choice if text else choice.get("delta", choice.get("message"))
        added = self._reader.read(delta)
        for name, part in zip(self._texts, (added.text, added.reasoning, added.refusal), strict=True):
            self._texts[name].append(part)
        beside = {"index", "finish_reason", "delta", "message", "text", *(REASONING if text else ())}
        _merge(self._fields, {name: value for name, value in choice.items() if name not in beside})
        if isinstance(delta, dict) and not text:
            self._legacy = self._legacy or (bool(delta.get(LEGACY)) and not delta.get("tool_calls"))
            _merge(self._others, {name: value for name, value in delta.items() if name not in _READ})

    def whole(self, *, chat: bool) -> dict[str, Any]:
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        choice = {"index": self._index, "logprobs": None, **self._fields, "finish_reason": self.finish_reason}
        reasoning = {"reasoning_content": texts["reasoning_content"]} if texts["reasoning_content"] else {}
        if not chat:
            return {**choice, "text": texts["content"], **reasoning}
        calls = self._reader.calls
        content: str | None = texts["content"]
        if not content and (calls or texts["refusal"] or self.finish_reason == "content_filter"):
            content = None
        message = {"role": "assistant", "content": content, "refusal": texts["refusal"] or None, **reasoning}
        message |= self._others | self._calls(calls)
        return {**choice, "message": message}

    def _calls(self, calls: list[ToolCall]) -> dict[str, Any]:
        if not calls:
            return {}
        whole = [call.as_openai() for call in calls]
        return {LEGACY: whole[0]["function"]} if self._legacy else {"tool_calls": whole}


def _merge(gathered: dict[str, Any], fields: dict[str, Any]) -> None:
    """Adds ``fields`` to those ``gathered``: lists and objects go on, of other values the last counts."""
    for name, value in fields.items():
        before = gathered.get(name)
        if value is None:
            gathered.setdefault(name, None)
        elif isinstance(before, list) and isinstance(value, list):
            gathered[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            gathered[name] = dict(before)
            _merge(gathered[name], value)
        else:
            gathered[name] = value

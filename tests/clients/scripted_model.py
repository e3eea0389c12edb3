"""The model behind the gateway in the tests of whole programs: it calls one tool, then it is done.

It is asked over OpenAI's chat wire, whatever wire the program speaks to the gateway.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from upstream import Received, Script, openai_like, reply, stream, usage

DONE = "All done, said the scripted model."

ChooseCall = Callable[[Sequence[str]], tuple[str, dict[str, Any]] | None]
"""Given the names of the tools that the program offers, which one to call with what arguments; ``None`` means none."""


@dataclass
class ScriptedModel:
    """A handler for :class:`upstream.Upstream`."""

    choose: ChooseCall
    text: str = DONE
    """What it says where it calls no tool."""
    results: list[str] = field(default_factory=list)
    """What the programs sent back as results of its calls."""
    offered: list[str] = field(default_factory=list)
    """The tools that were offered with its last call."""

    def __call__(self, request: Received) -> Script:
        if request.path != "/v1/chat/completions":
            return openai_like(request)
        body = request.body
        messages = body["messages"]
        results = [message for message in messages if message["role"] == "tool"]
        names = [tool["function"]["name"] for tool in body.get("tools") or ()]
        call = self.choose(names) if names and not results else None
        if results:
            self.results.append(_text(results[-1]["content"]))
        if call is None:
            return self._answer(body, {"content": self.text}, "stop")
        self.offered = names
        function = {"name": call[0], "arguments": json.dumps(call[1])}
        called = {"id": "call_scripted_1", "type": "function", "function": function}
        return self._answer(body, {"content": None, "tool_calls": [called]}, "tool_calls")

    @staticmethod
    def _answer(body: dict[str, Any], message: dict[str, Any], finish: str) -> Script:
        head = {"id": "chatcmpl-scripted", "created": 1_760_000_000, "model": body["model"]}
        counted = usage(50, 10)
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
            return reply({**head, "object": "chat.completion", "choices": [choice], "usage": counted})
        calls = [{"index": i, **call} for i, call in enumerate(message.get("tool_calls") or ())]
        delta = {"role": "assistant", "content": message["content"], **({"tool_calls": calls} if calls else {})}
        chunk = {**head, "object": "chat.completion.chunk"}
        events: list[Any] = [
            {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
            {**chunk, "choices": [], "usage": counted},
        ]
        return stream(events)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

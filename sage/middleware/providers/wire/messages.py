"""What a message or a delta of OpenAI's wire says: the one reader of text, reasoning, refusal and calls of tools.

Every surface and every adapter reads through it, so that what one of them understands all of them do.

Source: OpenAI's API reference (chat/completions), and the fields of other servers of its wire: ``reasoning_content``
(DeepSeek), ``reasoning`` (vLLM, OpenRouter), ``content`` as parts, also of ``thinking`` (Mistral).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sage.middleware.providers.wire.tool_calls import LEGACY, CallFragment, ToolCall, ToolCalls, whole_calls

REASONING = ("reasoning_content", "reasoning", "thinking")
"""The names under which servers send reasoning; the first is the gateway's own."""
_BESIDE_TEXT = frozenset({"tool_calls", LEGACY, "thinking_blocks", *REASONING})
"""What may say more than the text beside which it stands; so may ``refusal``, which at OpenAI's is mostly null."""

_FINISH_REASONS = {
    "stop": "stop eos eos_token eos_found end_turn stop_sequence complete end finish_reason_stop",
    "length": "length max_tokens max_length max_output_tokens model_length model_context_window_exceeded",
    "tool_calls": "tool_calls tool_call tool_use",
    "content_filter": "content_filter content_filtered safety recitation prohibited_content blocklist sensitive "
    "refusal guardrail_intervened",
    "function_call": "function_call",
}
_FINISH_OF = {name: finish for finish, names in _FINISH_REASONS.items() for name in names.split()}
"""OpenAI's ``finish_reason`` for that of other servers, in small letters.

Sources: the references of Anthropic, Google (Gemini), Mistral, Together, Cohere, Zhipu and Amazon Bedrock.
"""


class Message(NamedTuple):
    """A whole message."""

    text: str
    reasoning: str
    refusal: str
    calls: list[ToolCall]

    @property
    def shown(self) -> str:
        """The text, and the refusal where a surface has no field for it."""
        return _shown(self.text, self.refusal) if self.refusal else self.text


class Delta(NamedTuple):
    """What one delta adds."""

    text: str
    reasoning: str
    refusal: str
    calls: Sequence[CallFragment]

    @property
    def shown(self) -> str:
        """The text, and the refusal where a surface has no field for it."""
        return _shown(self.text, self.refusal) if self.refusal else self.text


def plain_text(message: Mapping[str, Any]) -> str | None:
    """The text of a message, or of a delta, that says nothing else, as most do; ``None`` for another one."""
    content = message.get("content")
    if type(content) is str and _BESIDE_TEXT.isdisjoint(message) and message.get("refusal") is None:
        return content
    return None


def read_message(message: Any) -> Message:
    """What the ``message`` of a choice says, or a choice of ``completions``; nothing if it is no object."""
    if not isinstance(message, dict):
        return Message("", "", "", [])
    plain = plain_text(message)
    if plain is not None:
        return Message(plain, "", "", [])
    text, reasoning, refusal = _texts(message)
    has_calls = message.get("tool_calls") or message.get(LEGACY)
    return Message(text, reasoning, refusal, whole_calls(message) if has_calls else [])


class DeltaReader:
    """Reads the deltas of one choice in turn, and gathers its calls in ``calls``."""

    def __init__(self) -> None:
        self._calls = ToolCalls()

    @property
    def calls(self) -> list[ToolCall]:
        """The calls so far."""
        return self._calls.calls

    def read(self, delta: Any) -> Delta:
        """What ``delta`` adds: the one of a chat's chunk, or a choice of ``completions``."""
        if not isinstance(delta, dict):
            return Delta("", "", "", ())
        plain = plain_text(delta)
        if plain is not None:
            return Delta(plain, "", "", ())
        text, reasoning, refusal = _texts(delta)
        calls: Sequence[CallFragment] = ()
        if delta.get("tool_calls"):
            calls = self._calls.add(delta["tool_calls"])
        elif delta.get(LEGACY):
            calls = self._calls.add_legacy(delta[LEGACY])
        return Delta(text, reasoning, refusal, calls)


def finish_of(choice: Mapping[str, Any]) -> str | None:
    """Why a choice ended, in OpenAI's words where they have one for it; ``None`` if it has not, or does not say.

    Gemini says more after a colon (``content_filter: PROHIBITED_CONTENT``).
    """
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        return None
    known = _FINISH_OF.get(reason)
    return known or _FINISH_OF.get(reason.lower().partition(":")[0], reason) or None


def flat_content(content: list[Any]) -> tuple[str, str] | None:
    """The text and the refusal in a ``content`` of parts; ``None`` if it has parts that are neither, nor thinking."""
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in ("text", "output_text", "thinking", "refusal"):
            return None
    return _parts(content, "text"), _parts(content, "refusal")


def content_of(message: Mapping[str, Any]) -> Any:
    """The ``content`` of an assistant's earlier message, or its refusal, for vendors that have no field for that."""
    content, refusal = message.get("content"), message.get("refusal")
    return refusal if not content and refusal and isinstance(refusal, str) else content


def reasoning_of(message: Mapping[str, Any]) -> str:
    """The reasoning in a message or delta, under whatever name."""
    for name in REASONING:
        text = message.get(name)
        if text and isinstance(text, str):
            return text
    content = message.get("content")
    return _parts(content, "thinking") if isinstance(content, list) else ""


def text_of(content: Any) -> str:
    """The text of a ``content``, which some servers send as parts."""
    if isinstance(content, str):
        return content
    return _parts(content, "text") if isinstance(content, list) else ""


def _texts(message: dict[str, Any]) -> tuple[str, str, str]:
    """``(text, reasoning, refusal)``."""
    content = message.get("content") if "content" in message else message.get("text")
    refusal = message.get("refusal")
    if not isinstance(refusal, str):
        refusal = _parts(content, "refusal") if isinstance(content, list) else ""
    return text_of(content), reasoning_of(message), refusal


def _parts(parts: list[Any], kind: str) -> str:
    """The texts of the parts of that kind; the ``thinking`` of a part may be parts, too."""
    texts = []
    for part in parts:
        value = part.get(kind) if isinstance(part, dict) else None
        if isinstance(value, list):
            value = _parts(value, "text")
        if isinstance(value, str):
            texts.append(value)
    return "".join(texts)


def _shown(text: str, refusal: str) -> str:
    return text if text == refusal else text + refusal

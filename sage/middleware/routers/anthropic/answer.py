"""An answer of OpenAI's chat as a message of Anthropic's: pure functions.

Source: Anthropic's API reference (*Messages*: the message object, stop reasons, usage).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sage.errors import UpstreamFailed
from sage.middleware.providers.token_details import token_details
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.messages import Message, finish_of, plain_text, read_message
from sage.middleware.providers.wire.sse import read_usage
from sage.middleware.providers.wire.tool_calls import ToolCall, arguments_object

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def message(chat: Mapping[str, Any], stops: Sequence[str], estimated: tuple[int, int]) -> dict[str, Any]:
    """The message for a whole answer. ``stops`` are the caller's ``stop_sequences``, ``estimated`` the tokens of the
    prompt and of the answer, for an upstream that has counted none.

    Raises :class:`UpstreamFailed` for a call of a tool whose arguments are no object.
    """
    choice = chat["choices"][0] if chat["choices"] else {"message": {}}
    sent, finish = choice.get("message"), finish_of(choice)
    text = plain_text(sent) if type(sent) is dict else None
    if text:  # nearly every one
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        reason, stop = stop_reason(finish, choice, stops) if stops or finish != "stop" else ("end_turn", None)
    else:
        said = read_message(sent)
        content = _content(said, sent, cut=finish == "length")
        reason, stop = stop_reason(finish, choice, stops, calls=bool(said.calls), refusal=said.refusal)
    return {
        "id": message_id(chat.get("id")),
        "type": "message",
        "role": "assistant",
        "model": chat.get("model"),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": stop,
        "usage": usage(chat.get("usage"), estimated),
    }


def _content(said: Message, sent: Any, *, cut: bool) -> list[dict[str, Any]]:
    blocks = thinking_blocks(sent, said.reasoning)
    if said.shown:
        blocks.append({"type": "text", "text": said.shown})
    blocks += [tool_use(call, _input(call, cut=cut)) for call in said.calls]
    return blocks


def thinking_blocks(sent: Any, reasoning: str) -> list[dict[str, Any]]:
    """The blocks of thinking in a message: with their signatures where it has these, else all ``reasoning`` in one."""
    signed = objects(sent.get("thinking_blocks")) if isinstance(sent, dict) and "thinking_blocks" in sent else []
    blocks: list[dict[str, Any]] = []
    for block in signed:
        if block.get("type") == "redacted_thinking" and isinstance(block.get("data"), str):
            blocks.append({"type": "redacted_thinking", "data": block["data"]})
        elif isinstance(block.get("thinking"), str):
            signature = block.get("signature")
            blocks.append(thinking(block["thinking"], signature if isinstance(signature, str) else ""))
    if reasoning and not any(block["type"] == "thinking" for block in blocks):
        blocks.insert(0, thinking(reasoning, ""))
    return blocks


def thinking(text: str, signature: str) -> dict[str, Any]:
    """A block of thinking; what another vendor's model thought has an empty signature."""
    return {"type": "thinking", "thinking": text, "signature": signature}


def tool_use(call: ToolCall, arguments: dict[str, Any]) -> dict[str, Any]:
    """The block for a call of a tool."""
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _input(call: ToolCall, *, cut: bool) -> dict[str, Any]:
    """What a tool is called with. Of a call that the limit on tokens has ``cut`` there is nothing to run."""
    arguments = arguments_object(call.arguments)
    if arguments is None and not cut:
        raise UpstreamFailed(
            f"the model called the tool '{call.name[:100]}' with arguments that are no JSON object",
            code="upstream_nonsense",
        )
    return arguments or {}


def stop_reason(
    finish: str | None, choice: Mapping[str, Any], stops: Sequence[str], *, calls: bool = False, refusal: str = ""
) -> tuple[str, str | None]:
    """Why an answer ended, in Anthropic's words, and the stop sequence that ended it where the upstream says which.

    Its clients run tools only on ``tool_use``, while many servers end calls with ``stop``.
    """
    reason = _STOP_REASONS.get(finish or "stop", "end_turn")
    if reason != "end_turn":
        return ("tool_use", None) if calls and reason == "tool_use" else (reason, None)
    if calls:
        return "tool_use", None
    if refusal:
        return "refusal", None
    stop = choice.get("stop_reason")  # vLLM
    return ("stop_sequence", stop) if isinstance(stop, str) and stop in stops else (reason, None)


def usage(counted: Any, estimated: tuple[int, int]) -> dict[str, Any]:
    """Anthropic's ``usage``, in which tokens of the cache are counted apart from the others of the prompt."""
    read = read_usage(counted)
    if read is None:
        return _usage(*estimated)
    if _PLAIN.issuperset(counted):
        return _usage(read.prompt_tokens, read.completion_tokens)
    cached, reasoning, units = token_details(counted)
    written = (units or {}).get("cache_write_tokens", 0)
    prompt, answer = read.prompt_tokens, read.completion_tokens
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    found = _usage(prompt - cached - written, answer, cached, written)
    if reasoning:
        found["output_tokens_details"] = {"thinking_tokens": min(reasoning, answer)}
    return found


def _usage(prompt: int, answer: int, cached: int = 0, written: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": answer,
    }


def message_id(name: Any) -> str:
    """The id of a message: the upstream's own after ``msg_``, or a new one."""
    own = name.removeprefix("chatcmpl-").removeprefix("msg_") if isinstance(name, str) else ""
    return f"msg_{own or secrets.token_hex(12)}"

"""Results of tools among the messages of a chat."""

from __future__ import annotations

from typing import Any


def add_result(messages: list[Any], call_id: str, text: str) -> None:
    """Adds what a call has answered behind the results that follow the message with that call; at the end of
    ``messages`` where none has it. Servers refuse a result that stands anywhere else."""
    place = len(messages)
    for index in range(len(messages) - 1, -1, -1):
        if _has_call(messages[index], call_id):
            place = index + 1
            while place < len(messages) and _role(messages[place]) == "tool":
                place += 1
            break
    messages.insert(place, {"role": "tool", "tool_call_id": call_id, "content": text})


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _has_call(message: Any, call_id: str) -> bool:
    calls = message.get("tool_calls") if _role(message) == "assistant" else None
    return isinstance(calls, list) and any(isinstance(call, dict) and call.get("id") == call_id for call in calls)

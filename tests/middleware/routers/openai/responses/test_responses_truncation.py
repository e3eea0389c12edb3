"""``truncation: auto``: what goes, and what stays."""

from __future__ import annotations

from typing import Any

import pytest

from sage.middleware.routers.openai.responses.truncation import truncate


def _chat() -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "y" * 4000}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "x" * 4000},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "z" * 400},
        {"role": "user", "content": "last"},
    ]
    return {"messages": messages}


@pytest.mark.parametrize(
    ("context", "roles"),
    [
        (4000, ["system", "user", "assistant", "tool", "user"]),
        (2200, ["system", "assistant", "tool", "user"]),
        (1500, ["system", "user"]),  # the answer of a tool goes with its call
        (10, ["system", "user"]),
    ],
)
def test_the_oldest_messages_go_first(context: int, roles: list[str]) -> None:
    chat = _chat()
    truncate(chat, context)
    assert [message["role"] for message in chat["messages"]] == roles
    assert chat["messages"][-1]["content"] == "last"


def test_room_is_left_for_the_answer() -> None:
    chat = {**_chat(), "max_tokens": 3000}
    truncate(chat, 4000)
    assert len(chat["messages"]) == 2

"""Addresses that an upstream would read from, wherever they can stand, among many values."""

from __future__ import annotations

from typing import Any

from hostile.attack import Attack, outcomes
from hostile.target import Answer, Target

_INSIDE = "http://169.254.169.254/latest"
_MESSAGE: dict[str, Any] = {"role": "user", "content": "hi"}
_FIELDS: list[dict[str, Any]] = [
    {"image_url": {"url": _INSIDE}},
    {"documents": [{"text": "x", "url": _INSIDE}]},
    {"tools": [{"type": "mcp", "server_label": "x", "server_url": _INSIDE}]},
    {"messages": [{**_MESSAGE, "images": [_INSIDE]}]},
    {"messages": [{**_MESSAGE, "content": [{"type": "image", "image": "/etc/passwd"}]}]},
    {"messages": [{**_MESSAGE, "content": [{"type": "image", "image": f"\u3000{_INSIDE}"}]}]},
    {"messages": [{**_MESSAGE, "content": [{"type": "image", "image": f"view-source:{_INSIDE}"}]}]},
    {"messages": [{**_MESSAGE, "content": [{"type": "text", "text": "x"}] * 15_000 + [{"image": "//host/share"}]}]},
    {"web_search_options": {}},
]


async def run(target: Target) -> dict[str, Any]:
    bodies = [{"model": "chat", "messages": [_MESSAGE], **fields} for fields in _FIELDS] * target.count(10, 1)
    answers = await target.posts("/v1/chat/completions", bodies)
    for body, answer in zip(bodies, answers, strict=True):
        assert isinstance(answer, Answer), answer
        assert answer.code in ("url_not_allowed", "hosted_tool_not_allowed"), (str(body)[:200], answer)
    return outcomes(answers)


ATTACK = Attack("foreign_addresses", run)

"""Bodies whose values have wrong types everywhere: a Messages route answers each of them, and none with a 5xx."""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest
from shared_gateway import PATIENT
from upstream import Upstream

pytestmark = pytest.mark.slow  # hundreds of requests

COUNT = 4000 if os.environ.get("SAGE_TEST_FULL") else 400
DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
WRONG = (None, True, 0, -1, 2**63, 1.5, "", "x", "\ud83d", [], [None], {}, {"type": "x"}, {"type": []}, [[1]], DEEP)
SEED: dict[str, Any] = {
    "model": "bench",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "text", "text": "b"},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "is_error": True, "cache_control": {"type": "ephemeral"},
             "content": [{"type": "text", "text": "r"},
                         {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}]},
            {"type": "document", "title": "t", "context": "c", "citations": {"enabled": True},
             "source": {"type": "content", "content": [{"type": "text", "text": "d"}]}},
            {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "d"}]}]},
    ],
    "tools": [{"name": "f", "description": "d", "strict": True, "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "output_format": {"type": "json_schema", "schema": {}},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
    "service_tier": "auto",
    "context_management": {"edits": []},
    "temperature": 1,
    "top_k": 1,
    "stream": False,
    "models": ["bench"],
}  # fmt: skip
KEPT = {"model", "max_tokens", "messages"}


def sections(up: Upstream) -> dict[str, Any]:
    providers = {"up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "theirs"}]}}
    return {"llm": {"providers": providers, "models": models, "routing": PATIENT}}


def spoilt(value: Any, rng: Random) -> Any:
    """A copy of ``value`` in which some values are wrong, left out, or have come twice."""
    if rng.random() < 0.04:
        return rng.choice(WRONG)
    if isinstance(value, dict):
        kept = {name: spoilt(inner, rng) for name, inner in value.items() if rng.random() > 0.04}
        return kept | ({rng.choice(("x", "type", "source", "n")): rng.choice(WRONG)} if rng.random() < 0.03 else {})
    if isinstance(value, list):
        inner = [spoilt(each, rng) for each in value if rng.random() > 0.03]
        return inner + inner[:1] if rng.random() < 0.05 else inner
    return value


def test_no_body_is_more_than_a_bad_request(running: Any, up: Upstream) -> None:
    rng = Random(17)
    statuses = set()
    for _ in range(COUNT):
        body = spoilt({name: value for name, value in SEED.items() if rng.random() > 0.3 or name in KEPT}, rng)
        path = rng.choice(("/v1/messages", "/v1/messages", "/v1/messages/count_tokens"))
        answer = running.post(path, body)
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (answer.text, body)
        if answer.status_code >= 400:
            error = answer.json()
            assert (error["type"], bool(error["error"]["message"])) == ("error", True)
    assert {200, 400} <= statuses


def test_each_field_with_each_wrong_value(running: Any, up: Upstream) -> None:
    for field in SEED:
        for wrong in WRONG:
            answer = running.post("/v1/messages", {**{name: SEED[name] for name in KEPT}, field: wrong})
            assert answer.status_code < 500, (field, answer.text)

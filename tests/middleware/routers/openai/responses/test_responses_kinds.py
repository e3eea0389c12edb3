"""Responses over each kind of provider, whole and streamed: what docs/surfaces.md says is kept, is kept."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from kind_answers import KINDS, NY, SF, answer_of_kind, every_kind
from running_gateway import Running
from surface_losses import FEATURES, KEPT
from upstream import Upstream

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or asks one a hundred times

PIXEL = "iVBORw0KGgo="
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "WEATHER-OF-A-CITY",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
QUESTION: Any = {
    "store": False,
    "instructions": "BE-BRIEF",
    "max_output_tokens": 2000,
    "reasoning": {"effort": "low"},
    "tools": [WEATHER],
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "LOOK-AT-THIS"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "I read."}]},
        {"type": "function_call", "call_id": "t1", "name": "weather", "arguments": '{"city": "PARIS"}'},
        {"type": "function_call_output", "call_id": "t1", "output": "SUN-AND-WIND"},
    ],
    "extra_body": {"stop": ["STOP-HERE"]},
}


def sections(up: Upstream) -> dict[str, Any]:
    return every_kind(up)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_over_each_kind(running: Running, up: Upstream, kind: str) -> None:
    assert KEPT["responses", kind] == FEATURES
    up.handler = lambda request: answer_of_kind(kind, request)
    with openai.OpenAI(api_key=running.key, base_url=f"{running.url}/v1", max_retries=0) as client:
        whole = client.responses.create(model=kind, **QUESTION)
        with client.responses.stream(model=kind, **QUESTION) as events:
            streamed = events.get_final_response()
    for response in (whole, streamed):
        items = [item.to_dict() for item in response.output]
        assert [item["type"] for item in items] == ["reasoning", "message", "function_call", "function_call"]
        assert (items[0]["content"][0]["text"], response.output_text) == ("Hm.", "I look.")
        assert [json.loads(item["arguments"]) for item in items[2:]] == [SF, NY]
        assert items[2]["call_id"] != items[3]["call_id"]
        assert (response.status, response.model) == ("completed", kind)
        assert response.usage is not None
        assert response.usage.input_tokens > 0
        assert response.usage.output_tokens > 0
    for request in up.requests:
        sent = json.dumps(request.body)
        for word in ("BE-BRIEF", "LOOK-AT-THIS", PIXEL, "PARIS", "SUN-AND-WIND", "WEATHER-OF-A-CITY", "STOP-HERE"):
            assert word in sent, (word, sent)

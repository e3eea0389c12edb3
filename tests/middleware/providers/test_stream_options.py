"""Streams are asked for their usage where the server takes the question: by configuration, or by what it has shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from upstream import Received, Script, Upstream, openai_like, reply

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

REFUSALS: dict[str, tuple[int, Any]] = {
    "pydantic": (
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "stream_options"],
                    "msg": "Extra inputs are not permitted",
                    "input": {"include_usage": True},
                }
            ]
        },
    ),
    "Mistral": (
        422,
        {
            "object": "error",
            "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra"}]},
        },
    ),
    "OpenAI": (400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}}),
    "by its param": (400, {"error": {"message": "unknown field", "param": "stream_options.include_usage"}}),
    "Google": (400, [{"error": {"code": 400, "message": 'Unknown name "stream_options": Cannot find field.'}}]),
}


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def strict(refusal: tuple[int, Any]) -> Callable[[Received], Script]:
    def handler(request: Received) -> Script:
        assert isinstance(request.body, dict)
        return reply(refusal[1], status=refusal[0]) if "stream_options" in request.body else openai_like(request)

    return handler


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_refuses_it_is_asked_once_without_and_never_again_with(
    up: Upstream, upstreams: Callable, refusal: str
) -> None:
    up.handler = strict(REFUSALS[refusal])
    running = upstreams(up)
    for sent, options in ((2, {}), (3, {}), (4, {"stream_options": {"include_usage": True}})):
        answer = running.chat(stream=True, **options)
        assert answer.status_code == 200, answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
        assert len(up.requests) == sent
    assert ["stream_options" in request.body for request in up.requests] == [True, False, False, False]
    completion = {"model": "bench", "prompt": "x", "stream": True}
    assert running.post("/v1/completions", completion).status_code == 200


@pytest.mark.parametrize("kind", ["vllm", "openrouter"])
def test_every_kind_of_openais_wire_learns_it(up: Upstream, upstreams: Callable, kind: str) -> None:
    up.handler = strict(REFUSALS["pydantic"])
    running = upstreams(up, provider={"kind": kind})
    assert [running.chat(stream=True).status_code for _ in range(2)] == [200, 200]
    assert len(up.requests) == 3


def test_a_refusal_that_leaving_it_out_does_not_mend_is_told_and_not_remembered(
    up: Upstream, upstreams: Callable
) -> None:
    running = upstreams(up)
    up.reply({"error": {"message": "bad request: {'stream_options': {…}, 'top_k': -1}"}}, status=400, times=2)
    assert running.chat(stream=True).status_code == 400
    assert len(up.requests) == 2
    assert running.chat(stream=True).status_code == 200
    assert "stream_options" in up.requests[-1].body


def test_other_refusals_are_not_tried_again(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    up.reply({"error": {"message": "top_k is wrong"}}, status=400, times=1)
    assert running.chat(stream=True).status_code == 400
    up.reply({"error": {"message": "stream_options is wrong"}}, status=400, times=1)
    assert running.chat().status_code == 400
    assert len(up.requests) == 2


@pytest.mark.parametrize(
    ("kind", "setting", "asked"),
    [
        ("openai", None, True),
        ("openai", True, True),
        ("openai", False, False),
        ("vllm", False, False),
        ("moonshot", False, False),
    ],
)
def test_the_configuration_decides(
    up: Upstream, upstreams: Callable, kind: str, setting: bool | None, asked: bool
) -> None:
    running = upstreams(up, provider={"kind": kind, "stream_options": setting})
    assert running.chat(stream=True, stream_options={"include_usage": True}).status_code == 200
    assert ("stream_options" in up.requests[0].body) == asked

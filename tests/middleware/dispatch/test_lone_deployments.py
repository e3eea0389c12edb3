"""A deployment that failed is asked once more where no other is left; a good one elsewhere goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from upstream import Upstream, reply

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

FAILURES: dict[str, Callable[[Upstream], None]] = {
    "500": lambda up: up.reply(status=500, times=1),
    "502": lambda up: up.reply(status=502, times=1),
    "503": lambda up: up.reply(status=503, times=1),
    "529": lambda up: up.reply(status=529, times=1),
    "504": lambda up: up.reply(status=504, times=1),
    "408": lambda up: up.reply(status=408, times=1),
    "a server's error inside an answer": lambda up: up.reply(
        {"error": {"message": "x", "type": "server_error"}}, times=1
    ),
    "no answer": lambda up: up.close_at_once(times=1),
}


@pytest.fixture
def ups() -> Iterator[Callable[[], Upstream]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_two_failures_and_then_an_answer(ups: Callable, upstreams: Callable, stream: bool) -> None:
    up = ups()
    up.reply(status=500, times=2)
    answer = upstreams(up).chat(stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-sage-attempts"] == "3"
    assert len(up.requests) == 3
    assert up.requests[0].body == up.requests[2].body


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vllm", "ollama", "zhipu", "cohere", "deepseek"])
def test_every_kind_is_asked_again(ups: Callable, upstreams: Callable, kind: str) -> None:
    up = ups()
    up.handler = lambda request: reply(status=500)
    assert upstreams(up, provider={"kind": kind}).chat().status_code == 502
    assert len(up.requests) == 3


@pytest.mark.slow
def test_what_may_pass_is_tried_again(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    running = upstreams(up)
    for number, (name, fail) in enumerate(FAILURES.items()):
        up.reset()
        fail(up)
        assert running.chat(f"up0/m{number}").status_code == 200, name
        assert len(up.requests) == 2, name


def test_what_will_not_pass_is_not_tried_again(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    running = upstreams(up)
    for status in (400, 402, 404, 405, 413, 422, 429, 501, 401, 403):
        up.reset()
        up.reply(status=status, times=1)
        assert running.chat(f"up0/m{status}").status_code >= 400, status
        assert len(up.requests) == 1, status


@pytest.mark.parametrize(
    ("spoil", "stream"),
    [
        (lambda up: up.reply(body=b"<html>", times=1), False),
        (lambda up: up.raw(b"SSH-2.0\r\n", times=1), True),
        (lambda up: up.reply(delay=1.0, times=1), True),
    ],
)
def test_nonsense_and_slowness_are_not_tried_again(
    ups: Callable, upstreams: Callable, spoil: Any, stream: bool
) -> None:
    up = ups()
    spoil(up)
    answer = upstreams(up, provider={"timeouts": {"first_byte": 0.1}}).chat(stream=stream)
    assert answer.status_code in (502, 504)
    assert len(up.requests) == 1


@pytest.mark.slow
def test_as_many_attempts_as_the_configuration_allows(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.reply(status=500)
    for retries, asked in ((0, 1), (1, 2), (2, 3)):
        up.requests.clear()
        assert upstreams(up, provider={"retries": retries}).chat().status_code == 502
        assert len(up.requests) == asked


@pytest.mark.slow
def test_the_budget_holds_for_a_lone_deployment_too(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.reply(status=500)
    running = upstreams(up, llm={"routing": {"breaker_failures": 1_000_000}})
    for _ in range(30):
        assert running.chat().status_code == 502
    assert len(up.requests) == 30 + 6  # a fifth


def test_another_deployment_goes_first_and_then_a_fallback(ups: Callable, gateway: Callable) -> None:
    first, second, spare = ups(), ups(), ups()
    for up in (first, second):
        up.reply(status=500)
    providers = {
        name: {"kind": "openai", "base_url": up.url}
        for name, up in (("first", first), ("second", second), ("spare", spare))
    }
    models = {
        "bench": {
            "deployments": [
                {"provider": "first", "model": "m"},
                {"provider": "second", "model": "m", "priority": 1},
            ],
            "fallbacks": ["reserve"],
        },
        "reserve": {"deployments": [{"provider": "spare", "model": "m"}]},
    }
    answer = gateway(llm={"providers": providers, "models": models}).chat()
    assert answer.status_code == 200
    assert answer.headers["x-sage-deployment"] == "spare/m"
    assert [len(up.requests) for up in (first, second, spare)] == [1, 1, 1]


def test_a_time_that_the_upstream_names_is_kept(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.reply(status=503, headers={"retry-after-ms": "150"}, times=1)
    assert upstreams(up).chat().status_code == 200
    assert up.requests[1].at >= up.requests[0].at + 0.15
    up.reply(status=503, headers={"retry-after": "3600"})
    up.requests.clear()
    answer = upstreams(up).chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3600")
    assert len(up.requests) == 1

"""What an upstream says went wrong, in all the shapes in which servers say it, at every kind of provider."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from running_gateway import Running, run_gateway
from shared_gateway import PATIENT
from upstream import Upstream, chat_chunk, openai_like

from sage.middleware.settings.settings import Settings

KINDS = ("openai", "vllm", "ollama", "zhipu", "cohere", "anthropic", "gemini", "deepseek")
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def up(server: Upstream) -> Upstream:
    server.reset()
    return server


@pytest.fixture(scope="module")
def running(server: Upstream, tmp_path_factory: pytest.TempPathFactory, gateway_transport: str) -> Iterator[Running]:
    """One provider of each kind, all at one upstream, and ``second`` at it too; nothing is asked again."""
    providers = {
        kind: {"kind": kind, "base_url": server.url, "api_key": "sk-upstream-key", "retries": 0} for kind in KINDS
    }
    providers["first"] = {**providers["openai"], "retries": 2}
    providers["second"] = providers["openai"]
    models = {
        "two": {"deployments": [{"provider": name, "model": "m", "priority": i} for i, name in enumerate(FIRST_TWO)]}
    }
    data = {"data_dir": tmp_path_factory.mktemp("errors"), "api": {"port": 0, "access_log": False}}
    llm = {"providers": providers, "models": models, "routing": PATIENT, "transport": gateway_transport}
    with run_gateway(Settings.model_validate({**data, "llm": llm})) as started:
        yield started


FIRST_TWO = ("first", "second")


def ask(running: Running, kind: str, **fields: Any) -> Any:
    """A chat at a provider of ``kind``, each time with a model of its own, so that no pause of another holds."""
    return running.chat(f"{kind}/m{next(_numbers)}", **fields)


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_errors_keeps_its_message_and_status(up: Upstream, running: Running, kind: str) -> None:
    for status, type_ in ((400, "invalid_request_error"), (429, "rate_limit_error"), (503, "unavailable_error")):
        up.reset()
        up.reply([{"error": {"code": status, "message": 'Unknown name "x"', "status": "SOME"}}], status=status)
        answer = ask(running, kind)
        assert answer.status_code == status
        error = answer.json()["error"]
        assert error["message"] == f"the provider '{kind}' answered {status}: Unknown name \"x\""
        assert error["type"] == type_


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"message": "of Cohere"}, "of Cohere"),
        ({"error": "of Ollama"}, "of Ollama"),
        ({"detail": "of FastAPI"}, "of FastAPI"),
        (
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs", "input": {"y": 1}}]},
            "body.x: Extra inputs",
        ),
        ({"errors": [{"code": 7, "message": "one"}, {"message": "two"}]}, "one; two"),
        ({"error": {"errors": [{"message": "inner"}], "code": 400}}, "inner"),
        ({"error": "", "message": "beside an empty one"}, "beside an empty one"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "the cause"}}}, "the cause"),
        ({"error_code": 336, "error_msg": "of Baidu"}, "of Baidu"),
        ({"title": "Bad", "detail": "of RFC 9457"}, "of RFC 9457"),
        (["plain", "texts"], "plain; texts"),
        ([{"msg": "a list without 'error'"}], "a list without 'error'"),
    ],
)
def test_the_text_of_an_error_is_found(up: Upstream, running: Running, body: Any, text: str) -> None:
    up.reply(body, status=400)
    answer = ask(running, "openai")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(text)


def test_odd_errors_do_no_harm(up: Upstream, running: Running) -> None:
    deep: Any = "x"
    for _ in range(100):
        deep = {"error": [deep]}
    for body in (deep, {"error": {"message": {"a": 1}}}, {"error": 5}, [], [[]], [None], "", 0, {"detail": [[]]}):
        up.reset()
        up.reply(body, status=422)
        assert ask(running, "openai").status_code == 400
    for code in (10**400, 1e300, "9" * 5000, True, [], {}):
        up.reset()
        up.reply({"error": {"message": "m", "code": code}})
        assert ask(running, "openai").status_code == 502


NAMED = [
    ({"code": "rate_limit_exceeded"}, 429),
    ({"code": "insufficient_quota", "type": "insufficient_quota"}, 429),
    ({"type": "tokens", "code": None}, 429),
    ({"code": "429"}, 429),
    ({"status": "RESOURCE_EXHAUSTED", "code": None}, 429),
    ({"type": "overloaded_error"}, 503),
    ({"code": "context_length_exceeded", "type": "invalid_request_error"}, 400),
    ({"type": "BadRequestError", "code": 400}, 400),
    ({"code": "model_not_found"}, 404),
    ({"type": "invalid_request_error", "code": "invalid_api_key"}, 502),
    ({"code": "some_new_code", "type": "rate_limit_error"}, 429),
    ({"code": "server_error"}, 502),
    ({"code": 200, "type": "odd"}, 502),
]


@pytest.mark.parametrize(("error", "status"), NAMED)
@pytest.mark.parametrize("streamed", [True, False])
def test_an_error_inside_an_answer_has_the_status_that_it_names(
    up: Upstream, running: Running, error: dict[str, Any], status: int, streamed: bool
) -> None:
    body = {"error": {"message": "because", **error}}
    if streamed:
        up.stream([body])
    else:
        up.reply(body)
    answer = ask(running, "openai", stream=streamed)
    assert answer.status_code == status
    if error.get("code") != "invalid_api_key":
        assert answer.json()["error"]["message"].endswith("because")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_a_rate_limit_in_a_streams_first_event(up: Upstream, running: Running, kind: str) -> None:
    error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    line = json.dumps(error).encode() + b"\n"
    for event in (line if kind == "ollama" else error, [error]):
        if kind == "ollama" and not isinstance(event, bytes):
            event = b"[" + line.strip() + b"]\n"
        up.reset()
        up.stream([event], no_done=True)
        answer = ask(running, kind, stream=True)
        assert answer.status_code == 429
        assert answer.json()["error"]["message"] == f"the provider '{kind}' answered 429: slow down"


def test_a_rate_limit_in_the_first_event_goes_to_another_deployment(up: Upstream, running: Running) -> None:
    up.stream([{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}], times=1)
    answer = running.chat("two", stream=True)
    assert answer.status_code == 200
    assert answer.headers["x-sage-deployment"] == "second/m"
    assert b"hello" in answer.content


EMPTY = ["", {"message": ""}, {}, None, [], {"message": "", "code": None, "type": "", "param": None}, False]


@pytest.mark.parametrize("error", EMPTY)
@pytest.mark.parametrize("kind", ["openai", "vllm", "zhipu", "deepseek"])
def test_an_error_that_says_nothing_is_none(up: Upstream, running: Running, kind: str, error: Any) -> None:
    message = {"role": "assistant", "content": "good"}
    up.reply({"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "error": error})
    answer = ask(running, kind)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "good"
    up.reset()
    up.stream([chat_chunk("go", error=error), chat_chunk("od", "stop", error=error)])
    answer = ask(running, kind, stream=True)
    assert answer.status_code == 200
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk["choices"]) == "good"
    assert not any(chunk.get("error") for chunk in chunks)  # OpenAI's SDK would raise


def test_an_error_that_says_nothing_without_an_answer_is_no_answer(up: Upstream, running: Running) -> None:
    up.reply({"error": {"message": ""}})
    assert ask(running, "openai").json()["error"]["code"] == "upstream_nonsense"


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({"retry-after": "14s"}, "14"),
        ({"retry-after": "1.5s"}, "2"),
        ({"retry-after": "1m30s"}, "90"),
        ({"retry-after": " 2 M "}, "120"),
        ({"retry-after": "250ms"}, "1"),
        ({"retry-after-ms": "1500"}, "2"),
        ({"retry-after-ms": "61000", "retry-after": "3"}, "61"),
        ({"x-ms-retry-after-ms": "5000"}, "5"),
        ({"retry-after-ms": "soon", "retry-after": "7"}, "7"),
        ({"retry-after": "99999999h"}, "86400"),
        ({"retry-after": "14 apples"}, "1"),
    ],
)
def test_retry_after_in_all_its_spellings(up: Upstream, running: Running, headers: dict[str, str], ours: str) -> None:
    for status in (429, 503):
        up.reset()
        up.reply(status=status, headers=headers)
        answer = ask(running, "openai")
        assert answer.status_code == status
        assert answer.headers["retry-after"] == ours


def test_googles_retry_info_is_heard(up: Upstream, running: Running) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}
    error = {"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [{}, info]}}
    for body in (error, [error]):
        up.reset()
        up.reply(body, status=429)
        assert ask(running, "openai").headers["retry-after"] == "36"


def test_the_upstream_of_this_file_answers(up: Upstream, running: Running) -> None:
    up.handler = openai_like
    assert ask(running, "openai").status_code == 200

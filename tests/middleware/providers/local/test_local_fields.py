"""What reaches llama.cpp of a request: known fields within bounds, so that no request takes all memory or time."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from running_gateway import Running
from sage_process import children
from tiny_gguf import write_llama

from sage.errors import InvalidRequest, SageError
from sage.middleware.engines.proc_stats import processor_seconds
from sage.middleware.engines.process import Engine
from sage.middleware.providers.base import Endpoint, ModelCall, Operation, UpstreamModel
from sage.middleware.providers.local.provider import LocalEngineProvider
from sage.middleware.settings.providers import LocalProvider
from sage.middleware.settings.settings import DeploymentSettings

MESSAGES = [{"role": "user", "content": "x"}]
NESTED = "a?"
for _ in range(20):
    NESTED = f"({NESTED}){{2}}"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> LocalEngineProvider:
    models = {"tiny": {"path": "/nowhere.gguf", "context": 512, "stop": ["\n"]}}
    return LocalEngineProvider(
        "local", LocalProvider.model_validate({"models": models}), tmp_path_factory.mktemp("data")
    )


def sent(provider: LocalEngineProvider, body: dict[str, Any], *, drop: bool = False) -> dict[str, Any]:
    call = ModelCall(Operation.CHAT, {"messages": MESSAGES, **body}, "tiny")
    request = provider.encode(call, UpstreamModel("tiny", drop_unsupported=drop), Endpoint("http://engine"))
    return dict(json.loads(request.body))


def schema(**fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": fields}}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"dry_multiplier": 0.5, "dry_penalty_last_n": 2147483647}, "dry_penalty_last_n"),
        ({"repeat_last_n": 513}, "repeat_last_n"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"repeat_last_n": 1e9}, "repeat_last_n"),
        ({"repeat_last_n": "100"}, "repeat_last_n"),
        ({"options": {"repeat_last_n": 513}}, "repeat_last_n"),
        ({"options": {"num_keep": 10**6}}, "n_keep"),
        ({"min_keep": 10**6}, "min_keep"),
        ({"n_keep": 10**6}, "n_keep"),
        ({"dry_sequence_breakers": ["x"] * 17}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": ["x" * 65]}, "dry_sequence_breakers"),
        ({"samplers": ["dry"] * 17}, "samplers"),
        ({"samplers": "d" * 65}, "samplers"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"grammar_lazy": True}, "grammar_lazy"),
        ({"speculative.n_max": 100}, "speculative.n_max"),
        ({"n_cache_reuse": 5}, "n_cache_reuse"),
        ({"preserved_tokens": ["a"]}, "preserved_tokens"),
        ({"image_data": ["x"]}, "image_data"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z"),
        (schema(properties={f"p{n}": {"type": "string"} for n in range(600)}), "response_format"),
        (schema(enum=[str(n) for n in range(2000)]), "response_format"),
        (schema(type="string", pattern="x" * 257), "response_format"),
        (schema(type="string", pattern=NESTED), "response_format"),
        (schema(type="string", pattern="^(a{1,1000}){1,1000}$"), "response_format"),
        ({"json_schema": {"type": "string", "pattern": NESTED}}, "json_schema"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"pattern": NESTED}}}]},
            "tools",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_takes_all_memory_or_time_is_refused_by_name(
    provider: LocalEngineProvider, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(SageError) as caught:
        sent(provider, body)
    assert isinstance(caught.value, InvalidRequest)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_known_fields_reach_it(provider: LocalEngineProvider) -> None:
    body = {
        "temperature": 0.5,
        "top_k": 40,
        "repeat_last_n": 512,
        "dry_multiplier": 0.8,
        "dry_penalty_last_n": -1,
        "dry_sequence_breakers": ["\n", ":"],
        "mirostat": 2,
        "logit_bias": {"5": 1},
        "chat_template_kwargs": {"enable_thinking": False},
        "max_tokens": 7,
        "cache_prompt": True,
        **schema(type="string", pattern=r"^\d{4}(-\d{2}){2}$", maxLength=100),
    }
    answer = sent(provider, body)
    assert {name: answer[name] for name in body} == body


def test_hints_and_ollamas_words_about_loading_ask_nothing(provider: LocalEngineProvider) -> None:
    options = {"num_ctx": 8192, "num_gpu": 1, "num_thread": 4, "use_mmap": True, "mirostat": 1, "num_keep": 4}
    answer = sent(provider, {"options": options, "user": "u", "metadata": {"a": "b"}, "store": True})
    assert answer == {"model": "tiny", "messages": MESSAGES, "mirostat": 1, "n_keep": 4, "stop": ["\n"]}


def test_a_model_that_drops_what_is_unsupported_gets_only_what_it_knows(provider: LocalEngineProvider) -> None:
    answer = sent(provider, {"grammar": "root ::= x", "use_beam_search": True, "options": {"tfs_z": 1}}, drop=True)
    assert answer == {"model": "tiny", "messages": MESSAGES, "stop": ["\n"]}


LONG = "x" * (2**20 + 1)


@pytest.mark.parametrize(
    ("operation", "body", "param"),
    [
        (Operation.CHAT, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        (Operation.CHAT, {"messages": [{"role": "user", "content": "x" * 2**18}] * 5}, "messages"),
        (Operation.CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]}, "messages"),
        (Operation.COMPLETIONS, {"prompt": LONG}, "prompt"),
        (Operation.TOKENIZE, {"prompt": LONG}, "prompt"),
    ],
)
def test_text_far_beyond_the_context_is_not_cut_into_tokens(
    provider: LocalEngineProvider, operation: Operation, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        provider.encode(ModelCall(operation, body, "tiny"), UpstreamModel("tiny"), Endpoint("http://engine"))
    assert (caught.value.param, caught.value.code) == (param, "context_length_exceeded")


@pytest.mark.slow
def test_an_engine_has_no_more_memory_than_its_model_needs(tmp_path: Path) -> None:
    """What gets past the bounds of fields is refused by the kernel, and the engine serves on."""
    models = {"tiny": {"path": str(write_llama(tmp_path / "tiny.gguf")), "parallel": 1, "context": 512}}
    provider = LocalEngineProvider("local", LocalProvider.model_validate({"models": models}), tmp_path)

    async def scenario() -> None:
        spec = provider.engine(DeploymentSettings(provider="local", model="tiny"))
        assert spec is not None
        assert spec.memory is not None
        engine = Engine(spec, "tiny")
        endpoint = await engine.start()
        try:
            limit = resource.prlimit(engine.pids[-1], resource.RLIMIT_DATA)[0]
            assert spec.memory < limit < 4 * 2**30
            attack = {"messages": MESSAGES, "max_tokens": 1, "dry_multiplier": 0.5, "dry_penalty_last_n": 2147483647}
            statuses = [
                await asyncio.to_thread(_ask, endpoint, body) for body in (attack, {**attack, "dry_multiplier": 0})
            ]
            assert statuses == [400, 200]
            assert engine.pids[-1]
        finally:
            await engine.stop()

    asyncio.run(scenario())


def _ask(endpoint: Endpoint, body: dict[str, Any]) -> int:
    url = f"{endpoint.base_url}/v1/chat/completions"
    return requests.post(url, json=body, headers=dict(endpoint.headers), timeout=60).status_code


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work_in_the_engine(
    stream: bool, local: Callable[..., Running], tmp_path: Path
) -> None:
    context = 100_000  # minutes of work
    path = write_llama(tmp_path / "tiny.gguf", context=context)
    running = local(tiny={"path": str(path), "parallel": 1, "context": context, "temperature": 0})
    assert running.chat("tiny", max_tokens=1).status_code == 200
    engines = children(os.getpid())
    idle = processor_seconds(engines)
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"))
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": context, "stream": stream}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), running.headers())
    if stream:
        assert connection.getresponse().read(10)
    _wait_until(lambda: processor_seconds(engines) > idle + 0.3)
    connection.close()
    _wait_until(lambda: _rests(engines))
    assert running.chat("tiny", max_tokens=1).status_code == 200


def _rests(pids: set[int]) -> bool:
    before = processor_seconds(pids)
    time.sleep(0.5)
    return processor_seconds(pids) - before < 0.05


def _wait_until(condition: Callable[[], bool], within: float = 30) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)

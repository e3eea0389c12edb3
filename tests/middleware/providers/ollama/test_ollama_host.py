"""Models at an Ollama server: what is in memory, load, unload, pull and show, against the script of its wire."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from ollama_wire import OllamaScript
from upstream import Upstream, raw, reply, stream

from sage.errors import DeadlineExceeded, MissingExtra, NotFound, PermissionDenied, SageError, UpstreamFailed
from sage.middleware.providers.base import PullProgress
from sage.middleware.providers.ollama.host import OllamaHost, spellings
from sage.middleware.providers.ollama.provider import OllamaProvider
from sage.middleware.settings.providers import OllamaSettings


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = OllamaScript()
        yield upstream


def host(up: Upstream, **settings: Any) -> OllamaHost:
    section = OllamaSettings(base_url=f"http://127.0.0.1:{up.port}", **settings)
    return OllamaProvider("ollama", section).host


async def pulled(host: OllamaHost, model: str) -> list[PullProgress]:
    return [step async for step in host.pull(model)]


@pytest.mark.proves("ollama", "load and unload")
def test_load_unload_and_what_is_in_memory(up: Upstream) -> None:
    model_host = host(up, api_key="sk-ollama", headers={"x-team": "blue"})
    assert asyncio.run(model_host.loaded()) == {}
    asyncio.run(model_host.load("llama3"))
    assert up.requests[-1].body == {"model": "llama3", "prompt": "", "stream": False}
    asyncio.run(model_host.load("qwen3:0.6b", pin=True))
    assert up.requests[-1].body["keep_alive"] == -1
    held = asyncio.run(model_host.loaded())
    assert set(held) == {"llama3", "llama3:latest", "qwen3:0.6b"}
    assert held["llama3"]["context_length"] == 4096
    asyncio.run(model_host.unload("llama3:latest"))
    assert up.requests[-1].body["keep_alive"] == 0
    assert set(asyncio.run(model_host.loaded())) == {"qwen3:0.6b"}
    for request in up.requests:
        assert request.headers["authorization"] == "Bearer sk-ollama"
        assert request.headers["x-team"] == "blue"


@pytest.mark.proves("ollama", "load and unload")
def test_a_model_that_makes_embeddings_alone_loads_too(up: Upstream) -> None:
    asyncio.run(host(up).load("all-minilm", pin=True))
    assert up.handler.loaded == {"all-minilm:latest": -1}
    asyncio.run(host(up).unload("all-minilm"))
    assert up.handler.loaded == {}


@pytest.mark.proves("ollama", "pull")
def test_a_pull_tells_its_progress(up: Upstream) -> None:
    assert asyncio.run(pulled(host(up, allow_pull=["phi*"]), "phi4:14b")) == [
        PullProgress("pulling manifest"),
        PullProgress("pulling aabb", 0, 10),
        PullProgress("pulling aabb", 5, 10),
        PullProgress("pulling aabb", 10, 10),
        PullProgress("verifying sha256 digest"),
        PullProgress("success"),
    ]
    assert "phi4:14b" in up.handler.models


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ([], "phi", False),
        (["phi*"], "phi4:14b", True),
        (["phi:latest"], "phi", True),
        (["phi"], "phi:latest", True),
        (["phi"], "phi:14b", False),
        (["*"], "phi", True),
        (["*"], "hub.example/someone/phi", False),
        (["phi*"], "phi.evil.example/someone/phi", False),
        (["hub.example/someone/*"], "hub.example/someone/phi:q4", True),
        (["hub.example/*"], "hub.example/someone/phi", False),
        (["PHI"], "phi", False),
    ],
)
@pytest.mark.proves("ollama", "pull")
def test_only_what_a_pattern_allows_is_pulled(patterns: list[str], model: str, allowed: bool, up: Upstream) -> None:
    model_host = host(up, allow_pull=patterns)
    if allowed:
        assert asyncio.run(pulled(model_host, model))[-1].status == "success"
        return
    with pytest.raises(PermissionDenied, match=r"llm\.providers\.ollama\.allow_pull"):
        asyncio.run(pulled(model_host, model))
    assert up.requests == []


def test_a_pull_that_fails_or_breaks_off_is_no_success(up: Upstream) -> None:
    model_host = host(up, allow_pull=["*"])
    with pytest.raises(UpstreamFailed, match="file does not exist"):
        asyncio.run(pulled(model_host, "absent"))
    up.use(reply(body=b'{"status": "pulling manifest"}\n'), 1)
    with pytest.raises(UpstreamFailed, match="before it was done"):
        asyncio.run(pulled(model_host, "phi"))


def test_a_pull_that_is_left_ends_upstream(up: Upstream) -> None:
    async def leave() -> None:
        steps = host(up, allow_pull=["*"]).pull("phi")
        assert (await anext(steps)).status == "pulling manifest"
        await steps.aclose()

    up.use(stream([b'{"status": "pulling manifest"}\n'] * 2, no_done=True, hang_after=1))
    asyncio.run(leave())
    assert up.wait_closed().path == "/api/pull"


def test_show(up: Upstream) -> None:
    shown = asyncio.run(host(up).show("llama3"))
    assert shown["model_info"]["llama.context_length"] == 8192
    assert shown["details"]["parameter_size"] == "8.0B"


@pytest.mark.slow
@pytest.mark.proves("ollama", "errors")
def test_every_failure_is_one_of_ours(up: Upstream) -> None:
    model_host = host(up, api_key="sk-ollama-key", timeouts={"first_byte": 0.2, "total": 0.2})

    def raised() -> SageError:
        with pytest.raises(SageError) as caught:
            asyncio.run(model_host.loaded())
        return caught.value

    with pytest.raises(NotFound, match="model 'absent' not found"):
        asyncio.run(model_host.load("absent"))
    up.reply({"error": "wrong key sk-ollama-key"}, status=401, times=1)
    refused = raised()
    assert (type(refused), refused.code) == (UpstreamFailed, "upstream_credential_refused")
    up.hang(1)
    assert type(raised()) is DeadlineExceeded
    for script in (raw(b"HTTP/1.1 200 OK\r\n\r\nno json"), raw(b""), reply({"models": 5}), reply([1])):
        up.use(script, 1)
        assert type(raised()) is UpstreamFailed
    up.use(reply(body=b"", status=302, headers={"location": "http://127.0.0.1:9/"}), 1)
    assert type(raised()) is UpstreamFailed


def test_no_server_is_one_of_ours_too() -> None:
    model_host = OllamaProvider("ollama", OllamaSettings(base_url="http://127.0.0.1:9")).host
    with pytest.raises(UpstreamFailed, match="'ollama' cannot be reached"):
        asyncio.run(model_host.loaded())


def test_a_key_in_the_environment_goes_to_nobody(up: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "sk-somebody-elses")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    asyncio.run(host(up).loaded())
    assert "authorization" not in up.requests[-1].headers


def test_without_the_sdk_it_says_what_to_install(up: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ollama", None)
    with pytest.raises(MissingExtra, match=r"intellistream-sage-middleware\[ollama\]"):
        asyncio.run(host(up).loaded())


@pytest.mark.parametrize(
    ("name", "all_of_them"),
    [
        ("llama3", {"llama3", "llama3:latest"}),
        ("llama3:latest", {"llama3", "llama3:latest"}),
        ("llama3:8b", {"llama3:8b"}),
        ("hub.example:5000/a/b", {"hub.example:5000/a/b", "hub.example:5000/a/b:latest"}),
    ],
)
def test_a_name_without_a_tag_means_latest(name: str, all_of_them: set[str]) -> None:
    assert set(spellings(name)) == all_of_them

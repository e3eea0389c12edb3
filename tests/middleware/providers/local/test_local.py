"""The ``local`` provider before real llama.cpp engines and tiny models: what works, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from chatml import TEMPLATE
from running_gateway import Running
from tiny_gguf import write_embedder, write_llama, write_parrot, write_reranker

pytestmark = pytest.mark.slow
CALLS = "".join(
    f'<tool_call>\n{{"name": "paint", "arguments": {{"colour": "{colour}"}}}}\n</tool_call>\n'
    for colour in ("red", "blue")
)
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": COLOUR}}]
USER: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def parrot(local: Callable[..., Running], tmp_path: Path) -> Callable[..., openai.OpenAI]:
    """OpenAI's client of a gateway whose model ``parrot`` says just that."""

    def start(says: str, **model: Any) -> openai.OpenAI:
        return client(local(parrot={"path": str(write_parrot(tmp_path / "p.gguf", says, template=TEMPLATE)), **model}))

    return start


def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)


def error(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    return dict(answer.json()["error"])


# Text


@pytest.mark.proves("local", "chat", "system", "multi-turn", "usage", "streaming", "SDK at the gateway")
def test_chat_and_its_stream_say_the_same(llama):
    messages = [
        {"role": "system", "content": "the red fish"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "the sea"},
        {"role": "user", "content": "and the moon"},
    ]
    with client(llama) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=messages)
        usage = answer.usage
        alone = sdk.chat.completions.create(model="tiny", messages=messages[-1:])
        chunks = list(
            sdk.chat.completions.create(
                model="tiny", messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
    text = answer.choices[0].message.content
    assert len(text.split()) == 6
    assert (answer.model, answer.choices[0].finish_reason) == ("tiny", "length")
    assert text != alone.choices[0].message.content, "what was said before counts"
    assert usage.prompt_tokens > alone.usage.prompt_tokens + 10
    assert usage.completion_tokens == 6
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (usage.prompt_tokens, 6)


@pytest.mark.proves("local", "seed")
def test_a_seed_says_the_same_again(llama):
    def say(seed: int) -> str:
        return llama.chat("tiny", seed=seed, temperature=1.5, max_tokens=24).json()["choices"][0]["message"]["content"]

    assert say(1) == say(1)
    assert len({say(seed) for seed in range(5)}) > 1


@pytest.mark.proves("local", "stop")
def test_it_stops_at_the_requests_and_at_its_own_stops(parrot):
    with parrot("one two three four five six", stop=["six"]) as sdk:
        for stops, said in ((openai.NOT_GIVEN, "one two three four five "), ("four", "one two three ")):
            answer = sdk.chat.completions.create(model="parrot", messages=USER, stop=stops)
            assert answer.choices[0].message.content.strip() == said.strip()
            assert answer.choices[0].finish_reason == "stop"


@pytest.mark.proves("local", "logprobs")
def test_logprobs_come_in_both_of_openais_shapes(llama):
    with client(llama) as sdk:
        chat = sdk.chat.completions.create(model="tiny", messages=USER, logprobs=True, top_logprobs=2, max_tokens=3)
        said = chat.choices[0].logprobs.content
        assert "".join(token.token for token in said).strip() == chat.choices[0].message.content
        for token in said:
            assert token.logprob == token.top_logprobs[0].logprob > token.top_logprobs[1].logprob
        plain = sdk.completions.create(model="tiny", prompt="the cat", logprobs=2, max_tokens=3)
        streamed = list(sdk.completions.create(model="tiny", prompt="the cat", logprobs=2, max_tokens=3, stream=True))
    lists = plain.choices[0].logprobs
    assert "".join(lists.tokens) == plain.choices[0].text
    assert all(value < 0 for value in lists.token_logprobs)
    assert lists.text_offset == [0, len(lists.tokens[0]), len(lists.tokens[0] + lists.tokens[1])]
    assert [len(top) for top in lists.top_logprobs] == [2, 2, 2]
    assert all(top[token] == max(top.values()) for token, top in zip(lists.tokens, lists.top_logprobs, strict=True))
    parts = [chunk.choices[0].logprobs for chunk in streamed if chunk.choices and chunk.choices[0].logprobs]
    assert [offset for part in parts for offset in part.text_offset] == lists.text_offset
    assert [token for part in parts for token in part.tokens] == lists.tokens


@pytest.mark.proves("local", "completions")
def test_completions_take_text_and_tokens(llama):
    tokens = llama.post("/v1/tokenize", {"model": "tiny", "prompt": "the cat"}).json()["tokens"]
    with client(llama) as sdk:
        text = sdk.completions.create(model="tiny", prompt="the cat", max_tokens=4)
        same = sdk.completions.create(model="tiny", prompt=tokens, max_tokens=4)
    assert text.choices[0].text == same.choices[0].text
    assert len(text.choices[0].text.split()) == 4
    assert text.usage.prompt_tokens == same.usage.prompt_tokens == len(tokens)


@pytest.mark.proves("local", "response_format json_schema", "response_format json_object")
def test_answers_follow_a_schema(llama):
    schema = {"type": "json_schema", "json_schema": {"name": "paint", "strict": True, "schema": COLOUR}}
    with client(llama) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=USER, response_format=schema, max_tokens=200)
        assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "blue")
        answer = sdk.chat.completions.create(
            model="tiny", messages=USER, response_format={"type": "json_object"}, max_tokens=20
        )
        assert answer.choices[0].message.content.startswith("{")


# Tools and reasoning


@pytest.mark.proves("local", "tools", "parallel tools", "streamed tool arguments")
def test_tool_calls_are_read_whole_and_streamed(parrot):
    with parrot(CALLS) as sdk:
        answer = sdk.chat.completions.create(model="parrot", messages=USER, tools=TOOLS, parallel_tool_calls=True)
        chunks = list(
            sdk.chat.completions.create(
                model="parrot", messages=USER, tools=TOOLS, parallel_tool_calls=True, stream=True
            )
        )
        calls = answer.choices[0].message.tool_calls
        turns = [*USER, answer.choices[0].message.model_dump(exclude_none=True)]
        turns += [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in calls]
        again = sdk.chat.completions.create(model="parrot", messages=turns, tools=TOOLS)
        one = sdk.chat.completions.create(model="parrot", messages=USER, tools=TOOLS, parallel_tool_calls=False)
    assert [json.loads(call.function.arguments) for call in one.choices[0].message.tool_calls] == [{"colour": "red"}]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [call.function.name for call in calls] == ["paint", "paint"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"colour": "red"}, {"colour": "blue"}]
    assert len({call.id for call in calls}) == 2
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens, "the answers of the tools are read"
    arguments: dict[int, list[str]] = {}
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or ():
            arguments.setdefault(call.index, []).append(call.function.arguments)
    assert [json.loads("".join(parts)) for parts in arguments.values()] == [{"colour": "red"}, {"colour": "blue"}]
    assert all(len(parts) > 2 for parts in arguments.values()), "they come in parts"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_refusal_sent_back_is_read_as_text(llama):
    def prompt_tokens(said: dict[str, Any]) -> int:
        answer = llama.chat("tiny", messages=[*USER, {"role": "assistant", **said}, *USER])
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens"])

    as_text = prompt_tokens({"content": "the red sea"})
    assert prompt_tokens({"content": None, "refusal": "the red sea"}) == as_text
    assert prompt_tokens({"content": [{"type": "refusal", "refusal": "the red sea"}]}) == as_text
    assert prompt_tokens({"content": ""}) < as_text


@pytest.mark.proves("local", "tools", "streamed tool arguments")
def test_tool_calls_are_read_on_every_surface(parrot):
    with parrot(CALLS) as sdk:
        url, headers = str(sdk.base_url).removesuffix("/v1/"), {"Authorization": f"Bearer {sdk.api_key}"}
        body = {"model": "parrot", "messages": USER, "tools": TOOLS, "stream": False}
        theirs = requests.post(f"{url}/api/chat", json=body, headers=headers, timeout=60).json()
        coheres = requests.post(f"{url}/v2/chat", json=body, headers=headers, timeout=60).json()
        ours = requests.post(f"{url}/generate", json=body, headers=headers, timeout=60).json()
        lines = requests.post(f"{url}/api/chat", json=body | {"stream": True}, headers=headers, timeout=60).text
    painted = [{"colour": "red"}, {"colour": "blue"}]
    assert [call["function"]["arguments"] for call in theirs["message"]["tool_calls"]] == painted
    streamed = [call for line in lines.splitlines() for call in json.loads(line)["message"].get("tool_calls", ())]
    assert [call["function"]["arguments"] for call in streamed] == painted
    assert [json.loads(call["function"]["arguments"]) for call in coheres["message"]["tool_calls"]] == painted
    assert coheres["finish_reason"] == "TOOL_CALL"
    assert [json.loads(call["function"]["arguments"]) for call in ours["tool_calls"]] == painted


@pytest.mark.proves("local", "tool_choice")
def test_no_tool_is_called_if_none_is_chosen(parrot):
    with parrot("No.") as sdk:
        answer = sdk.chat.completions.create(model="parrot", messages=USER, tools=TOOLS, tool_choice="none")
        assert answer.choices[0].message.content == "No."


def test_tools_are_refused_where_the_template_has_no_place_for_them(llama):
    fault = error(llama.chat("tiny", tools=TOOLS))
    assert fault["param"] == "tools"
    assert "the model's chat template has no place for them" in fault["message"]
    assert llama.chat("tiny", tools=[], tool_choice=None).status_code == 200


@pytest.mark.proves("local", "reasoning")
def test_reasoning_is_told_apart(parrot):
    with parrot("<think>\nTwo and two.\n</think>\n\nFour it is.") as sdk:
        answer = sdk.chat.completions.create(model="parrot", messages=USER).choices[0].message
        chunks = list(sdk.chat.completions.create(model="parrot", messages=USER, stream=True))
    assert (answer.reasoning_content.strip(), answer.content) == ("Two and two.", "Four it is.")
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas).strip() == "Two and two."
    assert "".join(delta.content or "" for delta in deltas).strip() == "Four it is."


# Refusals


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.proves("local", "n", "images", refused=True)
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("chat/completions", {"n": 2}, "n"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]},
            "messages[0].content[1]",
        ),
        ("chat/completions", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("completions", {"n": 2}, "n"),
        ("completions", {"prompt": ["a", "b"]}, "prompt"),
        ("completions", {"echo": True}, "echo"),
        ("completions", {"suffix": "x"}, "suffix"),
        ("completions", {"best_of": 2}, "best_of"),
    ],
)
def test_what_llama_cpp_does_not_heed_is_refused(llama, path, fields, param):
    body = {"messages": USER} if path.startswith("chat") else {"prompt": "x"}
    fault = error(llama.post(f"/v1/{path}", {"model": "tiny", **body, **fields}))
    assert (fault["param"], fault["code"]) == (param, "unsupported_field")
    assert "the provider 'local' " in fault["message"]


def test_what_asks_for_nothing_is_no_fault(llama):
    nothing = {"n": 1, "reasoning_effort": None, "modalities": ["text"], "logprobs": False, "tools": [], "user": "u"}
    assert llama.chat("tiny", **nothing).status_code == 200
    plain = {"model": "tiny", "prompt": "x", "n": 1, "best_of": 1, "echo": False, "suffix": None}
    assert llama.post("/v1/completions", plain).status_code == 200


@pytest.mark.proves("local", "drop_unsupported")
def test_a_model_that_drops_what_is_unsupported_answers(gateway, tmp_path):
    write_llama(tmp_path / "llama.gguf")
    running = gateway(
        llm={
            "providers": {"local": {"models": {"tiny": {"path": str(tmp_path / "llama.gguf"), "max_tokens": 4}}}},
            "models": {"easy": {"deployments": [{"provider": "local", "model": "tiny"}], "drop_unsupported": True}},
        }
    )
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]
    answer = running.chat("easy", n=3, tools=TOOLS, messages=messages, reasoning_effort="high")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"]) == 1


@pytest.mark.proves("local", "errors")
def test_a_prompt_longer_than_the_context_is_a_400(local, tmp_path):
    running = local(tiny={"path": str(write_llama(tmp_path / "llama.gguf")), "context": 256})
    fault = error(running.chat("tiny", messages=[{"role": "user", "content": "cat " * 300}]))
    assert (fault["code"], fault["param"]) == ("context_length_exceeded", "messages")
    assert "a context of 256" in fault["message"]


# Several


@pytest.mark.proves("local", "load and unload")
def test_models_side_by_side_are_processes_of_their_own(local, tmp_path):
    running = local(
        tiny={"path": str(write_llama(tmp_path / "l.gguf")), "max_tokens": 3},
        vectors={"path": str(write_embedder(tmp_path / "e.gguf")), "task": "embed"},
        order={"path": str(write_reranker(tmp_path / "r.gguf")), "task": "rerank"},
    )
    for model in ("tiny", "vectors", "order"):
        assert running.post(f"/models/{model}/load").json()["state"] == "ready"
    assert running.post("/models/vectors/unload").status_code == 200
    states = {model: running.get(f"/models/{model}").json()["state"] for model in ("tiny", "vectors", "order")}
    assert states == {"tiny": "ready", "vectors": "unloaded", "order": "ready"}
    assert running.chat("tiny").status_code == 200
    assert running.post("/v1/embeddings", {"model": "vectors", "input": "x"}).status_code == 200, "loaded again"

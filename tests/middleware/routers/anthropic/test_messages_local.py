"""Anthropic's SDK and LangChain's at the gateway, before the real local model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from running_gateway import Running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what LangChain builds on
    from langchain_anthropic import ChatAnthropic

pytestmark = pytest.mark.slow  # a real engine

MODEL = "gemma-3-270m"
FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def gemma(module_gateway: Callable[..., Running]) -> Running:
    return module_gateway()


@pytest.fixture(scope="module")
def client(gemma: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key=gemma.key, base_url=gemma.url, max_retries=0) as sdk:
        yield sdk


def prompt_tokens(message: anthropic.types.Message) -> int:
    """With those that the engine had in its cache."""
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_the_local_model_answers(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model=MODEL, max_tokens=12, messages=FRANCE)
    text = whole.content[0].text  # type: ignore[union-attr]
    assert "Paris" in text
    assert whole.usage.input_tokens > 5
    with client.messages.stream(model=MODEL, max_tokens=12, messages=FRANCE) as events:
        streamed = events.get_final_message()
    assert streamed.content[0].text == text  # type: ignore[union-attr]
    assert prompt_tokens(streamed) == prompt_tokens(whole)
    short = client.messages.create(model=MODEL, max_tokens=1, messages=FRANCE)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 1)


def test_its_tokens_are_counted_by_its_own_tokenizer(client: anthropic.Anthropic) -> None:
    counted = client.messages.with_raw_response.count_tokens(model=MODEL, messages=FRANCE)
    assert counted.headers["x-sage-token-count"] == "texts"
    assert 9 <= counted.parse().input_tokens <= 16
    longer = client.messages.count_tokens(model=MODEL, messages=FRANCE, system="Paris " * 100)
    assert longer.input_tokens - counted.parse().input_tokens in range(98, 112)


def test_a_schema_a_tool_and_a_large_limit(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    form: Any = {"format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}}
    answer = client.messages.create(model=MODEL, max_tokens=60, messages=FRANCE, output_config=form)
    assert answer.content[0].text.replace(" ", "") in ('{"city":"Paris"}', '{"city":"Rome"}')  # type: ignore[union-attr]
    tool: Any = {"name": "choose", "input_schema": schema}
    forced = client.messages.create(
        model=MODEL, max_tokens=60, messages=FRANCE, tools=[tool], tool_choice={"type": "tool", "name": "choose"}
    )
    assert forced.stop_reason == "tool_use"
    assert forced.content[-1].input["city"] in ("Paris", "Rome")  # type: ignore[union-attr]
    with client.messages.stream(model=MODEL, max_tokens=32_000, messages=FRANCE, stop_sequences=["\n"]) as events:
        assert events.get_final_message().stop_reason in ("end_turn", "stop_sequence")


@pytest.mark.filterwarnings("ignore")
def test_langchain(gemma: Running) -> None:
    model = ChatAnthropic(model_name=MODEL, api_key=gemma.key, base_url=gemma.url, max_tokens_to_sample=12)
    whole = model.invoke("What is the capital of France?")
    assert "Paris" in whole.content
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] > 5
    pieces = list(model.stream("What is the capital of France?"))
    gathered = pieces[0]
    for piece in pieces[1:]:
        gathered = gathered + piece
    assert "Paris" in gathered.text
    assert gathered.usage_metadata is not None
    assert gathered.usage_metadata["input_tokens"] == whole.usage_metadata["input_tokens"]

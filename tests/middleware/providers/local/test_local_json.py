"""JSON from local models: a grammar says where an answer ends, and the model's own stop words do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from chatml import TEMPLATE
from pydantic import BaseModel
from running_gateway import Running
from tiny_gguf import write_parrot

pytestmark = pytest.mark.slow
SAYS = '{\n"colour": "red"}'
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
USER: list[Any] = [{"role": "user", "content": "Which colour?"}]


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def parrot(local: Callable[..., Running], tmp_path: Path) -> Running:
    path = write_parrot(tmp_path / "p.gguf", SAYS, template=TEMPLATE)
    return local(parrot={"path": str(path), "stop": ["\n"], "max_tokens": 3})


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "paint", "schema": SCHEMA}}},
        {"response_format": {"type": "json_object"}, "stop": ["never"]},
    ],
)
@pytest.mark.proves("local", "response_format json_schema", "response_format json_object")
def test_neither_stop_words_nor_the_bound_of_a_model_end_its_json(parrot: Running, fields: dict[str, Any]) -> None:
    answer = parrot.post("/v1/chat/completions", {"model": "parrot", "messages": USER, **fields})
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"colour": "red"}


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}])
def test_they_end_every_other_answer(parrot: Running, fields: dict[str, Any]) -> None:
    answer = parrot.post("/v1/chat/completions", {"model": "parrot", "messages": USER, **fields})
    assert answer.json()["choices"][0]["message"]["content"] == "{"


def test_a_requests_own_stop_holds_beside_a_format(parrot: Running) -> None:
    fields = {"response_format": {"type": "json_object"}, "stop": '"red'}
    answer = parrot.post("/v1/chat/completions", {"model": "parrot", "messages": USER, **fields})
    assert answer.json()["choices"][0]["message"]["content"] == '{\n"colour": '


def test_ollamas_format_is_json_too(parrot: Running) -> None:
    body = {"model": "parrot", "messages": USER, "stream": False}
    for form in ("json", SCHEMA):
        answer = parrot.post("/api/chat", {**body, "format": form})
        assert json.loads(answer.json()["message"]["content"]) == {"colour": "red"}


# Forced calls of tools

MIX = {"type": "object", "properties": {"of": {"$ref": "#/$defs/Colour"}}, "$defs": {"Colour": SCHEMA}}
PAINT: Any = {"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": SCHEMA}}
BLEND: Any = {"type": "function", "function": {"name": "blend", "parameters": MIX}}
NAMED: Any = {"type": "function", "function": {"name": "paint"}}


def sdk_of(running: Running, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0, **options)


@pytest.mark.proves("local", "tool_choice")
@pytest.mark.parametrize(
    ("says", "tools", "choice", "name", "arguments"),
    [
        (SAYS, [PAINT], NAMED, "paint", {"colour": "red"}),
        (SAYS, [BLEND, PAINT], NAMED, "paint", {"colour": "red"}),
        (SAYS, [PAINT], "required", "paint", {"colour": "red"}),
        (
            '{"name": "blend", "arguments": {"of": {"colour": "blue"}}}',
            [PAINT, BLEND],
            "required",
            "blend",
            {"of": {"colour": "blue"}},
        ),
    ],
)
def test_a_tool_is_called_because_it_has_to(
    local: Callable[..., Running], tmp_path: Path, says: str, tools: Any, choice: Any, name: str, arguments: Any
) -> None:
    """The model's template has no place for tools, as that of the shipped one."""
    running = local(parrot={"path": str(write_parrot(tmp_path / "p.gguf", says)), "stop": ["\n"]})
    with sdk_of(running) as sdk:
        asked: Any = {"model": "parrot", "messages": USER, "tools": tools, "tool_choice": choice}
        answer = sdk.chat.completions.create(**asked)
        (call,) = answer.choices[0].message.tool_calls or ()
        assert (call.function.name, json.loads(call.function.arguments)) == (name, arguments)
        assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)
        with sdk.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion().choices[0]
        (call,) = streamed.message.tool_calls or ()
        assert (call.function.name, json.loads(call.function.arguments)) == (name, arguments)
        assert (streamed.finish_reason, streamed.message.content) == ("tool_calls", None)


def test_a_call_that_is_cut_says_so(parrot: Running) -> None:
    fields = {"tools": [PAINT], "tool_choice": NAMED, "max_tokens": 4}
    choice = parrot.post("/v1/chat/completions", {"model": "parrot", "messages": USER, **fields}).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert SAYS.startswith(choice["message"]["tool_calls"][0]["function"]["arguments"])


def test_a_tool_that_is_not_there_cannot_be_forced(parrot: Running) -> None:
    fields = {"tools": [BLEND], "tool_choice": NAMED}
    answer = parrot.post("/v1/chat/completions", {"model": "parrot", "messages": USER, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")


def test_the_shipped_model_answers_with_json(gateway: Callable[..., Running]) -> None:
    running = gateway(llm={"providers": {"local": {"timeouts": {"first_byte": 500}}}})  # beside busy processors
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0, timeout=500) as sdk:
        messages: Any = [
            {"role": "user", "content": "Give me a user as JSON with name and age: Jason is 25 years old."}
        ]
        person = sdk.chat.completions.parse(model="gemma-3-270m", messages=messages, response_format=Person)
        parsed = person.choices[0].message.parsed
        assert parsed is not None
        assert (parsed.name, parsed.age) == ("Jason", 25)
        free = sdk.chat.completions.create(
            model="gemma-3-270m", messages=messages, response_format={"type": "json_object"}
        )
    assert json.loads(free.choices[0].message.content or "")["name"] == "Jason"

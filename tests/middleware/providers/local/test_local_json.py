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

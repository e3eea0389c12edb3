"""Bodies that cannot be kept as they were written are refused by every route, whatever their size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from running_gateway import Running

NUMBER = "123456789012345678901234567890"
LONG = "x" * 2**20
"""Makes a body larger than 1 MiB, which was once not looked through."""
BODIES = {
    "PUT /kv/k": '{"value": {"order": VALUE}}',
    "POST /collections/c/documents": '{"documents": [{"text": "LONG", "metadata": {"order": VALUE}}]}',
    "POST /vdb/v": '{"items": [{"vector": [1, 2], "text": "LONG", "metadata": {"order": VALUE}}]}',
    "POST /memory": '{"session_id": "s", "content": "LONG", "metadata": {"order": VALUE}}',
    "POST /memory/search": '{"query": "q", "filter": {"order": VALUE}}',
    "POST /search": '{"query": "LONG", "collection": "c", "filter": {"order": VALUE}}',
    "POST /v1/chat/completions": '{"model": "m", "messages": [{"role": "user", "content": "LONG"}], "seed": VALUE}',
    "POST /v2/chat": '{"model": "m", "messages": [{"role": "user", "content": "LONG"}], "seed": VALUE}',
    "POST /api/chat": '{"model": "m", "messages": [{"role": "user", "content": "LONG"}], "options": VALUE}',
    "POST /generate": '{"model": "m", "prompt": "LONG", "seed": VALUE}',
}


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    return module_gateway()


def send(running: Running, route: str, body: str, media_type: str = "application/json") -> requests.Response:
    method, path = route.split(" ")
    return running.request(method, path, data=body.encode(), headers={"Content-Type": media_type})


def message(answer: requests.Response) -> str:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("size", ["", LONG], ids=["small", "large"])
@pytest.mark.parametrize("route", BODIES)
def test_a_number_of_more_than_64_bits_is_refused(running: Running, route: str, size: str) -> None:
    body = BODIES[route].replace("LONG", size or "x").replace("VALUE", NUMBER)
    assert f"the number {NUMBER} takes more than 64 bits" in message(send(running, route, body))


def test_a_line_of_ndjson_names_itself(running: Running) -> None:
    lines = f'{{"text": "{LONG}"}}\n{{"text": "x", "metadata": {{"order": {NUMBER}}}}}'
    answer = send(running, "POST /collections/c/documents", lines, "application/x-ndjson")
    assert message(answer) == f"line 2: the number {NUMBER} takes more than 64 bits"


@pytest.mark.parametrize("depth", [201, 1005, 100_000])
@pytest.mark.parametrize("route", BODIES)
def test_deep_nesting_is_refused(running: Running, route: str, depth: int) -> None:
    value = "[" * depth + "1234567890123456789" + "]" * depth
    answer = send(running, route, BODIES[route].replace("VALUE", value))
    assert "nested more than 200 levels" in message(answer) or "depth limit" in message(answer)


def test_numbers_of_64_bits_and_their_texts_are_kept(running: Running) -> None:
    value = {"most": 2**64 - 1, "least": -(2**63), "text": NUMBER, "list": f"[1, {NUMBER}]"}
    for padding in ("", "x" * (2**20 - 300)):
        answer = running.request("PUT", "/kv/k", json={"value": {**value, "padding": padding}})
        assert answer.status_code == 200, answer.text
        assert running.get("/kv/k").json()["value"] == {**value, "padding": padding}


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({"query": []}, "query", "at least 1 item"),
        ({"query": ""}, "query", "at least 1 character"),
        ({"query": ["a", 5]}, "query.1", "valid string"),
        ({"query": 5}, "query", "valid string"),
        ({}, "query", "required"),
        ({"query": "a", "ranking_options": {"score_threshold": 2}}, "ranking_options.score_threshold", "less than"),
    ],
)
def test_a_fault_is_told_of_a_field_that_is_there(running: Running, body: object, field: str, told: str) -> None:
    """Where a value may be of several types, the types' names are no part of the field's."""
    answer = running.post("/v1/vector_stores/vs_none/search", body)
    assert told in message(answer), answer.text
    assert answer.json()["error"]["param"] == field

"""Every vendor that is a row of PRESETS, behind the gateway: what it has goes through, what it lacks is refused.

All rows are walked over, so a new row is proven here without a line more. One scripted server of OpenAI's wire stands
for all of them; each vendor is told from the others by its key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from running_gateway import Running, run_gateway
from upstream import Received, Script, Upstream, openai_like, reply

from sage.middleware.settings.kinds import KINDS, PRESETS
from sage.middleware.settings.settings import Settings
from sage.middleware.settings.vendors.kind import Preset

pytestmark = pytest.mark.slow  # every preset

HELLO = [{"role": "user", "content": "hello out there"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object"}}}
# Feature of the table → what a row may call it, and a chat's fields that ask for it.
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "tools": ("tools", {"tools": TOOLS}),
    "tool_choice": ("tool_choice:required", {"tools": TOOLS, "tool_choice": "required"}),
    "response_format json_schema": ("response_format:json_schema", {"response_format": SCHEMA}),
    "response_format json_object": ("response_format:json_object", {"response_format": {"type": "json_object"}}),
    "stop": ("stop", {"stop": ["END"]}),
    "seed": ("seed", {"seed": 7}),
    "logprobs": ("logprobs", {"logprobs": True}),
    "n": ("n", {"n": 2}),
}
# Feature → the operation that it is, and a request for it.
OPERATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("completions", {"prompt": "hello"}),
    "speech": ("audio/speech", {"input": "hello", "voice": "a"}),
    "image generation": ("images/generations", {"prompt": "hello"}),
    "moderations": ("moderations", {"input": ["hello"]}),
    "embeddings": ("embeddings", {"input": ["hello"]}),
    "rerank": ("rerank", {"query": "a", "documents": ["b"]}),
    "score": ("score", {"text_1": "a", "text_2": "b"}),
    "tokenize": ("tokenize", {"prompt": "hello"}),
}


FORM = "audio/transcriptions"


def vendors(*features: str, when: Callable[[Preset], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Runs the test for each row, as proof of ``features``; only for rows of which ``when`` holds."""
    rows = [
        pytest.param(row, id=row.name, marks=_proves(row, *features)) for row in PRESETS if is_plain(row) and when(row)
    ]
    return pytest.mark.parametrize("row", rows)


def each(table: dict[str, tuple[str, Any]], lacks: Callable[[Preset, str], bool]) -> pytest.MarkDecorator:
    """Runs the test for each row with each feature of ``table``."""
    return pytest.mark.parametrize(
        ("row", "feature"),
        [
            pytest.param(row, name, id=f"{row.name}-{name}", marks=_proves(row, name, refused=lacks(row, word)))
            for row in PRESETS
            if is_plain(row)
            for name, (word, _) in table.items()
        ],
    )


def _proves(row: Preset, *features: str, refused: bool = False) -> list[pytest.MarkDecorator]:
    return [pytest.mark.proves(row.name, *features, refused=refused)] if features else []


def is_plain(row: Preset) -> bool:
    """Whether requests go below ``/v1`` with a key in ``Authorization``, as the scripted server looks at."""
    return row.name != "azure"  # which has tests of its own


def lacks_field(row: Preset, word: str) -> bool:
    return bool({word, word.partition(":")[0]} & {*row.unsupported})


def lacks_operation(row: Preset, word: str) -> bool:
    return word not in row.operations


def by_key(request: Received) -> Script:
    """As OpenAI's wire has it; each key has a model of its own, and a key that is spent has none left."""
    key = request.headers["authorization"].removeprefix("Bearer sk-")
    if key.endswith("-spent"):
        return reply(status=429, headers={"retry-after": "30"})
    if request.path == "/v1/models":
        return reply({"object": "list", "data": [{"id": f"only-{key}", "object": "model"}]})
    if request.path == "/v1/moderations":
        return reply({"id": "m", "model": "theirs", "results": [{"flagged": False}]})
    if request.path == "/v1/audio/speech":
        return reply(body=b"sound", headers={"content-type": "audio/mpeg"})
    if request.path == "/v1/images/generations":
        return reply({"created": 1, "data": [{"b64_json": "aGVsbG8="}]})
    if request.path == "/v1/rerank":
        return reply({"id": "r", "results": [{"index": 0, "relevance_score": 0.5}]})
    row = KINDS.get(key)
    if isinstance(row, Preset) and row.always_streams_usage and request.body.get("stream"):
        request = replace(request, body={**request.body, "stream_options": {"include_usage": True}})
    return openai_like(request)


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def fresh(up: Upstream) -> None:
    up.requests.clear()
    up.handler = by_key


@pytest.fixture(scope="module")
def running(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with a provider for each row, and one of its kind under another name with several keys."""
    providers: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for row in PRESETS:
        providers[row.name] = {"api_key": f"sk-{row.name}", "base_url": up.url}
        keys = {"api_key": "sk-0-spent", "api_keys": ["sk-1-spent", "sk-2"]}
        providers[f"my-{row.name}"] = {"kind": row.name, "base_url": up.url, **keys}
        deployments = [{"provider": row.name, "model": "theirs"}]
        models[f"{row.name}-lenient"] = {"deployments": deployments, "drop_unsupported": True}
    data = {"data_dir": tmp_path_factory.mktemp("data"), "api": {"port": 0, "access_log": False}}
    with run_gateway(Settings.model_validate({**data, "llm": {"providers": providers, "models": models}})) as gateway:
        yield gateway


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


@vendors("chat", "system", "multi-turn", "usage", "SDK at the gateway")
def test_a_chat(row: Preset, client: openai.OpenAI, up: Upstream) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": "Hi."}, *HELLO]
    answer = client.chat.completions.create(model=f"{row.name}/theirs", messages=messages)  # type: ignore[arg-type]
    assert answer.model == f"{row.name}/theirs"
    assert answer.choices[0].message.content == "hello out there"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 3)
    [request] = up.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer sk-{row.name}"
    assert request.body == {"model": "theirs", "messages": messages}


@vendors("streaming", "usage")
def test_a_stream(row: Preset, client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model=f"{row.name}/theirs", messages=HELLO, stream=True, stream_options=options
    )
    chunks = list(stream)
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == "hello out there"
    assert {chunk.model for chunk in chunks} == {f"{row.name}/theirs"}
    assert chunks[-1].usage.completion_tokens == 3


@each(FIELDS, lacks_field)
def test_a_field_goes_through_or_is_refused(row: Preset, feature: str, running: Running, up: Upstream) -> None:
    word, fields = FIELDS[feature]
    response = running.post("/v1/chat/completions", {"model": f"{row.name}/theirs", "messages": HELLO, **fields})
    if not lacks_field(row, word):
        assert response.status_code == 200, response.text
        expected = {row.renames.get(name, name): value for name, value in fields.items()}
        assert up.requests[0].body == {"model": "theirs", "messages": HELLO, **expected}
        return
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, word.partition(":")[0])
    assert f"the provider '{row.name}' does not support '{error['param']}'" in error["message"]
    assert up.requests == []


@vendors("drop_unsupported", when=lambda row: bool(row.unsupported))
def test_a_lenient_model_leaves_out_what_its_vendor_lacks(row: Preset, running: Running, up: Upstream) -> None:
    lacking: dict[str, Any] = {}
    for word, fields in (*FIELDS.values(), ("logit_bias", {"logit_bias": {"1": 5}})):
        if lacks_field(row, word):
            lacking |= fields
    assert lacking
    response = running.post("/v1/chat/completions", {"model": f"{row.name}-lenient", "messages": HELLO, **lacking})
    assert response.status_code == 200, response.text
    assert up.requests[0].body == {"model": "theirs", "messages": HELLO}


@vendors(when=lambda row: "n" in row.unsupported)
def test_what_happens_anyway_may_be_asked_for(row: Preset, running: Running, up: Upstream) -> None:
    response = running.post("/v1/chat/completions", {"model": f"{row.name}/theirs", "messages": HELLO, "n": 1})
    assert response.status_code == 200, response.text
    assert up.requests[0].body == {"model": "theirs", "messages": HELLO}


@each(OPERATIONS, lacks_operation)
def test_an_operation_goes_through_or_is_refused(row: Preset, feature: str, running: Running, up: Upstream) -> None:
    word, fields = OPERATIONS[feature]
    response = running.post(f"/v1/{word}", {"model": f"{row.name}/theirs", **fields})
    if not lacks_operation(row, word):
        assert response.status_code == 200, response.text
        assert (up.requests[0].path, up.requests[0].body) == (f"/v1/{word}", {"model": "theirs", **fields})
        return
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "unsupported_operation")
    assert error["message"] == f"the provider '{row.name}' has no {word}; ask another model"
    assert up.requests == []


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=_proves(row, "transcriptions", refused=lacks_operation(row, FORM)))
        for row in PRESETS
        if is_plain(row)
    ],
)
def test_a_form_goes_through_or_is_refused(row: Preset, running: Running, up: Upstream) -> None:
    up.handler = lambda _: reply({"text": "hello"})
    form = {"data": {"model": f"{row.name}/theirs"}, "files": {"file": ("a.wav", b"RIFF")}}
    response = running.post(f"/v1/{FORM}", **form)
    if lacks_operation(row, FORM):
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_operation")
        assert up.requests == []
        return
    assert response.json() == {"text": "hello"}
    assert up.requests[0].path == f"/v1/{FORM}"
    assert b'name="model"\r\n\r\ntheirs\r\n' in up.requests[0].raw
    assert up.requests[0].headers["authorization"] == f"Bearer sk-{row.name}"


@vendors("list models", when=lambda row: row.lists_models)
def test_a_model_that_only_the_vendor_lists(row: Preset, client: openai.OpenAI, up: Upstream) -> None:
    answer = client.chat.completions.create(model=f"only-{row.name}", messages=HELLO)
    assert answer.model == f"only-{row.name}"
    assert up.requests[-1].headers["authorization"] == f"Bearer sk-{row.name}"


@vendors("several keys")
def test_under_another_name_with_several_keys(row: Preset, client: openai.OpenAI, up: Upstream) -> None:
    for _ in range(3):
        client.chat.completions.create(model=f"my-{row.name}/theirs", messages=HELLO)
    keys = Counter(request.headers["authorization"] for request in up.requests)
    assert keys["Bearer sk-2"] == 3
    assert len(up.requests) <= 5  # each spent key was tried once at most


@vendors("errors")
def test_an_error_of_the_vendors(row: Preset, client: openai.OpenAI, up: Upstream) -> None:
    failure = {"error": {"message": "no such thing", "type": "x", "param": "stop", "code": "no_can_do"}}
    up.handler = lambda _: reply(failure, status=400)
    refused = f"the provider '{row.name}' answered 400: no such thing"
    with pytest.raises(openai.BadRequestError, match=refused) as caught:
        client.chat.completions.create(model=f"{row.name}/theirs", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("no_can_do", "stop")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway without any vendor's key."""
    providers = {f"my-{row.name}": {"kind": row.name} for row in PRESETS}
    data = {"data_dir": tmp_path_factory.mktemp("data"), "api": {"port": 0, "access_log": False}}
    with run_gateway(Settings.model_validate({**data, "llm": {"providers": providers}})) as gateway:
        yield gateway


@vendors()
def test_not_configured_says_what_to_set(row: Preset, bare: Running) -> None:
    variable = next(name for name, key in row.variables.items() if key in row.needs)
    for model in (f"{row.name}/theirs", f"my-{row.name}/theirs"):
        answer = bare.chat(model)
        assert answer.status_code == 404
        assert f"it is not configured: set {variable}, or its {row.needs[0]}" in answer.json()["error"]["message"]

"""What a request may ask for: what multiplies work is bounded, what diverts it is refused, each naming its field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_gateway import Running
from upstream import Upstream

from sage.errors import InvalidRequest
from sage.middleware.gateway.admission import CHOICE_FIELDS, TOKEN_FIELDS, check
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.settings.settings import RequestLimits

LIMITS = RequestLimits(max_tokens=100, max_choices=4, max_inputs=3, image_hosts=("img.example", "img.example:81"))
MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def refused(operation: Operation, body: dict[str, Any]) -> InvalidRequest | None:
    try:
        check(ModelCall(operation, body, "m"), LIMITS)
    except InvalidRequest as exc:
        return exc
    return None


@pytest.mark.parametrize("field", TOKEN_FIELDS)
@pytest.mark.parametrize("value", [101, -3, 1.5, "7", True, [1], 10**30])
def test_tokens_are_bounded_under_every_name(field: str, value: Any) -> None:
    error = refused(Operation.CHAT, {"messages": MESSAGES, field: value})
    assert error is not None
    assert error.param == field
    assert refused(Operation.CHAT, {"messages": MESSAGES, field: 100}) is None


@pytest.mark.parametrize("field", CHOICE_FIELDS)
def test_choices_are_bounded_under_every_name(field: str) -> None:
    assert refused(Operation.CHAT, {"messages": MESSAGES, field: 5}).param == field
    assert refused(Operation.CHAT, {"messages": MESSAGES, field: 4}) is None
    assert refused(Operation.CHAT, {"messages": MESSAGES, field: None}) is None


def test_prompts_times_choices_are_bounded() -> None:
    assert refused(Operation.COMPLETIONS, {"prompt": ["a"] * 4}) is None
    assert refused(Operation.COMPLETIONS, {"prompt": ["a"] * 5}).param == "prompt"
    assert refused(Operation.COMPLETIONS, {"prompt": ["a", "b"], "n": 3}).param == "prompt"
    assert refused(Operation.COMPLETIONS, {"prompt": ["a", "b"], "best_of": 2}) is None
    # A list of tokens is one prompt.
    assert refused(Operation.COMPLETIONS, {"prompt": [1, 2, 3, 4, 5, 6]}) is None
    assert refused(Operation.COMPLETIONS, {"prompt": []}).param == "prompt"


def test_inputs_are_bounded() -> None:
    assert refused(Operation.EMBEDDINGS, {"input": ["a"] * 3}) is None
    assert refused(Operation.EMBEDDINGS, {"input": ["a"] * 4}).param == "input"
    assert refused(Operation.EMBEDDINGS, {"input": [1] * 9}) is None
    assert refused(Operation.EMBEDDINGS, {}).param == "input"


def image(url: Any, kind: str = "image_url") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: url}]}]}


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://other.example/a.png",
        "file:///etc/passwd",
        "ftp://img.example/a.png",
        "https://img.example.evil.example/a.png",
        "https://img.example@evil.example/a.png",
        "https://evil.example#@img.example/",
        "//img.example/a.png",
        "https://[bad/a.png",
        "https://img.example:8443/a.png",
        "http://evil.example\\@img.example/a",
        "http:/evil.example/a",
        " http://evil.example/a",
        "https://img.example/a\tb",
        7,
        None,
    ],
)
@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
def test_no_upstream_is_made_to_fetch_from_elsewhere(url: Any, kind: str) -> None:
    error = refused(Operation.CHAT, image({"url": url}, kind))
    assert error is not None
    assert error.param == f"messages[0].content[0].{kind}"
    assert refused(Operation.CHAT, image(url, kind)) is not None


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64,AAAA", "https://img.example/a.png", "http://IMG.example:80/x", "http://img.example:81/x"],
)
def test_data_and_allowed_hosts_go(url: str) -> None:
    assert refused(Operation.CHAT, image({"url": url})) is None


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "http://169.254.169.254/"},
        {"type": "image", "source": {"type": "url", "url": "http://evil.example/"}},
        {"type": "file", "file": {"file_url": "https://evil.example/"}},
        {"type": "file", "file": {"uri": "s3:bucket"}},
        {"type": "input_audio", "input_audio": {"data": "http://evil.example/a.wav"}},
        {"type": "image", "image": "\x01ht\ttps://evil.example/a"},
        {"type": "images", "images": ["data:image/png;base64,AA", "//evil.example/a"]},
        {"type": "video", "video": [{"frame": "FILE:///etc/passwd"}]},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "text", "text": {"url": "http://evil.example/"}},
    ],
)
def test_every_spelling_of_a_fetch_is_seen(part: dict[str, Any]) -> None:
    for body in (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]},
        {"messages": [{"role": "user", "content": [part]}], "input": "x"},
    ):
        for operation in (Operation.CHAT, Operation.EMBEDDINGS):
            error = refused(operation, body)
            assert error is not None
            assert error.param.startswith("messages[0].content[")
    assert refused(Operation.EMBEDDINGS, {"input": [part]}) is not None
    assert refused(Operation.CHAT, {"messages": [{"role": "user", "content": part}]}) is not None


def test_a_url_in_plain_text_is_not_fetched() -> None:
    parts = [
        {"type": "text", "text": "see http://evil.example/ and file:///etc/passwd"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "//uQZAAAAAAAAAAA/+/AA==", "format": "mp3"}},
        {"type": "image", "image": "/9j/4AAQSkZJRgABAQAAAQABAAD"},
        {"type": "tool_result", "content": "Note: all is well", "id": "call:1"},
        {"type": "tool_use", "id": "a", "name": "fetch", "input": {"url": ELSEWHERE, "path": "/etc/hosts"}},
        {"type": "tool_result", "tool_use_id": "a", "content": "/etc/hosts: see http://evil.example/"},
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "/etc/hosts"}]},
    ]
    assert refused(Operation.CHAT, {"messages": [{"role": "user", "content": parts}]}) is None


ELSEWHERE = "http://169.254.169.254/latest"


@pytest.mark.parametrize(
    "body",
    [
        {"image_url": ELSEWHERE},
        {"image_url": {"url": ELSEWHERE}},
        {"images": [ELSEWHERE]},
        {"audio": {"voice": "https://evil.example/voice.wav"}},
        {"extra_body": {"deep": [{"deeper": {"ref": ELSEWHERE}}]}},
        {"documents": [{"text": "x", "url": ELSEWHERE}]},
        {"documents": ["x", {"text": "x", "image": ELSEWHERE}]},
        {"tools": [{"type": "mcp", "server_label": "x", "server_url": ELSEWHERE}]},
        {"tools": [{"type": "function", "function": {"name": "f"}, "server_url": ELSEWHERE}]},
        {"mcp_servers": [{"type": "url", "url": ELSEWHERE}]},
        {"callback_url": "evil.example/hook"},
        {"input": [{"image": ELSEWHERE}]},
        {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": ELSEWHERE}}]}]},
        {"chat_history": [{"message": {"image": ELSEWHERE}}]},
        {"query": {"image": ELSEWHERE}},
        {"prompt": [["x", {"multimodal_data": [ELSEWHERE]}]]},
        {"messages": [{"role": "user", "content": "x", "images": [ELSEWHERE]}]},
        {"messages": [{"role": "user", "content": "x", "attachments": [{"path": "/etc/passwd"}]}]},
        {"messages": [{"role": "user", "content": [], "image_url": {"url": ELSEWHERE}}]},
    ],
)
def test_addresses_are_seen_wherever_they_stand(body: dict[str, Any]) -> None:
    error = refused(Operation.CHAT, {"messages": MESSAGES, **body})
    assert error is not None
    assert error.code == "url_not_allowed"
    allowed = "https://img.example/a"
    changed = eval(repr(body).replace(ELSEWHERE, allowed))
    if changed != body:
        assert refused(Operation.CHAT, {"messages": MESSAGES, **changed}) is None


@pytest.mark.parametrize(
    "text",
    [
        "\u3000http://evil.example/a",
        "\ufeffhttp://evil.example/a",
        "\u200b\u00a0\u2028http://evil.example/a",
        " " * 1000 + "http://evil.example/a",
        "h\u200bttp://evil.example/a",
        "h" + "\u200b" * 1000 + "ttp://evil.example/a",
        "ｈｔｔｐ：／／evil.example/a",
        "<URL:http://evil.example/a>",
        '"http://evil.example/a"',
        "view-source:http://evil.example/a",
        "feed:https://evil.example/a",
        "jar:file:/a.jar!/b",
        "local_file:///etc/passwd",
        "blob:x",
        "/etc/passwd",
        "/proc/self/environ" * 300,
        "/9j/../etc/passwd",
        "@/etc/passwd",
        "~/.ssh/id_rsa",
        "~root/x",
        "../secret",
        "./secret",
        "$HOME/secret",
        "%SystemRoot%\\win.ini",
        "C:\\Windows\\win.ini",
        "c:/windows/win.ini",
        "\\\\host\\share\\a.png",
        "//host/share/a.png",
        "\\\\?\\C:\\a",
        "file:secret",
        "169.254.169.254/latest",
        "localhost:9200/_search",
        "[::1]:80/x",
        "unix:/run/docker.sock",
        "secret.png",
    ],
)
def test_readers_of_urls_and_paths_forgive_much(text: str) -> None:
    part = {"type": "image", "image": text}
    for body in ({"messages": [{"role": "user", "content": [part]}]}, {"messages": MESSAGES, "image": text}):
        error = refused(Operation.CHAT, body)
        assert error is not None, text
        assert error.code == "url_not_allowed"


def test_words_and_data_are_no_addresses() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "see http://evil.example/", "name": "a/b"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "/x", "type": "function", "function": {"name": "f", "arguments": "http://x/"}}],
                "annotations": [{"type": "url_citation", "url_citation": {"url": "https://evil.example/"}}],
                "reasoning_content": "/think about http://x/",
            },
            {"role": "tool", "tool_call_id": "call/1", "content": "/etc/passwd"},
        ],
        "metadata": {"source": "https://evil.example/"},
        "user": "https://evil.example/me",
        "stop": ["</s>", "/", "http://"],
        "stop_sequences": ["</think>"],
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"$schema": "http://json-schema.org/"}}}
        ],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"$id": "https://x.example/a"}}},
        "documents": ["https://evil.example/", {"id": "/a", "text": "http://x/", "data": {"url": "http://x/"}}],
        "reasoning_effort": "low",
        "image": "iVBORw0KGgoAAAANSUhEUgAA/+AA==",
        "think_token": "</think>",
    }
    assert refused(Operation.CHAT, body) is None
    assert refused(Operation.EMBEDDINGS, {"input": ["http://x/", "/etc/passwd"]}) is None
    assert refused(Operation.SCORE, {"text_1": "http://x/", "text_2": ["http://x/", "/etc"]}) is None
    assert refused(Operation.COMPLETIONS, {"prompt": ["http://x/", "/etc/passwd"]}) is None
    assert refused(Operation.RERANK, {"query": "http://x/", "documents": ["http://x/", "/etc"]}) is None


@pytest.mark.parametrize(
    "body",
    [
        {"use_beam_search": True, "beam_width": 1_000_000},
        {"num_beams": 5},
        {"numBeams": 5},
        {"candidateCount": 5},
        {"generation_config": {"candidate_count": 5}},
        {"options": {"n": 5}},
        {"thinking": {"type": "enabled", "budget_tokens": 10**9}},
        {"reasoning": {"max_tokens": 101}},
        {"thinking_budget": 10**9},
        {"max_thinking_tokens": 101.5},
        {"maxOutputTokens": 101},
        {"options": {"num_ctx": 10**9}},
        {"options": {"num_ctx": "1000000000"}},
        {"options": {"num_batch": 101}},
        {"options": {"num_thread": 1000}},
        {"repeat_last_n": 2147483647},
        {"dry_penalty_last_n": -2147483648},
        {"top_k": 10**30},
        {"truncate_prompt_tokens": 1e308},
        {"chat_template_kwargs": {"thinking_budget": 10**9}},
        {"sizes": {"window": [1, 10**9]}},
        {"top_logprobs": 21},
        {"prompt_logprobs": -1},
        {"n_probs": 100},
        {"logprobs": 10**6},
        {"top_n_tokens": 21},
        {"logit_bias": {str(n): 1 for n in range(1025)}},
        {"allowed_token_ids": list(range(1025))},
        {"stop": [str(n) for n in range(65)]},
        {"stop": ["x" * 1025]},
        {"stop_token_ids": list(range(65))},
        {"tools": [{"type": "function", "function": {}}] * 1025},
        {"functions": [{"name": "f"}] * 1025},
        {"metadata": {str(n): "" for n in range(1025)}},
        {"guided_regex": "((a{1,100}){1,100}){1,100}"},
        {"guided_regex": "a" * 8193},
        {"guided_grammar": "a" * (128 * 1024 + 1)},
        {"structured_outputs": {"regex": "(a{1,999}){999}"}},
        {"structured_outputs": {"grammar": "a" * (128 * 1024 + 1)}},
        {"grammar": {"type": "regex", "value": "(a{1,999}){999}"}},
        {"format": {"properties": {"a": {"pattern": "(a{1,999}){999}"}}}},
        {"guided_json": '{"patternProperties": {"(a{1,999}){999}": {}}}'},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array", "minItems": 10**9}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [""] * 30_000}}}},
        {"response_format": {"json_schema": {"schema": {"anyOf": [{"pattern": "a{2}" * 2000}] * 3}}}},
        {"unknown": [[0] * 1000] * 21},
        {"messages": MESSAGES * 10_001},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 20_001}]},
    ],
    ids=lambda body: ",".join(body),
)
def test_what_multiplies_work_is_bounded_by_its_name(body: dict[str, Any]) -> None:
    error = refused(Operation.CHAT, {"messages": MESSAGES, **body})
    assert error is not None
    assert error.param.partition(".")[0].partition("[")[0] in body


def test_words_about_loading_a_model_are_bounded_too(hosting: tuple[Running, Upstream]) -> None:
    """Ollama's options travel beside the body to the vendors that have them."""
    running, up = hosting
    before = len(up.requests)
    body = {"model": "openai", "messages": MESSAGES, "stream": False, "options": {"num_ctx": 10**9}}
    answer = running.post("/api/chat", body)
    assert answer.status_code == 400
    assert "'options.num_ctx' must be 131072 at most" in answer.json()["error"]
    pictures = [{"role": "user", "content": "x", "images": [ELSEWHERE]}]
    assert running.post("/api/chat", {"model": "openai", "messages": pictures}).status_code == 400
    assert running.post("/api/generate", {"model": "openai", "prompt": "x", "images": [ELSEWHERE]}).status_code == 400
    assert len(up.requests) == before


def test_usual_parameters_pass() -> None:
    body = {
        "top_k": 40,
        "min_p": 0.05,
        "top_logprobs": 20,
        "logprobs": True,
        "seed": 2**63 - 1,
        "random_seed": 10**12,
        "created": 1_760_000_000,
        "max_time_ms": 600_000,
        "repeat_last_n": -1,
        "options": {"num_ctx": 100, "num_gpu": 99, "rope_frequency_base": 1e6, "seed": 2**40},
        "thinking": {"type": "enabled", "budget_tokens": 100},
        "logit_bias": {"50256": -100},
        "service_tier": "auto",
        "store": True,
        "guided_regex": r"(\d{1,3}\.){3}\d{1,3}|[\w.%+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,63}",
        "guided_json": "no JSON",
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "schema": {
                    "properties": {
                        f"p{n}": {"type": "string", "maxLength": 10**9, "minLength": 500} for n in range(2000)
                    },
                    "patternProperties": {"^x-": {"pattern": "^https?://.{1,2000}$", "format": "uri"}},
                }
            },
        },
    }
    parts = [{"type": "video", "video": "data:video/mp4;base64,AA", "fps": 2, "max_pixels": 1_003_520}]
    assert refused(Operation.CHAT, {"messages": [{"role": "user", "content": parts}], **body}) is None


def test_lists_of_tokens_are_bounded() -> None:
    assert refused(Operation.EMBEDDINGS, {"input": [1] * 101}).param == "input"
    assert refused(Operation.EMBEDDINGS, {"input": [[1], [1] * 101]}).param == "input"
    assert refused(Operation.COMPLETIONS, {"prompt": [1] * 101}).param == "prompt"
    assert refused(Operation.EMBEDDINGS, {"input": [[1] * 100] * 3}) is None
    assert refused(Operation.RERANK, {"query": "x", "documents": ["x"], "top_n": 101}).param == "top_n"


def test_names_to_fall_back_on_are_bounded(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    for path, body in (("/generate", {"prompt": "x"}), ("/v1/chat/completions", {"messages": MESSAGES})):
        answer = running.post(path, {"model": "bench", **body, "models": ["up0/" + "x" * 300]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "models"
    assert running.get("/models/up0/" + "x" * 300).status_code == 400
    assert up.requests == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
known_fields = st.sampled_from(["messages", "prompt", "input", "n", "best_of", "max_tokens", "content", "image_url"])


@given(
    operation=st.sampled_from(list(Operation)), body=st.dictionaries(known_fields | st.text(max_size=5), json_values)
)
@pytest.mark.slow
def test_whatever_comes_is_admitted_or_refused_with_a_field(operation: Operation, body: dict[str, Any]) -> None:
    error = refused(operation, body)
    assert error is None or error.param


def test_refusals_reach_the_caller_and_nothing_is_sent_upstream(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, llm={"limits": {"max_choices": 2, "max_tokens": 10}})
    for fields, param in (({"n": 3}, "n"), ({"max_completion_tokens": 11}, "max_completion_tokens")):
        answer = running.chat(**fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
    answer = running.post("/generate", {"model": "bench", "prompt": "x", "max_tokens": 11})
    assert answer.json()["error"]["param"] == "max_tokens"
    assert up.requests == []


SEARCH = {"type": "web_search", "web_search": {"enable": True}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "mcp", "server_label": "x", "connector_id": "y"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}, SEARCH]}, "tools[1]"),
        ({"tools": [{"type": "web_search_preview_2025_03_11"}]}, "tools[0]"),
        ({"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]}, "tools[0]"),
        ({"tools": [{"google_search": {}}]}, "tools[0]"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"enable_search": True}, "enable_search"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
    ],
)
@pytest.mark.parametrize("kind", ["openai", "vllm", "zhipu"])
def test_hosted_tools_that_fetch_are_refused(
    kind: str, body: dict[str, Any], param: str, hosting: tuple[Running, Upstream]
) -> None:
    running, up = hosting
    before = len(up.requests)
    answer = running.chat(kind, **body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "hosted_tool_not_allowed"
    assert answer.json()["error"]["param"] == param
    assert f"llm.providers.{kind}.hosted_tools" in answer.json()["error"]["message"]
    assert len(up.requests) == before


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [SEARCH, {"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "code_interpreter"}, {"type": "retrieval", "retrieval": {"knowledge_id": "x"}}]},
        {"web_search_options": {}},
        {"enable_search": False},
        {"mcp_servers": None},
    ],
)
def test_hosted_tools_go_where_the_provider_allows_them(
    body: dict[str, Any], hosting: tuple[Running, Upstream]
) -> None:
    running, up = hosting
    answer = running.chat("allowing", **body)
    assert answer.status_code == 200, answer.text
    assert {name: up.requests[-1].body[name] for name in body} == body


def test_an_allowed_tool_reaches_allowed_hosts_only(hosting: tuple[Running, Upstream]) -> None:
    running, _ = hosting
    tool = {"type": "mcp", "server_url": "https://evil.example/"}
    assert running.chat("allowing", tools=[tool]).json()["error"]["code"] == "url_not_allowed"
    assert running.chat("allowing", tools=[{**tool, "server_url": "https://mcp.example/x"}]).status_code == 200


@pytest.fixture(scope="module")
def hosting(module_gateway: Callable[..., Running]) -> Iterator[tuple[Running, Upstream]]:
    """A gateway with models of several kinds at one upstream, and one whose provider allows hosted tools."""
    kinds = {
        "openai": {},
        "vllm": {},
        "zhipu": {},
        "ollama": {},
        "allowing": {"kind": "openai", "hosted_tools": ["web_*", "mcp"]},
    }
    with Upstream() as up:
        providers = {name: {"base_url": up.url, "api_key": "id.secret", **more} for name, more in kinds.items()}
        models = {name: {"deployments": [{"provider": name, "model": "theirs"}]} for name in kinds}
        limits = {"image_hosts": ["mcp.example"]}
        yield module_gateway(llm={"providers": providers, "models": models, "limits": limits}), up


def test_the_name_of_a_file_that_came_along_is_no_path() -> None:
    file = {"filename": "/home/me/a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
    assert (
        refused(Operation.CHAT, {"messages": [{"role": "user", "content": [{"type": "file", "file": file}]}]}) is None
    )
    file = {"filename": "/home/me/a.pdf"}
    error = refused(Operation.CHAT, {"messages": [{"role": "user", "content": [{"type": "file", "file": file}]}]})
    assert error is not None
    assert error.code == "url_not_allowed"


@pytest.mark.parametrize("hidden", [ELSEWHERE, "/etc/passwd", "//evil.example/x", "file:///etc/passwd", " /etc/hosts"])
def test_an_address_behind_the_head_of_a_data_url_stays_there(hosting: tuple[Running, Upstream], hidden: str) -> None:
    """Zhipu and Ollama get pictures without that head."""
    running, up = hosting
    url = f"data:image/png;base64,{hidden}"
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    assert running.post("/v1/chat/completions", {"model": "zhipu", "messages": messages}).status_code == 200
    assert up.requests[-1].body["messages"][0]["content"][0]["image_url"]["url"] == url
    before = len(up.requests)
    assert running.post("/v1/chat/completions", {"model": "ollama", "messages": messages}).status_code == 400
    pictures = [{"role": "user", "content": "x", "images": [hidden]}]
    for model in ("openai", "zhipu", "ollama"):
        assert running.post("/api/chat", {"model": model, "messages": pictures}).status_code == 400
        assert running.post("/api/generate", {"model": model, "prompt": "x", "images": [hidden]}).status_code == 400
    assert len(up.requests) == before

"""Any JSON at the doors of every surface, before every vendor: an error of ours in its envelope, and never a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from running_gateway import Running, run_gateway
from upstream import Upstream

from sage.middleware.settings.kinds import KINDS
from sage.middleware.settings.settings import Settings

VENDORS = tuple(name for name in KINDS if name != "local")
ROUTES = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/rerank": "query",
    "/v2/rerank": "documents",
    "/v1/score": "text_1",
    "/v1/tokenize": "prompt",
    "/v1/detokenize": "tokens",
    "/v2/chat": "messages",
    "/v2/embed": "texts",
    "/api/chat": "messages",
    "/api/generate": "prompt",
    "/api/embed": "input",
    "/api/embeddings": "prompt",
    "/generate": "prompt",
}
WORDS = (
    "role content type text image_url url function name arguments id images tool_calls tool_call_id thinking options "
    "stop format tools json_schema schema response_format think suffix raw n num_predict max_tokens documents query "
    "top_n texts inputs embedding_types output_dimension encoding_format keep_alive system stream tool_choice "
    "strict_tools k p seed stop_sequences text_1 text_2 queries tokens prompt models refusal function_call tool_plan "
    "citations reasoning_content chat_template_kwargs modalities stream_options return_documents messages input"
)
KEYS = st.sampled_from(WORDS.split())
TEXTS = ["", "x", "text", "user", "assistant", "tool", "function", "none", "required", "json_schema", "\u2028", "{"]
LEAVES = st.none() | st.booleans() | st.integers(-1, 2**64 - 1) | st.just(1e308) | st.sampled_from(TEXTS)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "refusal", "thinking", "document"]) | JSON},
    optional=dict.fromkeys(("text", "image_url", "refusal", "thinking", "document"), JSON),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]) | JSON},
        optional={
            "content": st.just("hi") | st.lists(PARTS, max_size=2) | JSON,
            **dict.fromkeys(("tool_calls", "tool_call_id", "images", "function_call", "thinking"), JSON),
        },
    ),
    min_size=1,
    max_size=3,
)
BODIES = st.dictionaries(KEYS, JSON, max_size=4)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway before an upstream that refuses whatever comes to it."""
    with Upstream() as upstream:
        upstream.reply({"error": "so not"}, status=400)
        providers = {
            kind: {"kind": kind, "base_url": upstream.url}
            | ({} if kind in ("vllm", "ollama") else {"api_key": "sk-upstream-key"})
            for kind in VENDORS
        }
        models = {
            kind + end: {"deployments": [{"provider": kind, "model": "theirs"}], "drop_unsupported": bool(end)}
            for kind in VENDORS
            for end in ("", "-easy")
        }
        data = {"data_dir": tmp_path_factory.mktemp("data"), "api": {"port": 0, "access_log": False}}
        with run_gateway(
            Settings.model_validate({**data, "llm": {"providers": providers, "models": models}})
        ) as running_gateway:
            yield running_gateway


@pytest.fixture(scope="module")
def session(running: Running) -> Iterator[requests.Session]:
    with requests.Session() as client:
        client.headers.update(running.headers())
        yield client


@pytest.mark.slow
@given(
    path=st.sampled_from(sorted(ROUTES)),
    model=st.sampled_from([vendor + end for vendor in VENDORS for end in ("", "-easy")]),
    about=JSON,
    messages=MESSAGES,
    further=BODIES,
)
def test_any_body_is_refused_in_our_envelope(
    running: Running,
    session: requests.Session,
    path: str,
    model: str,
    about: Any,
    messages: list[dict[str, Any]],
    further: dict[str, Any],
) -> None:
    body: dict[str, Any] = {ROUTES[path]: messages if ROUTES[path] == "messages" else about}
    answer = session.post(running.url + path, json={**further, **body, "model": model}, timeout=60)
    if answer.status_code == 200:
        assert path.startswith("/api/"), answer.text  # Ollama's way to load a model that is always there
        assert "load" in answer.json()["done_reason"]
        return
    assert 400 <= answer.status_code < 500, answer.text
    response = answer.json()
    detail = {"message": response["error"], **response} if path.startswith("/api/") else response["error"]
    assert detail["code"]
    assert isinstance(detail["message"], str)

"""The OpenAPI document is true of a running gateway, as schemathesis finds by asking every operation in many ways."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for
from project import ROOT
from running_gateway import Running
from upstream import Received, Script, Upstream, openai_like, reply

from sage.middleware.app.main import openapi_document

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

_COMMAND = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
_MORE = ["--max-examples", "20"] if os.environ.get("SAGE_TEST_FULL") else []
_ENVIRONMENT = (
    dict(os.environ) if _MORE else {**os.environ, "SCHEMATHESIS_HOOKS": str(ROOT / "tests/schemathesis_sample.py")}
)


@pytest.mark.slow
def test_every_operation_does_as_its_description_says(gateway: Callable[..., Running], tmp_path: Path) -> None:
    """No 5xx of ours, no answer of an undocumented shape, no body taken that the schema forbids, the right `Allow`."""
    with Upstream() as up:
        up.handler = _vendor
        local = {"models": {"gemma-3-270m": None}}
        providers = {"openai": {"base_url": up.url, "api_key": "sk-upstream"}, "local": local}
        models = {"bench": {"deployments": [{"provider": "openai", "model": "theirs"}]}}
        running = gateway(
            llm={"providers": providers, "models": models, "routing": {"breaker_failures": 1_000_000}},
            retrieval={"defaults": {"embedder": "none"}},
        )
        config, document = str(ROOT / "tests/schemathesis.toml"), f"{running.url}/openapi.json"
        credential = f"Authorization: Bearer {running.key}"
        done = subprocess.run(
            [*_COMMAND, "--config-file", config, "run", document, "-H", credential, "--no-color", *_MORE],
            env=_ENVIRONMENT,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=2400 if _MORE else 240,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated is not None, done.stdout[-2000:]
    assert int(generated[1]) > 2000


def _vendor(request: Received) -> Script:
    """Answers what it understands, and refuses the rest."""
    try:
        return openai_like(request)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError):
        return reply({"error": {"message": "no"}}, status=400)


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    nothing_embeds = {"retrieval": {"defaults": {"embedder": "none"}}, "services": {"memory": {"embedder": "none"}}}
    started = module_gateway(**nothing_embeds)
    started.post("/collections", {"name": "default"})
    return started


@pytest.fixture(scope="module")
def components() -> Any:
    return openapi_document()["components"]


@pytest.mark.parametrize(
    ("path", "name", "good", "bad"),
    [
        (
            "/search",
            "SearchRequest",
            [{"query": "a"}, {"query": "a", "vector": None}],
            [{}, {"query": ""}, {"vector": None}, {"vector": []}, {"query": "", "vector": None}, {"vector": [1e300]}],
        ),
        (
            "/memory/search",
            "MemorySearchRequest",
            [{"query": "a"}, {"query": "a", "vector": None}],
            [{}, {"query": None}, {"query": ""}, {"vector": []}, {"vector": None}, {"query": None, "vector": None}],
        ),
        (
            "/auth/keys",
            "KeyBody",
            [{}, {"scopes": ["kv"]}, {"models": ["gpt-*"]}, {"scopes": None, "models": None, "tenant": None}],
            [
                *({"scopes": scopes} for scopes in ([], ["nothing"], [""])),
                *({"models": models} for models in ([], [""], ["a b"], ["a?"], ["[a]"], ["x" * 257], ["a"] * 51)),
                *({"tenant": tenant} for tenant in ("", "-a", "a b", "x" * 65)),
                {"name": "x" * 101},
                {"expires_at": 2**60},
            ],
        ),
        (
            "/collections",
            "NewCollection",
            [
                {"name": "plain"},
                {"name": "nulls", "embedder": None, "dimension": None, "metric": None, "target_recall": None},
                {"name": "more", "keywords": None, "analysis": None, "shards": None},
                {"name": "most", "keywords": {"variant": None, "k1": None, "delta": None}, "analysis": {"stem": None}},
            ],
            [
                {},
                {"name": ""},
                {"name": "x" * 65},
                {"name": None},
                {"name": "a", "embedder": ""},
                {"name": "a", "metric": "l2"},
                {"name": "a", "keywords": {"k1": -1}},
                {"name": "a", "nothing": 1},
            ],
        ),
    ],
)
def test_a_schema_is_as_strict_as_the_gateway(
    running: Running, components: Any, path: str, name: str, good: list[Any], bad: list[Any]
) -> None:
    schema = validator_for({"$ref": f"#/components/schemas/{name}", "components": components})
    for body in good:
        answer = running.post(path, body)
        assert answer.ok, (body, answer.text)
        assert schema.is_valid(body), body
    for body in bad:
        answer = running.post(path, body)
        assert answer.status_code == 400, (body, answer.text)
        assert not schema.is_valid(body), body


@pytest.mark.parametrize("path", ["/api/show", "/auth/refresh", "/models/m"])
def test_a_body_that_is_no_text_is_no_json(running: Running, path: str) -> None:
    for body in (b"\xb0\xaa#1aL\x89", b"{", b"[" * 5000):
        answer = running.request("POST", path, data=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        error = answer.json()["error"]
        if path.startswith("/api/"):
            assert isinstance(error, str)
        else:
            assert error["code"] == "invalid_json", (body[:9], error)

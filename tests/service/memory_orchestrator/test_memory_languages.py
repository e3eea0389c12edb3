"""Memories in any language: which local embedder ``auto`` is, and that stored vectors keep theirs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from sage.middleware.retrieval.embedding.builtin import E5, EARLIER_MINILM, MINILM, builtin_embedder
from sage.service import MemoryOrchestratorService

pytestmark = pytest.mark.slow

CHINESE = ["上班坐地铁比开车快，早高峰尤其如此。", "猫在沙发上睡觉。", "公司食堂中午十二点开门。"]


def test_memories_are_found_by_their_meaning_in_chinese_whatever_came_first(tmp_path: Path) -> None:
    with MemoryOrchestratorService(persist_directory=str(tmp_path)) as memory:
        assert memory.health()["embedder"] == E5.full_name
        memory.store_memory("s", "I like tea.")
        for text in CHINESE:
            memory.store_memory("s", text)
        results = memory.search_memories("上班通勤方式", limit=4)
        assert results[0]["content"] == CHINESE[0]


def test_memories_of_an_earlier_release_keep_their_embedder(tmp_path: Path) -> None:
    with MemoryOrchestratorService(persist_directory=str(tmp_path), embedder="local") as memory:
        memory.store_memory("s", "own vector", vector=[1.0] * 384)
        memory.store_memory("s", "The cat sleeps on the sofa.")
        expected = memory.search_memories("a sleeping pet")[0]["relevance"]
    with MemoryOrchestratorService(persist_directory=str(tmp_path)) as memory:
        assert memory.search_memories("a sleeping pet")[0]["relevance"] == pytest.approx(expected, abs=1e-6)
        memory.store_memory("s", "The dog barks at night.")
        with MemoryOrchestratorService(persist_directory=str(tmp_path), embedder=MINILM.name) as same:
            assert same.search_memories("a noisy pet")[0]["content"] == "The dog barks at night."


def test_memories_whose_embedder_was_called_local_keep_it(tmp_path: Path) -> None:
    earlier = builtin_embedder(EARLIER_MINILM.full_name)
    assert earlier is not None
    with MemoryOrchestratorService(persist_directory=str(tmp_path), embedder=earlier.name) as memory:
        memory.store_memory("s", "The cat sleeps on the sofa.", tenant="earlier")
    for name in ("auto", "local"):
        text = f"The dog barks at night, says {name}."
        with MemoryOrchestratorService(persist_directory=str(tmp_path), embedder=name) as memory:
            for tenant in ("earlier", "new"):
                memory.store_memory(name, text, tenant=tenant)
                stored = map(json.loads, memory.export_memories(tenant=tenant)["lines"])
                (vector,) = (each["vector"] for each in stored if each["content"] == text)
                is_earlier = np.allclose(vector, earlier.embed([text])[0], atol=1e-5)
                assert is_earlier == (tenant == "earlier")


def test_an_embedder_that_does_not_know_the_language_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), MemoryOrchestratorService(embedder="local") as memory:
        memory.store_memory("s", "The cat sleeps on the sofa.")
        assert caplog.messages == []
        for text in CHINESE:
            memory.store_memory("s", text)
    (warning,) = caplog.messages
    assert MINILM.full_name in warning
    assert "embed-multilingual" in warning

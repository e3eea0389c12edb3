"""Local models as embedders and rerankers of collections, before real llama.cpp engines and tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gateway_thread import GatewayThread
from tiny_gguf import EMBEDDING_LENGTH, write_embedder, write_reranker

from sage.errors import SageError
from sage.middleware.gateway.collections.embedders import RegistryModels
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow


def test_local_models_embed_and_rerank_for_collections(tmp_path: Path) -> None:
    models = {
        "vectors": {"path": str(write_embedder(tmp_path / "e.gguf", context=256)), "task": "embed", "parallel": 1},
        "order": {"path": str(write_reranker(tmp_path / "r.gguf")), "task": "rerank", "parallel": 1},
        "gemma-3-270m": None,
    }
    settings = Settings.model_validate({"data_dir": tmp_path, "llm": {"providers": {"local": {"models": models}}}})
    with GatewayThread(settings) as running:
        models = RegistryModels(running.running_gateway)
        embedder = models.embedder("local/vectors")  # which loads it
        assert embedder is not None
        texts = [f"the red cat {number}" for number in range(70)]
        vectors = embedder.embed([*texts, texts[0]])
        assert vectors.shape == (71, EMBEDDING_LENGTH)
        assert embedder.dimension == EMBEDDING_LENGTH
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert np.allclose(vectors[0], vectors[70], atol=1e-5)
        assert np.allclose(embedder.embed(["the red cat 3"], query=True)[0], vectors[3], atol=1e-5)
        scores = models.reranker("local/order").rerank("cat", ["the red cat", "bread and water", "the red cat"])
        assert scores[0] == pytest.approx(scores[2], abs=1e-5)
        assert scores[0] != pytest.approx(scores[1], abs=1e-5)
        with pytest.raises(SageError):
            models.embedder("local/order").embed(["a text for a model that reranks"])

"""Embeddings between OpenAI's shape and Google's: pure functions.

Source: Google's API reference (``models.batchEmbedContents``), and its guide on embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.middleware.providers.base import ModelCall, Usage
from sage.middleware.providers.gemini.models import resource
from sage.middleware.providers.gemini.parts import Refuse
from sage.middleware.providers.gemini.usage import read_usage
from sage.middleware.providers.vendor import HINTS
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.vectors import normalise_embeddings

_TASKS = {
    "search_query": "RETRIEVAL_QUERY",
    "search_document": "RETRIEVAL_DOCUMENT",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}
"""Google's words for what vectors are for, by Cohere's."""
_PASSED = frozenset({"input", "dimensions", "encoding_format", "input_type", "task_type", "title", "models"})


def embed_request(call: ModelCall, model: str, refuse: Refuse) -> dict[str, Any]:
    """Google's request for as many vectors as there are texts. Raises what ``refuse`` raises for tokens."""
    body = call.body
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    for field, value in body.items():
        if field not in _PASSED and field not in HINTS and value is not None:
            refuse(field, "")
    common: dict[str, Any] = {"model": resource(model)}
    if body.get("dimensions") is not None:
        common["outputDimensionality"] = body["dimensions"]
    if task := _task(call):
        common["taskType"] = task
    if isinstance(body.get("title"), str):
        common["title"] = body["title"]
    return {"requests": [{**common, "content": {"parts": [{"text": text}]}} for text in texts]}


def _task(call: ModelCall) -> str | None:
    """What the vectors are for: as the request says, in Google's words or in Cohere's."""
    own = call.body.get("task_type")
    if isinstance(own, str):
        return own
    native = call.native.body.get("input_type") if call.native is not None else None
    purpose = call.body.get("input_type", native)
    return _TASKS.get(purpose) if isinstance(purpose, str) else None


def embeddings(call: ModelCall, answer: Mapping[str, Any]) -> tuple[dict[str, Any], Usage | None] | None:
    """OpenAI's list of vectors; ``None`` if ``answer`` has none."""
    if not isinstance(answer.get("embeddings"), list):
        return None
    vectors = [entry.get("values") for entry in objects(answer["embeddings"])]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    normalise_embeddings(call, data, None, call.body.get("dimensions"))
    usage = read_usage(answer.get("usageMetadata"))
    prompt = usage.prompt_tokens if usage is not None else 0
    counted = {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"object": "list", "data": data, "model": call.model, "usage": counted}, usage

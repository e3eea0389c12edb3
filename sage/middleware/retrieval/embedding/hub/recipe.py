"""How a pulled model is used: what sentence-transformers would read from its files, without running any of them.

Sources: sentence-transformers' ``SentenceTransformer``, ``Transformer``, ``Pooling`` and ``CrossEncoder`` (what they
load and save), https://sbert.net/docs/sentence_transformer/usage/custom_models.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage.errors import ConfigError, Unsupported
from sage.middleware.hub.snapshots import Snapshot

_MOST_TOKENS = 2048
"""Of one text. The memory of a text grows with the square of its tokens; chunks of documents are much shorter."""
_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
}
_PADDED_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"})
"""Kinds of models whose positions begin behind the number of the padding token."""
_E5 = re.compile(r"(multilingual-)?e5-(small|base|large)(-v2)?")
_BGE = re.compile(r"bge-(small|base|large)-(en|zh)(-v1\.5)?")
_BGE_PROMPTS = {
    "en": "Represent this sentence for searching relevant passages: ",
    "zh": "为这个句子生成表示以用于检索相关文章：",
}


@dataclass(frozen=True, slots=True)
class InputRecipe:
    """How texts become the input of a model."""

    max_tokens: int
    padding: int
    """The number of the token that fills up shorter texts."""
    lower_case: bool = False


@dataclass(frozen=True, slots=True)
class EmbedderRecipe:
    """How an embedder makes one vector of a text."""

    input: InputRecipe
    pooling: str
    """``mean``, ``cls``, ``lasttoken`` or ``max``."""
    normalize: bool
    dimension: int | None
    query_prompt: str
    document_prompt: str


def is_reranker(snapshot: Snapshot) -> bool:
    """Whether it is a cross-encoder, which scores a query and a text together."""
    architectures = _object(snapshot, "config.json").get("architectures")
    names = architectures if isinstance(architectures, list) else []
    return any(str(name).endswith("ForSequenceClassification") for name in names)


def reranker_recipe(snapshot: Snapshot) -> InputRecipe:
    """Raises :class:`Unsupported` for an embedder, and :class:`ConfigError` for a model with more than one score."""
    if not is_reranker(snapshot):
        raise _wrong_kind(snapshot, "it embeds texts, and does not rerank them: name it as an embedder")
    config = _object(snapshot, "config.json")
    labels = config.get("num_labels", len(config.get("id2label") or {0: ""}))
    if labels != 1:
        raise snapshot.fault(f"it tells {labels} labels apart; a model that reranks gives one score")
    return _input(snapshot)


def embedder_recipe(snapshot: Snapshot) -> EmbedderRecipe:
    """Raises :class:`Unsupported` for a reranker, and :class:`ConfigError` for what is no model of
    sentence-transformers, or has parts that are not known."""
    if is_reranker(snapshot):
        raise _wrong_kind(snapshot, "it reranks texts, and does not embed them: name it as 'rerank'")
    modules = snapshot.json("modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise snapshot.fault("it has no modules.json, so it is no model of sentence-transformers")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise snapshot.fault(f"its part '{kind}' is not supported; Transformer, Pooling and Normalize are")
    if kinds.count("Pooling") != 1:
        raise snapshot.fault("modules.json does not say how the vectors of tokens become one: it has no Pooling")
    folder = str(modules[kinds.index("Pooling")].get("path"))
    pooling = _object(snapshot, f"{folder}/config.json")
    dimension = pooling.get("embedding_dimension", pooling.get("word_embedding_dimension"))
    query, document = _prompts(snapshot)
    if (query or document) and pooling.get("include_prompt") is False:
        raise snapshot.fault("it leaves its prompts out of the mean (include_prompt), which is not supported")
    return EmbedderRecipe(
        _input(snapshot),
        _pooling(snapshot, pooling),
        "Normalize" in kinds,
        dimension if isinstance(dimension, int) else None,
        query,
        document,
    )


def _wrong_kind(snapshot: Snapshot, what: str) -> Unsupported:
    return Unsupported(f"the model hf:{snapshot.repo}: {what}", param="model", code="unsupported_operation")


def _pooling(snapshot: Snapshot, config: Mapping[str, Any]) -> str:
    named = config.get("pooling_mode")
    chosen = [name for key, name in _POOLINGS.items() if config.get(key)] if named is None else [named]
    others = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS.values() or (named is None and len(others) != 1):
        shown = ", ".join(map(str, others or chosen)) or "none"
        raise snapshot.fault(f"its pooling ({shown}) is not supported; mean, cls, lasttoken and max are")
    return str(chosen[0])


def _prompts(snapshot: Snapshot) -> tuple[str, str]:
    """What stands before queries and before documents."""
    config = _object(snapshot, "config_sentence_transformers.json")
    prompts = config.get("prompts")
    known = {str(name): str(text) for name, text in prompts.items()} if isinstance(prompts, dict) else {}
    default = known.get(str(config.get("default_prompt_name")), "")
    query = known.get("query", default)
    document = next((known[name] for name in ("document", "passage", "corpus") if name in known), default)
    if query or document:
        return query, document
    return _prompts_of_family(snapshot.repo.partition("/")[2].lower())


def _prompts_of_family(name: str) -> tuple[str, str]:
    """Those of models that tell them on their pages only (intfloat's e5, BAAI's bge)."""
    if _E5.fullmatch(name):
        return "query: ", "passage: "
    bge = _BGE.fullmatch(name)
    return (_BGE_PROMPTS[bge[2]], "") if bge else ("", "")


def _input(snapshot: Snapshot) -> InputRecipe:
    config = _object(snapshot, "config.json")
    tokenizer = _object(snapshot, "tokenizer_config.json")
    sentence = _object(snapshot, "sentence_bert_config.json")
    padding = config.get("pad_token_id")
    padding = padding if isinstance(padding, int) and padding >= 0 else 0
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _PADDED_POSITIONS:
        positions -= padding + 1
    limits = [_MOST_TOKENS, positions, sentence.get("max_seq_length")]
    if not isinstance(limits[-1], int):
        limits.append(tokenizer.get("model_max_length"))
    most = int(min(limit for limit in limits if isinstance(limit, int | float) and limit > 0))
    return InputRecipe(max(most, 8), padding, sentence.get("do_lower_case") is True)


def _object(snapshot: Snapshot, path: str) -> Mapping[str, Any]:
    """An object of JSON; empty where the model has no such file. Raises :class:`ConfigError` for another value."""
    value = snapshot.json(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        error: ConfigError = snapshot.fault(f"'{path}' is not an object")
        raise error
    return value

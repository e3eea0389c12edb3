"""Embedders and rerankers by their name at a hub: pulled, pinned, checked, and used as sentence-transformers would."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_hub import ModelHub
from onnx_models import (
    WORDS,
    cross_encoder_files,
    graph_with_weights_at,
    hub_in_use,
    minilm_files,
    modules,
    pooling,
    put_model,
    tiny_embedder_files,
)
from project import ROOT

from sage.errors import (
    ConfigError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SageError,
    Unavailable,
    Unsupported,
    UpstreamFailed,
)
from sage.middleware.hub.snapshots import Snapshots
from sage.middleware.hub.sources import parse_source
from sage.middleware.retrieval.embedding.builtin import builtin_embedder
from sage.middleware.retrieval.embedding.hub import models as hub_models
from sage.middleware.retrieval.embedding.hub.embedder import HubEmbedder
from sage.middleware.retrieval.embedding.hub.models import hub_embedder, hub_reranker
from sage.middleware.retrieval.embedding.hub.recipe import embedder_recipe

pytestmark = pytest.mark.slow  # onnxruntime is loaded
MINILM, TINY, CROSS = "org/all-MiniLM-L6-v2", "org/tiny", "org/cross"
SECOND = "f" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    with hub_in_use(monkeypatch) as hub:
        put_model(hub, TINY, tiny_embedder_files())
        put_model(hub, CROSS, cross_encoder_files())
        yield hub


def fetched(hub: ModelHub) -> list[str]:
    """The files whose bytes were asked for."""
    of_storage = [request.path.partition("//")[2].partition("?")[0] for request in hub.downloads()]
    plain = [
        request.path.partition("/resolve/")[2].partition("/")[2]
        for request in hub.requests
        if request.method == "GET" and "/resolve/" in request.path
    ]
    return sorted(of_storage + [path for path in plain if path not in of_storage])


def refused(directory: Path, name: str) -> SageError:
    with pytest.raises(SageError) as raised:
        hub_embedder(directory, name).embed(["red"])
    return raised.value


# What is fetched, and what it gives


def test_minilm_from_a_hub_makes_the_vectors_of_the_local_one_of_its_graph(hub: ModelHub, tmp_path: Path) -> None:
    put_model(hub, MINILM, minilm_files())
    embedder = hub_embedder(tmp_path, f"hf:{MINILM}")
    local = builtin_embedder("local/minilm-l6-v2-int8")
    assert local is not None
    texts = ["A man is eating food.", "", "zero\0byte and an emoji 🦊", "word " * 400, "上班通勤方式"]
    assert embedder.dimension == 384
    assert np.allclose(embedder.embed(texts), local.embed([text.replace("\0", " ") for text in texts]), atol=1e-5)
    assert np.allclose(embedder.embed(texts[:1], query=True), local.embed(texts[:1], query=True), atol=1e-5)
    assert embedder.embed([]).shape == (0, 384)
    assert embedder.count_tokens(texts[:1]) == local.count_tokens(texts[:1])  # type: ignore[attr-defined]
    wanted = set(minilm_files()) - {"README.md", "pytorch_model.bin", "modeling_custom.py"}
    assert fetched(hub) == sorted(wanted), "code and other formats stay at the hub"


def test_a_name_is_pinned_to_a_commit_and_to_the_content(hub: ModelHub, tmp_path: Path) -> None:
    first = hub_embedder(tmp_path, f"hf:{TINY}")
    assert first.name.startswith(f"hf:{TINY}@{hub.repos[TINY].head}#sha256-")
    asked = len(hub.requests)
    assert hub_embedder(tmp_path, first.name) is hub_embedder(tmp_path, f"hf:{TINY}") is first
    assert len(hub.requests) == asked, "what is here is not asked for again"

    hub.commit(TINY, SECOND)
    put_model(hub, TINY, tiny_embedder_files(pooling="cls_token"))
    assert hub_embedder(tmp_path, f"hf:{TINY}") is first, "a new commit comes by a pull"
    second = hub_embedder(tmp_path, f"hf:{TINY}@{SECOND}")
    assert second.name.startswith(f"hf:{TINY}@{SECOND}#sha256-")
    assert not np.array_equal(second.embed(["red"]), first.embed(["red"]))
    assert hub_embedder(tmp_path, f"hf:{TINY}") is second
    assert hub_embedder(tmp_path, f"hf:{TINY}@{first.name.partition('@')[2][:8]}") is first

    elsewhere = tmp_path / "another machine"
    assert hub_embedder(elsewhere, first.name).name == first.name, "an earlier commit is fetched by its pinned name"
    assert np.array_equal(hub_embedder(elsewhere, first.name).embed(["red"]), first.embed(["red"]))


def test_a_hub_that_has_another_content_under_a_pinned_commit_is_refused(hub: ModelHub, tmp_path: Path) -> None:
    pinned = hub_embedder(tmp_path / "a", f"hf:{TINY}").name
    put_model(hub, TINY, {"1_Pooling/config.json": pooling("cls_token", len(WORDS))})
    error = refused(tmp_path / "b", pinned)
    assert isinstance(error, ConfigError)
    assert "another content now (sha256-" in error.message
    assert pinned.partition("#")[2] in error.message


@pytest.mark.parametrize("path", ["model.onnx", "tokenizer.json", "modules.json"])
def test_a_file_that_was_changed_is_refused_and_a_pull_brings_it_back(hub: ModelHub, tmp_path: Path, path: str) -> None:
    name = f"hf:{TINY}"
    folder = Snapshots(tmp_path).obtain(parse_source(name)).folder
    content = (folder / path).read_bytes()
    (folder / path).write_bytes(content.replace(b"e", b"f"))
    error = refused(tmp_path, name)
    assert (error.code, f"the file {path} is not the one that was pulled" in error.message) == ("model_file", True)
    (folder / path).unlink()
    assert f"the file {path} cannot be read" in refused(tmp_path, name).message
    (folder / path).write_bytes(content.replace(b"e", b"f"))
    Snapshots(tmp_path).pull(parse_source(name))
    assert (folder / path).read_bytes() == content
    assert hub_embedder(tmp_path, name).embed(["red"]).shape == (1, len(WORDS))


@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token", "max_tokens", "lasttoken"])
def test_pooling_is_as_the_model_says(hub: ModelHub, tmp_path: Path, mode: str) -> None:
    put_model(hub, TINY, tiny_embedder_files(pooling=mode))
    vectors = hub_embedder(tmp_path, f"hf:{TINY}").embed(["red red tree", "apple"])
    axes = np.eye(len(WORDS), dtype=np.float32)
    begin, end, red, tree, apple = (axes[WORDS.index(word)] for word in ("[CLS]", "[SEP]", "red", "tree", "apple"))
    expected = {
        "mean_tokens": [(begin + 2 * red + tree + end) / 5, (begin + apple + end) / 3],
        "cls_token": [begin, begin],
        "max_tokens": [begin + red + tree + end, begin + apple + end],
        "lasttoken": [end, end],
    }[mode]
    assert np.allclose(vectors, expected, atol=1e-6), "padding counts for nothing"


def test_new_pooling_files_normalizing_prompts_lower_case_and_length(hub: ModelHub, tmp_path: Path) -> None:
    prompts = {"query": "query : ", "passage": "stone ", "other": "river "}
    put_model(
        hub,
        TINY,
        {
            "modules.json": modules("Transformer", "Pooling", "Normalize"),
            "1_Pooling/config.json": json.dumps({"embedding_dimension": len(WORDS), "pooling_mode": "mean"}).encode(),
            "config_sentence_transformers.json": json.dumps({"prompts": prompts}).encode(),
            "sentence_bert_config.json": json.dumps({"max_seq_length": 8, "do_lower_case": True}).encode(),
        },
    )
    embedder = hub_embedder(tmp_path, f"hf:{TINY}")
    axes = np.eye(len(WORDS), dtype=np.float32)

    def mean(words: str) -> Any:
        sums = sum(axes[WORDS.index(word)] for word in words.split())
        return sums / np.linalg.norm(sums)

    document, query = embedder.embed(["RED tree"])[0], embedder.embed(["RED tree"], query=True)[0]
    assert np.allclose(document, mean("[CLS] stone red tree [SEP]"), atol=1e-6)
    assert np.allclose(query, mean("[CLS] query : red tree [SEP]"), atol=1e-6)
    long = embedder.embed(["tree " * 5000])[0]
    assert np.allclose(long, mean("[CLS] stone tree tree tree tree tree [SEP]"), atol=1e-6)


@pytest.mark.parametrize(
    ("repo", "query", "document"),
    [
        ("intfloat/multilingual-e5-small", "query: ", "passage: "),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("BAAI/bge-base-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", ""),
        ("org/tiny", "", ""),
    ],
)
def test_families_that_name_their_prompts_on_their_pages_only(
    hub: ModelHub, tmp_path: Path, repo: str, query: str, document: str
) -> None:
    put_model(hub, repo, tiny_embedder_files())
    recipe = embedder_recipe(Snapshots(tmp_path).obtain(parse_source(f"hf:{repo}")))
    assert (recipe.query_prompt, recipe.document_prompt) == (query, document)


def test_a_graph_with_its_weights_beside_it_and_one_of_several(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = hub.repos[TINY].files.pop("model.onnx")
    weights = np.eye(len(WORDS), dtype=np.float32) * 2
    beside = {"onnx/model.onnx": graph_with_weights_at("model.onnx_data"), "onnx/model.onnx_data": weights.tobytes()}
    put_model(hub, TINY, {**beside, "onnx/model_qint8.onnx": graph})
    both = Snapshots(tmp_path).obtain(parse_source(f"hf:{TINY}"))
    assert {"onnx/model.onnx", "onnx/model.onnx_data"} <= both.sums.keys()
    assert "onnx/model_qint8.onnx" not in both.sums
    small = hub_embedder(tmp_path, f"hf:{TINY}:onnx/model_qint8.onnx")
    assert ":onnx/model_qint8.onnx#" in small.name
    assert small.embed(["red"]).shape == (1, len(WORDS))
    large = hub_embedder(tmp_path, f"hf:{TINY}")
    assert np.allclose(large.embed(["red"]), small.embed(["red"]) * 2)
    (both.folder / "onnx/model.onnx_data").write_bytes(b"changed")
    monkeypatch.setattr(hub_models, "_opened_embedder", HubEmbedder)  # as another process, which has not read it yet
    assert "model.onnx_data is not the one" in refused(tmp_path, f"hf:{TINY}").message
    assert Snapshots(tmp_path).names() == [f"hf:{TINY}", f"hf:{TINY}:onnx/model_qint8.onnx"]
    assert Snapshots(tmp_path).remove(parse_source(f"hf:{TINY}"))
    assert Snapshots(tmp_path).names() == [f"hf:{TINY}:onnx/model_qint8.onnx"]


def test_a_graph_cannot_read_files_outside_its_directory(hub: ModelHub, tmp_path: Path) -> None:
    """onnxruntime refuses such weights; this is seen here because older ones did not."""
    (tmp_path / "secret").write_bytes(np.ones((len(WORDS), len(WORDS)), np.float32).tobytes())
    put_model(hub, TINY, {"model.onnx": graph_with_weights_at(str(tmp_path / "secret"))})
    assert "onnxruntime cannot open model.onnx" in refused(tmp_path / "a", f"hf:{TINY}").message
    put_model(hub, TINY, {"model.onnx": graph_with_weights_at("../../../../../secret")})
    assert "onnxruntime cannot open model.onnx" in refused(tmp_path / "b", f"hf:{TINY}").message


# Rerankers


def test_a_cross_encoder_scores_each_text_with_the_query(hub: ModelHub, tmp_path: Path) -> None:
    reranker = hub_reranker(tmp_path, f"hf:{CROSS}")
    texts = ["blue river", "red apple tree", "red stone", "", "apple " * 3000 + "red"]
    scores = reranker.rerank("red apple", texts)
    sigmoid = [1 / (1 + np.exp(-(10 * share - 5))) for share in (0, 1, 0.5, 0, 0.5)]
    assert np.allclose(scores, sigmoid, atol=1e-6), "a text that is too long is cut, the query is not"
    assert reranker.rerank("red apple", []) == []
    assert reranker.count_tokens("red apple", ["blue river"]) == 7


def test_each_kind_is_refused_as_the_other(hub: ModelHub, tmp_path: Path) -> None:
    assert "it reranks texts, and does not embed them" in refused(tmp_path, f"hf:{CROSS}").message
    with pytest.raises(Unsupported, match="it embeds texts, and does not rerank them"):
        hub_reranker(tmp_path, f"hf:{TINY}")
    put_model(hub, "org/nli", {**cross_encoder_files(num_labels=3)})
    with pytest.raises(ConfigError, match="it tells 3 labels apart"):
        hub_reranker(tmp_path, "hf:org/nli")


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules.json": modules("Transformer", "Pooling", "Dense")}, "its part 'Dense' is not supported"),
        ({"modules.json": modules("Transformer")}, "it has no Pooling"),
        ({"modules.json": b"{}"}, "it has no modules.json"),
        ({"modules.json": b"[" * 100_000}, "'modules.json' is not JSON"),
        ({"1_Pooling/config.json": pooling("weightedmean_tokens", 13)}, "its pooling (pooling_mode_weightedmean_"),
        ({"1_Pooling/config.json": b"[]"}, "'1_Pooling/config.json' is not an object"),
        ({"1_Pooling/config.json": pooling("mean_tokens", 99)}, "not vectors of 99 dimensions"),
        ({"tokenizer.json": b'{"model": 1}'}, "tokenizer.json is no tokenizer"),
        ({"model.onnx": b"no graph"}, "onnxruntime cannot open model.onnx"),
        ({"model.onnx": cross_encoder_files()["onnx/model.onnx"]}, "its graph has no output last_hidden_state"),
    ],
)
def test_what_is_no_usable_model_is_told(
    hub: ModelHub, tmp_path: Path, changes: dict[str, bytes], message: str
) -> None:
    put_model(hub, TINY, changes)
    error = refused(tmp_path, f"hf:{TINY}")
    assert isinstance(error, ConfigError)
    assert message in error.message
    assert f"hf:{TINY}@" in error.message


@pytest.mark.parametrize(
    ("path", "size", "kind"),
    [("model.onnx", 9 * 2**30, InvalidRequest), ("tokenizer.json", 100 * 2**20, InvalidRequest)],
)
def test_files_that_are_too_large_are_not_begun(
    hub: ModelHub, tmp_path: Path, path: str, size: int, kind: type[SageError]
) -> None:
    hub.put(TINY, path, hub.repos[TINY].files[path], size=size)
    error = refused(tmp_path, f"hf:{TINY}")
    assert (type(error), error.code) == (kind, "model_too_large")
    assert fetched(hub) == []


def test_a_full_disk_is_told_before_the_first_byte(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 100, 0))
    error = refused(tmp_path, f"hf:{TINY}")
    assert (type(error), error.code) == (Unavailable, "disk_full")
    assert fetched(hub) == []


@pytest.mark.parametrize(
    ("refusal", "kind", "message"),
    [
        ((401, "GatedRepo"), PermissionDenied, "is gated: accept its terms"),
        ((403, ""), PermissionDenied, "is gated"),
        ((401, "RepoNotFound"), NotFound, "does not exist"),
        ((404, "RepoNotFound"), NotFound, "does not exist"),
        ((429, ""), UpstreamFailed, "answered with 429; try again later"),
        ((500, ""), UpstreamFailed, "answered with 500"),
    ],
)
def test_what_the_hub_refuses_is_told(
    hub: ModelHub, tmp_path: Path, refusal: tuple[int, str], kind: type[SageError], message: str
) -> None:
    hub.repos[TINY].refusal = refusal
    error = refused(tmp_path, f"hf:{TINY}")
    assert isinstance(error, kind)
    assert message in error.message


def test_absent_repositories_revisions_files_and_hubs(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "hf:org/none does not exist" in refused(tmp_path, "hf:org/none").message
    assert "has no revision 'v9'" in refused(tmp_path, f"hf:{TINY}@v9").message
    assert "its ONNX files: model.onnx" in refused(tmp_path, f"hf:{TINY}:other.onnx").message
    hub.put("org/torch", "model.safetensors", b"x")
    assert "has no model in ONNX's format" in refused(tmp_path, "hf:org/torch").message
    assert "only models of Hugging Face" in refused(tmp_path, "ms:org/tiny").message
    with pytest.raises(NotFound, match="sage models pull hf:org/tiny"):
        hub_embedder(tmp_path, f"hf:{TINY}", fetch=False)
    from huggingface_hub import constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        error = refused(tmp_path, f"hf:{TINY}")
    assert (type(error), error.code) == (UpstreamFailed, "hub_unreachable")
    assert "HF_ENDPOINT" in error.message


def test_offline_uses_what_is_here_and_says_what_is_not(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_embedder(tmp_path, f"hf:{TINY}")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert hub_embedder(tmp_path, f"hf:{TINY}").embed(["red"]).shape == (1, len(WORDS))
    assert "HF_HUB_OFFLINE is set" in refused(tmp_path, f"hf:{CROSS}").message
    assert len(hub.requests) == asked


def test_a_download_that_broke_goes_on_where_it_was(hub: ModelHub, tmp_path: Path) -> None:
    weights = np.random.default_rng(1).bytes(200_000)
    hub.put(TINY, "model.onnx_data", weights)
    hub.cuts = [100_000, 100_000]  # the graph, which is shorter, and its weights
    snapshot = Snapshots(tmp_path).obtain(parse_source(f"hf:{TINY}"))
    assert (snapshot.folder / "model.onnx_data").read_bytes() == weights
    ranges = [request.headers.get("range") for request in hub.downloads() if "onnx_data" in request.path]
    assert ranges == [None, "bytes=98304-"]


def test_threads_and_processes_that_ask_at_once_download_once(hub: ModelHub, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from sage.middleware.retrieval.embedding.hub.models import hub_embedder\n"
        f"print(hub_embedder(Path(sys.argv[1]), 'hf:{TINY}').name)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url}
    command = (sys.executable, "-c", code, str(tmp_path))
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(3)]
    with ThreadPoolExecutor(4) as threads:
        names = set(threads.map(lambda _: hub_embedder(tmp_path, f"hf:{TINY}").name, range(4)))
    names |= {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(names) == 1
    assert len(fetched(hub)) == len(set(fetched(hub))) == len(tiny_embedder_files())

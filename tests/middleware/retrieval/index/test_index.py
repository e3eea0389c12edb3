"""The index keeps up with the document store: views, segments, maintenance."""

from __future__ import annotations

import random
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from retrieval_parts import Opened, documents, opened

from sage.middleware.retrieval.index.memtable import SEAL_AT
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.store.store import Change
from sage.middleware.retrieval.types.documents import NewDocument

Open = Callable[..., Opened]


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Open]:
    """``collection()`` opens the same one each time, ``collection(None)`` one in memory."""
    with ExitStack() as stack:

        def start(name: str | None = "c") -> Opened:
            return stack.enter_context(opened(None if name is None else tmp_path / name))

        yield start


def live(view: View) -> list[int]:
    return [int(n) for p in view.segments for n in (p.numbers if p.live is None else p.numbers[p.live])]


@pytest.mark.parametrize("place", ["c", None])
def test_what_was_written_is_in_the_next_view_and_earlier_views_stay(collection: Open, place: str | None) -> None:
    held = collection(place)
    views = []
    for number in range(SEAL_AT // 100 * 3):
        held.write(documents(number * 100, 100))
        views.append((held.index.current(), [row.number for row in held.rows()]))
    held.delete(["5", "150", "2999"])
    assert held.index.current().documents == 2997
    held.check()
    for view, numbers in views:
        assert live(view) == numbers
        assert view.documents == len(numbers)


def test_a_commit_copies_only_the_masks_of_the_segments_it_touches(collection: Open) -> None:
    held = collection()
    held.write(documents(0, 3 * SEAL_AT))
    held.write(documents(5000, 10))
    before = held.index.current()
    held.delete(["7"])
    after = held.index.current()
    assert after.segments[0].live is not None
    assert np.flatnonzero(~after.segments[0].live).tolist() == [7]
    assert before.segments[0].live is None
    for old, new in zip(before.segments[1:], after.segments[1:], strict=True):
        assert new is old
    assert after.segments[0].keywords is before.segments[0].keywords
    held.write(documents(6000, 10))
    assert held.index.current().segments[0] is after.segments[0]


def test_a_clean_end_leaves_nothing_to_analyse_at_the_next_start(collection: Open) -> None:
    first = collection()
    first.write(documents(0, 2500))
    first.delete([str(number) for number in range(100)])
    first.close()
    second = collection()
    assert second.analyzer.calls == 0
    assert second.index.describe()["segments"] == 1
    assert second.index.describe()["pending"] == 0
    second.check()


def test_after_a_crash_only_unmerged_rows_are_read_again(collection: Open) -> None:
    first = collection()
    first.write(documents(0, 2000))
    first.index.optimize()
    first.write(documents(2000, 50))
    first.delete(["10"])
    first.crash()
    second = collection()
    assert second.analyzer.calls == 50
    assert second.index.describe()["indexed"] == 1999
    second.check()


def test_optimize_makes_one_segment_without_dead_rows(collection: Open) -> None:
    held = collection()
    for place in range(4):
        held.write(documents(place * 500, 500))
        held.index.optimize()
    held.delete([str(number) for number in range(0, 2000, 3)])
    view = held.index.current()
    held.index.optimize()
    (segment,) = held.index.current().segments
    assert (segment.size, segment.live) == (1333, None)
    with held.store.reading() as reading:
        assert len(reading.deletions(0)) == 0
    assert live(view) == live(held.index.current())
    held.check()
    assert len(held.files()) == 2


def test_everything_deleted_and_begun_again(collection: Open) -> None:
    for place in ("c", None):
        held = collection(place)
        held.write(documents(0, 600))
        held.index.optimize()
        held.delete([str(number) for number in range(600)])
        held.index.optimize()
        assert held.index.current().documents == 0
        assert held.index.current().segments == ()
        held.write(documents(0, 5))
        held.index.optimize()
        held.check()


def test_two_openers_follow_each_other_through_merges(collection: Open) -> None:
    one, two = collection(), collection()
    generator = random.Random(7)
    for round_number in range(30):
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


def test_a_deletion_that_was_forgotten_reaches_a_process_that_had_the_row_in_memory(collection: Open) -> None:
    one, two = collection(), collection()
    one.write(documents(0, 300))
    two.check()
    one.delete([str(number) for number in range(300)])
    one.index.optimize()  # the segment is empty, and the deletions are forgotten
    with one.store.reading() as reading:
        assert len(reading.deletions(0)) == 0
    assert two.index.current().documents == 0
    two.check()


def test_strays_are_removed_and_other_files_stay(collection: Open) -> None:
    first = collection()
    first.write(documents(0, 400))
    first.close()
    (segment, vectors) = first.files()
    stray = first.directory / "0000000000000001-00000000000000ff-01234567.seg.tmp"
    stray.write_bytes(b"half")
    (first.directory / "notes.txt").write_text("mine")
    second = collection()
    assert second.index.describe()["problems"] == [f"index file '{stray.name}' is in no manifest; it was removed"]
    assert second.files() == [segment, vectors]
    assert (first.directory / "notes.txt").read_text() == "mine"


def test_maintenance_that_fails_is_reported_and_loses_nothing(collection: Open) -> None:
    held = collection()
    held.write(documents(0, 500))
    moved = held.directory.rename(held.directory.with_name("elsewhere"))
    with pytest.raises(OSError, match="No such file"):
        held.index.optimize()
    held.write(documents(500, 20))
    held.check()
    moved.rename(held.directory)
    held.index.optimize()
    held.check()
    assert held.index.describe()["segments"] == 1


def test_a_full_disk_leaves_no_half_written_file_and_searches_go_on(collection: Open) -> None:
    held = collection()
    held.write(documents(0, 600))
    held.index.optimize()
    held.write(documents(600, 600))
    files = held.files()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            held.index.optimize()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert held.files() == files
    held.check()
    held.index.optimize()
    assert held.index.describe()["segments"] == 1
    held.check()


def test_maintenance_merges_by_itself_and_ends_with_the_index(collection: Open) -> None:
    held = collection()
    threads = set(threading.enumerate())
    for place in range(12):
        held.write(documents(place * 1000, 1000, dimension=4))
    while not held.index.describe()["segments"]:
        threading.Event().wait(0.01)
    held.check()
    held.close()
    assert {thread.name for thread in set(threading.enumerate()) - threads if "index of" in thread.name} == set()


def test_a_batch_that_fails_half_way_is_made_up_for(collection: Open) -> None:
    held = collection()
    held.write(documents(0, 30))
    held.analyzer.fail_at = held.analyzer.calls + 5
    held.write(documents(30, 10))  # durable all the same
    assert held.analyzer.fail_at is None
    held.check()
    assert held.index.current().documents == 40


def test_documents_without_vectors_and_with(collection: Open) -> None:
    held = collection()
    mixed: Sequence[NewDocument] = [
        document if place % 3 else NewDocument(document.id, document.text, document.metadata)
        for place, document in enumerate(documents(0, 700))
    ]
    held.write(mixed)
    held.index.optimize()
    held.check()
    held.store.write(Change([NewDocument("x", "words only")]), held.index.publish)
    held.check()


@pytest.mark.parametrize("place", ["c", None])
@pytest.mark.parametrize("prepared", [True, False])
def test_other_vectors_take_over_all_at_once(collection: Open, place: str | None, prepared: bool) -> None:
    held = collection(place)
    held.write(documents(0, 500))
    held.index.optimize()
    held.write(documents(500, 300))
    other = collection(place) if place else None
    before = held.index.current()
    generation = held.store.begin_generation("another", None, 5)
    rows = held.rows()
    made = {row.number: np.random.default_rng(row.number).normal(size=5).astype(np.float32) for row in rows}
    held.store.put_vectors(generation, made, len(made))
    if prepared:
        held.index.prepare_vectors(generation, rows[-1].number)
    held.check()
    assert held.store.switch_generation(generation, "another", rows[-1].number, 0, lambda rows: {})
    view = held.index.current()
    assert (before.generation, view.generation) == (0, generation)
    if prepared:
        assert all(segment.vectors is not None for segment in view.segments)
    held.check()
    if other is not None:
        assert other.index.current().generation == generation
        other.check()
    held.index.rebuild_vectors()
    assert all(segment.vectors is not None for segment in held.index.current().segments)
    held.check()
    assert held.index.describe()["rebuilding"] is False
    held.write([NewDocument("new", "text", b"{}", np.ones(5, np.float32))])
    held.check()
    if other is not None:
        other.check()
        assert len(held.files()) == (4 if prepared else 2)  # the old vectors are gone

"""Which segments are merged when, and the lease."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.index.merge_policy import (
    DEAD_SHARE,
    FANOUT,
    IDLE_FROM,
    SEGMENT_FROM,
    Extent,
    MergeLease,
    plan,
)


def sizes(*rows: int) -> list[Extent]:
    return [Extent(size) for size in rows]


def test_unmerged_rows_become_a_segment_when_many_or_when_idle() -> None:
    assert plan([], sizes(1024, 1024), idle=False) is None
    assert plan([], sizes(1024, 1024), idle=True) == (0, 2)
    assert plan(sizes(9000), sizes(*[1024] * 8), idle=False) == (1, 9)
    assert plan([], sizes(IDLE_FROM - 1), idle=True) is None


def test_eight_segments_of_similar_size_become_one() -> None:
    assert plan(sizes(*[8192] * 7), [], idle=False) is None
    assert plan(sizes(70_000, *[8192] * 8), [], idle=False) == (1, 9)
    assert plan(sizes(*[66_000] * 8), [], idle=False) == (0, 8)


def test_dead_rows_are_dropped_when_they_are_a_fifth() -> None:
    assert plan([Extent(10_000, 1900)], [], idle=True) is None
    assert plan([Extent(100_000), Extent(10_000, 2100)], [], idle=False) == (1, 2)
    assert plan([Extent(100, 50)], [], idle=True) is None  # too few to matter


def test_small_segments_wait_for_a_quiet_time() -> None:
    assert plan(sizes(1_000_000, 8192, 8192), [], idle=False) is None
    assert plan(sizes(1_000_000, 8192, 8192), [], idle=True) == (1, 3)
    assert plan(sizes(1_000_000, 400_000), [], idle=True) == (0, 2)
    assert plan(sizes(1_000_000, 16_384), [], idle=True) is None


@given(batches=st.lists(st.integers(1, 5000), max_size=400), quiet=st.sets(st.integers(0, 400)))
def test_documents_are_merged_a_few_times_only_and_segments_stay_few(batches: list[int], quiet: set[int]) -> None:
    segments: list[int] = []
    frozen: list[int] = []
    merged = written = 0
    for index, batch in enumerate(batches):
        frozen.append(batch)
        written += batch
        idle = index in quiet
        while (run := plan(sizes(*segments), sizes(*frozen), idle=idle)) is not None:
            pieces = segments + frozen
            first, last = run
            whole = sum(pieces[first:last])
            merged += whole
            pieces[first:last] = [whole]
            count = len(segments) - (min(last, len(segments)) - min(first, len(segments))) + 1
            segments, frozen = pieces[:count], pieces[count:]
        assert sum(segments) + sum(frozen) == written
        assert sum(frozen) < SEGMENT_FROM
        levels = 1 + max(0, (written // SEGMENT_FROM).bit_length() // 3 + 1)
        assert len(segments) < FANOUT * levels
    # a merge in a quiet time adds at least a quarter to the largest, so there are few of them for a document
    assert merged <= written * 16 + IDLE_FROM


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1)), max_size=40), st.booleans())
def test_a_plan_always_leads_to_fewer_segments_or_dead_rows(shares: list[tuple[int, float]], idle: bool) -> None:
    segments = [Extent(size, int(size * share)) for size, share in shares]
    run = plan(segments, [], idle=idle)
    if run is not None:
        first, last = run
        assert 0 <= first < last <= len(segments)
        dead = sum(extent.dead for extent in segments[first:last])
        assert last - first > 1 or dead > DEAD_SHARE * segments[first].size


def test_one_process_has_the_lease_and_its_end_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path\n"
            "from sage.middleware.retrieval.index.merge_policy import MergeLease\n"
            "with MergeLease(Path(sys.argv[1])).attempt() as acquired: print(acquired, flush=True); sys.stdin.read()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with MergeLease(path).attempt() as acquired:
            assert not acquired
        holder.kill()
        holder.wait()
    with MergeLease(path).attempt() as acquired, MergeLease(path).attempt() as second:
        assert acquired
        assert not second  # also within one process
    with MergeLease(path).attempt() as acquired:
        assert acquired
    assert (path.stat().st_mode & 0o777) == 0o600

"""Threads that take work also after the main thread has ended."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import pytest
from project import ROOT

from sage.thread_pool import ThreadPool


@pytest.fixture
def named_threads() -> Callable[[], list[str]]:
    return lambda: sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("of this test"))


def test_work_is_done_by_as_many_threads_as_it_needs(named_threads: Callable[[], list[str]]) -> None:
    both = threading.Barrier(2)
    with ThreadPool(2, "of this test") as pool:
        assert list(pool.map(lambda number: number + (both.wait(10) >= 0), [1, 2, 3, 4])) == [2, 3, 4, 5]
        assert named_threads() == ["of this test_0", "of this test_1"]
        with pytest.raises(ValueError, match="mine"):
            pool.submit(int, "mine").result(10)
        assert pool.submit(divmod, 7, 2).result(10) == (3, 1)
    assert named_threads() == []
    with pytest.raises(RuntimeError, match="have ended"):
        pool.submit(print)


def test_shutdown_cancels_what_waits() -> None:
    go, begun = threading.Event(), threading.Event()
    pool = ThreadPool(1, "of this test")
    running = pool.submit(lambda: (begun.set(), go.wait(10)))
    waiting = pool.submit(print)
    assert begun.wait(10)
    pool.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    go.set()
    assert running.result(10) == (None, True)


@pytest.mark.slow
def test_a_pool_that_nobody_holds_ends_its_threads() -> None:
    pool = ThreadPool(1, "of this test")
    thread = pool.submit(threading.current_thread).result(10)
    del pool
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.slow
def test_it_takes_work_after_the_main_thread_has_ended() -> None:
    script = """if True:
        import threading
        from sage.thread_pool import ThreadPool

        def later():
            threading.main_thread().join()
            print(pool.submit(divmod, 7, 2).result(10))

        pool = ThreadPool(1, "work")
        threading.Thread(target=later).start()
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("(3, 1)\n", "")


@pytest.mark.slow
def test_what_failed_work_held_is_free_with_its_error() -> None:
    class Large:
        """Stands for the body of a request."""

    def fail(large: Large) -> None:
        raise ValueError("it cannot be read")

    large = Large()
    seen = weakref.ref(large)
    gc.collect()
    gc.disable()
    try:
        with ThreadPool(1, "of this test") as pool:
            failed = pool.submit(fail, large)
            assert isinstance(failed.exception(10), ValueError)
            del large, failed
            pool.submit(int).result(10)  # the thread is done with the first
            assert seen() is None
    finally:
        gc.enable()

"""Machine code on disk: found by the next process, and never taken from where others can write."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.middleware.retrieval.machine_code.compilation import (
    ENOUGH_SEARCHES,
    ENOUGH_WHEN_KEPT,
    Compilation,
    compiled,
    load_numba,
)
from sage.middleware.retrieval.machine_code.kept_code import KeptCode
from sage.middleware.retrieval.machine_code.top_heap import HEAP, offer


@pytest.fixture
def kept(tmp_path: Path) -> KeptCode:
    code = KeptCode("heap", HEAP, tmp_path / "code")
    assert not code.is_whole
    with code.turn():
        code.write("offer", "this processor", b"code")
    assert code.is_whole
    return code


def file_of(kept: KeptCode) -> Path:
    (path,) = kept._directory.glob("heap-*-offer-*")
    return path


class Exploit:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("exploited",)


def test_what_was_kept_is_found_by_name_target_and_source(kept: KeptCode, tmp_path: Path) -> None:
    again = KeptCode("heap", HEAP, tmp_path / "code")
    assert again.is_whole
    assert again.read("offer", "this processor") == b"code"
    assert again.read("offer", "another processor") is None
    assert again.read("sort_heap", "this processor") is None
    other = KeptCode("heap", (test_what_was_kept_is_found_by_name_target_and_source,), tmp_path / "code")
    assert not other.is_whole
    assert other.read("offer", "this processor") is None
    assert file_of(kept).stat().st_mode & 0o777 == 0o600
    assert kept._directory.stat().st_mode & 0o777 == 0o700


def test_a_broken_file_counts_as_none(kept: KeptCode) -> None:
    whole = file_of(kept).read_bytes()
    for broken in (b"", whole[:-1], whole[:30], whole + b"x", whole[:-1] + b"X", pickle.dumps(Exploit())):
        file_of(kept).write_bytes(broken)
        assert kept.read("offer", "this processor") is None
    kept.write("offer", "this processor", b"anew")
    assert kept.read("offer", "this processor") == b"anew"


def test_nothing_is_read_where_others_can_write(kept: KeptCode, tmp_path: Path) -> None:
    directory, path = kept._directory, file_of(kept)
    path.chmod(0o620)
    assert kept.read("offer", "this processor") is None
    path.chmod(0o600)
    for mode in (0o770, 0o707):
        directory.chmod(mode)
        assert kept.read("offer", "this processor") is None
        kept.write("offer", "another", b"x")
        with kept.turn():
            assert len(list(directory.iterdir())) == 2  # the one file, and the lock
        directory.chmod(0o700)
    tmp_path.chmod(0o777)
    assert kept.read("offer", "this processor") is None
    tmp_path.chmod(0o1777)  # as /tmp: nobody can rename what is another's
    assert kept.read("offer", "this processor") == b"code"
    target = path.rename(tmp_path / "elsewhere")
    path.symlink_to(target)
    assert kept.read("offer", "this processor") is None
    path.unlink()
    os.mkfifo(path)
    assert kept.read("offer", "this processor") is None  # and nobody waits for a writer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_nothing_is_read_that_is_another_users(kept: KeptCode) -> None:
    os.chown(file_of(kept), 65534, 65534)
    assert kept.read("offer", "this processor") is None
    os.chown(file_of(kept), os.geteuid(), -1)
    os.chown(kept._directory, 65534, -1)
    assert kept.read("offer", "this processor") is None


def test_where_nothing_can_be_kept_it_is_compiled_each_time(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("a file in the way")
    code = KeptCode("heap", HEAP, tmp_path / "code")
    with code.turn():
        code.write("offer", "this processor", b"code")
    assert not code.is_whole
    assert code.read("offer", "this processor") is None


def test_old_files_go(tmp_path: Path) -> None:
    code = KeptCode("heap", HEAP, tmp_path / "code")
    with code.turn():
        for number in range(70):
            code.write("offer", number, b"code")
            path = code._path("offer", number)
            assert path is not None
            os.utime(path, (number, number))
    assert code.read("offer", 69) == b"code"
    assert code.read("offer", 0) is None
    assert len(list(code._directory.iterdir())) <= 61


def test_one_compiles_and_the_others_wait_for_it(tmp_path: Path) -> None:
    compiled_by = []

    def work(number: int) -> None:
        code = KeptCode("heap", HEAP, tmp_path / "code")
        with code.turn():
            if code.read("offer", "this") is None:
                compiled_by.append(number)
                code.write("offer", "this", b"code")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(compiled_by) == 1


def test_searches_start_the_compiler_sooner_when_code_was_kept(kept: KeptCode, tmp_path: Path) -> None:
    assert kept.is_whole
    for name, enough in (("heap", ENOUGH_WHEN_KEPT), ("none", ENOUGH_SEARCHES)):
        compilation = Compilation("test", lambda: "kernels", partial(KeptCode, name, HEAP, tmp_path / "code"))
        for _ in range(enough - 1):
            compilation.request()
        assert not compilation._thread.is_alive()
        assert compilation.kernels is None
        compilation.request()
        compilation.wait()
        assert compilation.kernels == "kernels"
        compilation.request()


def first_of(rows: Any, scores: Any, row: Any, score: Any) -> Any:
    return offer(rows, scores, 0, row, score)


_PROGRAM = """
import sys
import numpy
from pathlib import Path
from numba.core import compiler
from test_kept_code import compile_first_of
compiled_anew = []
compile_ir = compiler.compile_extra
compiler.compile_extra = lambda *given, **named: compiled_anew.append(1) or compile_ir(*given, **named)
function = compile_first_of(Path(sys.argv[1]))
rows, scores = numpy.zeros(1, numpy.int64), numpy.zeros(1)
print(function(rows, scores, 7, 0.5), rows[0], scores[0], bool(compiled_anew))
"""


def compile_first_of(directory: Path) -> Any:
    types = load_numba().types
    numbers, sums = types.Array(types.int64, 1, "C"), types.Array(types.float64, 1, "C")
    signature = types.int64(numbers, sums, types.int64, types.float64)
    kept = KeptCode("first", (*HEAP, first_of), directory)
    (function,) = compiled([(first_of, signature)], HEAP, globals(), kept)
    return function


@pytest.mark.slow
def test_the_next_process_runs_what_the_first_compiled(tmp_path: Path) -> None:
    pytest.importorskip("numba")

    def run() -> str:
        command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "code")]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True, cwd=Path(__file__).parent
        )
        return done.stdout

    assert run() == "1 7 0.5 True\n"
    assert run() == "1 7 0.5 False\n"
    (path,) = (tmp_path / "code").glob("first-*-first_of-*")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert run() == "1 7 0.5 True\n"  # and is whole again
    assert run() == "1 7 0.5 False\n"

"""Files of arrays: what was written is read, and nothing else is."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sage.middleware.retrieval.index import arrays_file
from sage.middleware.retrieval.index.arrays_file import DamagedFile, read_arrays, write_arrays

WHAT = {"kind": "segment", "collection": "c", "segment": "s"}


def some_arrays() -> dict[str, NDArray[Any]]:
    return {
        "numbers": np.arange(1000, dtype=np.int64),
        "fortran": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        "none": np.empty((0, 3), np.uint16),
        "one": np.array(7, np.uint8),
        "mask": np.array([True, False, True]),
        "text": np.frombuffer("Wörter 词".encode(), np.uint8),
    }


def test_arrays_come_back_as_they_went_in(tmp_path: Path) -> None:
    size, checksum = write_arrays(tmp_path / "a", WHAT, some_arrays())
    arrays = read_arrays(tmp_path / "a", size, checksum, WHAT)
    assert list(arrays) == list(some_arrays())
    for name, array in some_arrays().items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert (arrays[name] == array).all()
        assert not arrays[name].flags.writeable
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o400
    assert (tmp_path / "a").stat().st_size == size


def test_large_files_are_mapped_and_checked(tmp_path: Path) -> None:
    large = {"a": np.arange(arrays_file.MAP_FROM // 8 + 1000)}
    size, checksum = write_arrays(tmp_path / "a", WHAT, large)
    arrays = read_arrays(tmp_path / "a", size, checksum, WHAT)
    assert (arrays["a"] == large["a"]).all()
    (tmp_path / "a").unlink()
    assert (arrays["a"] == large["a"]).all()  # a reader that has it open keeps its content


@given(offset=st.integers(0, 2**32), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_detected(tmp_path_factory: pytest.TempPathFactory, offset: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("flip") / "a"
    size, checksum = write_arrays(path, WHAT, some_arrays())
    content = bytearray(path.read_bytes())
    content[offset % size] ^= 1 << bit
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="does not have the checksum"):
        read_arrays(path, size, checksum, WHAT)


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0", lambda content: b""])
def test_a_cut_or_longer_file_is_detected(tmp_path: Path, change: Any) -> None:
    size, checksum = write_arrays(tmp_path / "a", WHAT, some_arrays())
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").unlink()
    (tmp_path / "a").write_bytes(change(content))
    with pytest.raises(DamagedFile, match=f"not the {size} that were written"):
        read_arrays(tmp_path / "a", size, checksum, WHAT)


def test_a_file_of_another_purpose_is_refused_even_with_its_own_checksum(tmp_path: Path) -> None:
    size, checksum = write_arrays(tmp_path / "a", WHAT, some_arrays())
    with pytest.raises(DamagedFile, match="its collection is 'c', not 'other'"):
        read_arrays(tmp_path / "a", size, checksum, {**WHAT, "collection": "other"})


def test_a_missing_file_and_a_damaged_one_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "a", 1, "", WHAT)
    (tmp_path / "a").symlink_to("/dev/zero")
    with pytest.raises(DamagedFile, match="cannot be opened"):
        read_arrays(tmp_path / "a", 1, "", WHAT)


def test_objects_are_never_written_and_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="only plain numbers"):
        write_arrays(tmp_path / "a", WHAT, {"a": np.array([object()])})
    assert list(tmp_path.iterdir()) == []
    write_arrays(tmp_path / "a", WHAT, {})
    with pytest.raises(FileExistsError):
        write_arrays(tmp_path / "a", WHAT, {})

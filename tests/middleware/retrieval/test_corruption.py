"""Index files that another program has changed are detected when a collection is opened, and no answer is wrong."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from retrieval_index import documents, opened

from sage.middleware.retrieval.index.index import DIRECTORY

ROUNDS = 500 if os.environ.get("SAGE_TEST_FULL") else 25


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A collection of several segments with dead rows, and another one."""
    directories = []
    for name, shift in (("one", 0), ("other", 5)):
        directory = tmp_path_factory.mktemp(name) / "c"
        with opened(directory) as collection:
            collection.write(documents(shift, 900))
            collection.index.optimize()
            collection.write(documents(2000, 400))
            collection.delete([str(number) for number in range(shift, 100)])
        with opened(directory) as collection:
            collection.write(documents(3000, 300))
            collection.delete(["2001", "2002"])
        with opened(directory) as collection:
            assert collection.index.describe()["segments"] == 3
            assert collection.index.describe()["problems"] == []
        directories.append(directory)
    return directories[0], directories[1]


def _write(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def flip(path: Path, other: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    _write(path, bytes(content))


def cut(path: Path, other: Path, generator: random.Random) -> None:
    content = path.read_bytes()
    _write(path, content[: generator.randrange(len(content))])


def lengthen(path: Path, other: Path, generator: random.Random) -> None:
    _write(path, path.read_bytes() + generator.randbytes(generator.randrange(1, 5000)))


def zero_a_page(path: Path, other: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    offsets = [offset for offset in range(0, len(content), 4096) if any(content[offset : offset + 4096])]
    offset = generator.choice(offsets)
    content[offset : offset + 4096] = bytes(len(content[offset : offset + 4096]))
    _write(path, bytes(content))


def swap_with_a_neighbour(path: Path, other: Path, generator: random.Random) -> None:
    neighbour = generator.choice([p for p in path.parent.glob(f"*{path.suffix}") if p != path])
    first, second = path.read_bytes(), neighbour.read_bytes()
    _write(path, second)
    _write(neighbour, first)


def take_another_collections(path: Path, other: Path, generator: random.Random) -> None:
    _write(path, generator.choice(sorted(other.glob(f"*{path.suffix}"))).read_bytes())


def delete(path: Path, other: Path, generator: random.Random) -> None:
    path.unlink()


def empty(path: Path, other: Path, generator: random.Random) -> None:
    _write(path, b"")


def a_directory(path: Path, other: Path, generator: random.Random) -> None:
    path.unlink()
    path.mkdir()


def stray(path: Path, other: Path, generator: random.Random) -> None:
    token = f"{generator.getrandbits(32):08x}"
    name = generator.choice([f"{path.stem.split('.')[0][:-8]}{token}.seg", f"{path.name}.tmp"])
    (path.parent / name).write_bytes(generator.randbytes(100))


Corruption = Callable[[Path, Path, random.Random], None]
CORRUPTIONS: list[Corruption] = [
    flip,
    cut,
    lengthen,
    zero_a_page,
    swap_with_a_neighbour,
    take_another_collections,
    delete,
    empty,
    a_directory,
    stray,
]


@pytest.mark.slow
def test_every_corruption_is_detected_and_repaired_and_no_answer_is_wrong(
    closed: tuple[Path, Path], tmp_path: Path
) -> None:
    pristine, other = closed
    generator = random.Random(4)
    for number in range(ROUNDS):
        corrupt = CORRUPTIONS[number % len(CORRUPTIONS)]
        directory = tmp_path / f"{number}"
        shutil.copytree(pristine, directory)
        files = sorted(p for p in (directory / DIRECTORY).iterdir() if p.suffix in (".seg", ".vec"))
        path = generator.choice(files)
        before = {p.name for p in (directory / DIRECTORY).iterdir()}
        corrupt(path, other / DIRECTORY, generator)
        with opened(directory) as collection:
            problems = collection.index.describe()["problems"]
            assert isinstance(problems, list)
            if corrupt is stray:
                (problem,) = problems
                assert problem.endswith("is in no manifest; it was removed")
                assert set(collection.files()) <= before
            else:
                assert any(path.name in problem for problem in problems), (corrupt, path, problems)
            collection.check()
            collection.write(documents(5000 + number, 3))
            collection.index.rebuild_vectors()
            assert collection.index.describe()["rebuilding"] is False
            collection.check()
        with opened(directory) as collection:
            assert collection.index.describe()["problems"] == []
            assert collection.analyzer.calls <= 3
            collection.check()
        shutil.rmtree(directory)

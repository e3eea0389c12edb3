"""Disks that are full, failing or read-only: no false acknowledgement, and no restart is needed afterwards."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from retrieval_worker import Process

from sage.errors import NotFound, Unavailable
from sage.middleware.retrieval.snapshots import read_snapshot, write_snapshot
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.vector_store import VectorStore
from sage.service import KVService, VDBService

pytestmark = pytest.mark.slow

SIZE = 12 * 2**20
TEXT = "some words of a document " * 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(store: VectorStore, acknowledged: list[str]) -> Unavailable:
    """Adds batches until one is refused."""
    for n in range(len(acknowledged), 10_000, 20):
        ids = [f"d{n + i}" for i in range(20)]
        try:
            acknowledged += store.add_documents([f"n{id} {TEXT}" for id in ids], ids=ids, vectors=[[n, 1.0]] * 20)
        except Unavailable as exc:
            return exc
    raise AssertionError("the disk was never full")


def check(store: VectorStore, acknowledged: list[str]) -> None:
    assert len(store) == len(acknowledged)
    ids, cursor = [], None
    while True:
        page, cursor = store.collection.page(cursor, 1000)
        ids += [document.id for document in page]
        if cursor is None:
            break
    assert ids == acknowledged
    last = acknowledged[-1]
    assert [result.id for result in store.search(f"n{last}", mode="bm25")] == [last]
    assert store.search(vector=[1.0, 1.0], mode="dense", top_k=1)


@pytest.mark.slow
def test_a_full_disk_refuses_writes_until_there_is_room(small_disk: Path) -> None:
    acknowledged: list[str] = []
    filler = small_disk / "filler"
    filler.write_bytes(bytes(SIZE // 2))
    with VectorStore(small_disk / "c", embedder=None) as store:
        refusal = fill(store, acknowledged)
        assert refusal.code == "disk_full"
        assert refusal.status == 503
        assert "the disk is full; free some space" in refusal.message
        assert "nothing was written" in refusal.message
        assert acknowledged
        check(store, acknowledged)
        with pytest.raises(Unavailable):
            store.add_documents([TEXT * 100] * 20)
        filler.unlink()
        before = len(acknowledged)
        assert fill(store, acknowledged).code == "disk_full"
        assert len(acknowledged) > before
        check(store, acknowledged)
    with VectorStore(small_disk / "c", embedder=None) as store:  # also while it is full
        check(store, acknowledged)


@pytest.mark.slow
def test_a_restore_onto_a_full_disk_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    with VectorStore(tmp_path / "c", embedder=None) as store:
        store.add_documents([f"{os.urandom(5000).hex()}" for _ in range(1000)], vectors=[[1.0, 2.0]] * 1000)
    store = DocumentStore.open(tmp_path / "c")
    with (tmp_path / "snapshot").open("wb") as file:
        write_snapshot(store, file)
    store.close()
    room = (10_000 + 32 + 2 + 8) * 1000  # what it needs at least: texts, ids, metadata, vectors
    (small_disk / "filler").write_bytes(bytes(SIZE - room - 50_000))
    with (tmp_path / "snapshot").open("rb") as file, pytest.raises(Unavailable) as caught:
        read_snapshot(file, small_disk / "c", "c")
    assert caught.value.code == "disk_full"
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


@pytest.mark.slow
def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """A write that fails with an I/O error (EFBIG, of a limit on the size of files)."""
    acknowledged = 0
    with Process() as process:
        process.do("open", path=str(tmp_path / "c"))
        process.do("limit", bytes=1_000_000)
        refusal = ""
        for _ in range(100):
            try:
                process.do("add", documents=[{"id": f"d{acknowledged + i}", "text": TEXT} for i in range(10)])
            except AssertionError as exc:
                refusal = str(exc)
                break
            acknowledged += 10
        assert 0 < acknowledged < 1000
        assert re.search("nothing was written: .*(SQLITE_IOERR|disk is full)", refusal)
        assert process.do("search", mode="bm25", query="words", top_k=1)["total"] == acknowledged
        process.do("limit", bytes=None)
        process.do("add", documents=[{"id": f"d{acknowledged + i}", "text": TEXT} for i in range(10)])
        assert process.do("search", mode="bm25", query="words", top_k=1)["total"] == acknowledged + 10
        process.do("close")
    with VectorStore(tmp_path / "c", embedder=None) as store:
        page, _ = store.collection.page(limit=1000)
        assert [document.id for document in page] == [f"d{n}" for n in range(acknowledged + 10)]
        assert store.search("words", mode="bm25", top_k=1)


@pytest.mark.slow
def test_read_only_files(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "c", embedder=None) as store:
        store.add_documents(["alpha", "beta"])
    database = tmp_path / "c" / "truth.db"
    database.chmod(0o400)
    with Process() as process:
        process.do("renounce")
        process.do("open", path=str(tmp_path / "c"))
        assert process.do("search", mode="bm25", query="alpha")["total"] == 1
        with pytest.raises(AssertionError, match="nothing was written: its files cannot be written"):
            process.do("add", documents=[{"text": "gamma"}])
        assert process.do("search", mode="bm25", query="beta")["total"] == 1
        for file in database.parent.glob("truth.db*"):  # its log was made with its mode
            file.chmod(0o600)
        process.do("add", documents=[{"text": "gamma"}])
        assert process.do("search", mode="bm25", query="gamma")["total"] == 1
        process.do("close")


@pytest.mark.slow
def test_a_read_only_directory(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "c", embedder=None) as store:
        store.add_documents(["alpha"])
    (tmp_path / "c").chmod(0o500)
    with Process() as process:
        process.do("renounce")
        process.do("open", path=str(tmp_path / "c"))
        for _ in range(2):
            assert process.do("search", mode="bm25", query="alpha")["total"] == 1
            with pytest.raises(AssertionError, match="nothing was written: its files cannot be written"):
                process.do("add", documents=[{"text": "beta"}])
        for command in ("optimize", "purge"):
            with pytest.raises(AssertionError, match="files cannot be written"):
                process.do(command)
        (tmp_path / "c").chmod(0o700)
        process.do("add", documents=[{"text": "beta"}])
        assert process.do("search", mode="bm25", query="beta")["total"] == 1
        process.do("close")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """``mounted(directory)`` is the same directory, mounted for reading."""
    places: list[Path] = []

    def mount(directory: Path) -> Path:
        place = tmp_path / f"mounted{len(places)}"
        place.mkdir()
        for options in (["--bind", str(directory)], ["-o", "remount,bind,ro", str(directory)]):
            done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True, check=False)
            if done.returncode:
                subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)
                pytest.skip(f"nothing can be mounted for reading here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_store_on_a_file_system_that_is_mounted_for_reading(tmp_path: Path, mounted: Callable[[Path], Path]) -> None:
    with VectorStore(tmp_path / "c", embedder=None) as store:
        store.add_documents(["alpha", "beta"], ids=["a", "b"], vectors=[[1.0, 0.0], [0.0, 1.0]])
    place = mounted(tmp_path / "c")
    with VectorStore(place) as store:
        assert len(store) == 2
        assert [result.id for result in store.search("alpha", mode="bm25")] == ["a"]
        assert [result.id for result in store.search(vector=[0, 1], mode="dense", top_k=1)] == ["b"]
        assert store.get("a").text == "alpha"
        assert store.collection.describe()["index"]["error"] is None
        writes: list[Callable[[], object]] = [
            lambda: store.add_documents(["gamma"]),
            lambda: store.delete(["a"]),
            lambda: store.collection.update("a", text="x"),
        ]
        for write in writes:
            with pytest.raises(Unavailable, match=r"nothing was written: its files cannot be written; .* mounted for"):
                write()
        for work in (store.optimize, store.purge):
            with pytest.raises(Unavailable, match="files cannot be written"):
                work()
        assert [result.id for result in store.search("beta", mode="bm25")] == ["b"]


def test_what_is_written_elsewhere_is_seen_through_a_mount_for_reading(
    tmp_path: Path, mounted: Callable[[Path], Path]
) -> None:
    with VectorStore(tmp_path / "c", embedder=None) as store:
        store.add_documents(["alpha"])
    with VectorStore(mounted(tmp_path / "c")) as reader:
        assert len(reader.search("alpha")) == 1
        with VectorStore(tmp_path / "c") as store:
            store.add_documents(["alpha beta"])
            assert len(reader.search("alpha")) == 2
            store.add_documents(["alpha gamma"])
            assert len(reader.search("alpha")) == 3
        assert len(reader.search("alpha")) == 3


@pytest.mark.parametrize("shards", [0, 2])
def test_services_on_a_file_system_that_is_mounted_for_reading(
    tmp_path: Path, mounted: Callable[[Path], Path], shards: int
) -> None:
    with VDBService(persist_directory=str(tmp_path / "v"), shards=shards) as service:
        service.add([{"id": "a", "vector": [1.0, 0.0], "text": "alpha"}])
    with KVService("sqlite", persist_directory=str(tmp_path / "v")) as kv:
        kv.put("a", 1)
    place = str(mounted(tmp_path / "v"))
    with KVService("sqlite", persist_directory=place) as kv:
        assert (kv.get("a"), kv.list_keys()) == (1, ["a"])
        with pytest.raises(Unavailable, match="files cannot be written"):
            kv.put("a", 2)
    with VDBService(persist_directory=place, shards=shards) as service:
        assert [result["id"] for result in service.search([1.0, 0.0])] == ["a"]
        with pytest.raises(Unavailable, match="files cannot be written"):
            service.add([{"vector": [1.0, 0.0]}])
        with pytest.raises(Unavailable, match="collection 'default' cannot be deleted: Read-only file system"):
            service.drop("default")
        with pytest.raises(Unavailable, match="no collection can be made"):
            service.add([{"vector": [1.0, 0.0]}], tenant="other")


def test_a_deleted_database_is_reported(tmp_path: Path) -> None:
    """It is not silently made again, and nothing is written to the deleted file."""
    with VectorStore(tmp_path / "c", embedder=None) as store:
        store.add_documents(["alpha"])
        for file in (tmp_path / "c").glob("truth.db*"):
            file.unlink()
        with pytest.raises(NotFound, match="was deleted"):
            store.add_documents(["beta"])
        assert not (tmp_path / "c" / "truth.db").exists()

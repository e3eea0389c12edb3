"""Databases that are sound, older, newer, damaged, of another program, or half made."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from sage.errors import Conflict, InvalidRequest, NotFound, SageError
from sage.middleware.retrieval.store import schema
from sage.middleware.retrieval.store.connections import connect
from sage.middleware.retrieval.store.store import Change, DocumentStore
from sage.middleware.retrieval.types.documents import NewDocument
from sage.middleware.settings.retrieval import CollectionOptions, Metric

OPTIONS = CollectionOptions(embedder="east/embed", metric=Metric.DOT)


@contextmanager
def opened(directory: Path) -> Iterator[DocumentStore]:
    store = DocumentStore.open(directory)
    try:
        yield store
    finally:
        store.close()


def make(directory: Path, documents: int = 3) -> None:
    store = DocumentStore.create(directory, "papers", OPTIONS, "east/embed-2", frozenset({"en", "de"}), 4)
    if documents:
        made = [NewDocument(f"d{n}", f"text {n} " * 50, b"{}", np.full(4, n, np.float32)) for n in range(documents)]
        store.write(Change(made), lambda commit: None)
    store.close()


def test_an_identity_survives(tmp_path: Path) -> None:
    make(tmp_path / "c")
    with opened(tmp_path / "c") as store:
        first = store.identity
    with opened(tmp_path / "c") as store:
        identity = store.identity
    assert identity == first
    assert (identity.name, identity.embedder, identity.dimension) == ("papers", "east/embed-2", 4)
    assert identity.languages == {"en", "de"}
    assert identity.options == OPTIONS
    assert len(identity.uuid) == 36


def test_only_their_owner_may_read_the_files(tmp_path: Path) -> None:
    store = DocumentStore.create(tmp_path / "c", "c", OPTIONS, None, None, None)
    store.write(Change([NewDocument("a", "text")]), lambda commit: None)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()}
    assert modes == {"truth.db": 0o600, "truth.db-wal": 0o600, "truth.db-shm": 0o600}
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    store.close()


def test_there_is_one_collection_in_a_directory(tmp_path: Path) -> None:
    make(tmp_path / "c")
    with pytest.raises(Conflict, match="'other' exists already"):
        DocumentStore.create(tmp_path / "c", "other", OPTIONS, None, None, None)
    with opened(tmp_path / "c") as store, store.reading() as reading:
        assert reading.count() == 3


def test_a_missing_one_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        DocumentStore.open(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_an_interrupted_creation_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "truth.db").touch()
    with pytest.raises(NotFound):
        DocumentStore.open(tmp_path / "c")
    make(tmp_path / "c")
    with opened(tmp_path / "c") as store, store.reading() as reading:
        assert reading.count() == 3


def test_a_file_that_is_not_a_database_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    file = tmp_path / "c" / "truth.db"
    file.write_bytes(b"my notes\n" * 1000)
    for attempt in (lambda: DocumentStore.open(tmp_path / "c"), lambda: make(tmp_path / "c")):
        with pytest.raises(SageError, match=r"damaged \(SQLITE_NOTADB\).*restore") as caught:
            attempt()
        assert caught.value.code == "collection_damaged"
    assert file.read_bytes() == b"my notes\n" * 1000


def test_the_database_of_another_program_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    file = tmp_path / "c" / "truth.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
        connection.commit()
    before = file.read_bytes()
    with pytest.raises(SageError, match="another program") as caught:
        DocumentStore.open(tmp_path / "c")
    assert caught.value.code == "collection_foreign"
    with pytest.raises(Conflict):
        make(tmp_path / "c")
    with closing(sqlite3.connect(file)) as connection:
        assert [name for (name,) in connection.execute("SELECT name FROM sqlite_master")] == ["theirs"]
    assert Path(file).read_bytes()[:16] == before[:16]


def test_a_newer_schema_is_not_changed(tmp_path: Path) -> None:
    make(tmp_path / "c")
    with closing(sqlite3.connect(tmp_path / "c" / "truth.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = (tmp_path / "c" / "truth.db").read_bytes()
    with pytest.raises(SageError, match=r"newer release \(schema 99; .*update") as caught:
        DocumentStore.open(tmp_path / "c")
    assert caught.value.code == "collection_newer"
    assert (tmp_path / "c" / "truth.db").read_bytes() == before


def test_an_older_schema_is_brought_up_to_date_once(tmp_path: Path) -> None:
    make(tmp_path / "c")
    ran = []

    def third(connection: sqlite3.Connection) -> None:
        ran.append("third")
        connection.execute("ALTER TABLE documents ADD COLUMN extra TEXT")

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE halfway (a)")
        raise RuntimeError("no")

    migrations = (*schema.MIGRATIONS, lambda connection: None)
    with closing(connect(tmp_path / "c" / "truth.db")) as connection:
        with pytest.raises(RuntimeError):
            schema.check(connection, "c", (*migrations, third, broken))
        for _ in range(2):
            schema.check(connection, "c", (*migrations, third))
        assert ran == ["third", "third"]  # the first one was undone
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert "halfway" not in tables
        assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations) + 1,)
        assert connection.execute("SELECT count(*), count(extra) FROM documents").fetchone() == (3, 0)


def use_all_of(directory: Path) -> None:
    with opened(directory) as store:
        with store.reading() as reading:
            for batch in reading.rows(0):
                assert len(reading.by_id([row.id for row in batch])) == len(batch)
            assert reading.deletions(0).tolist() == []
            assert reading.segments() == []
            assert reading.state("x") is None
        store.write(Change([NewDocument("new", "text")]), lambda commit: None)


@pytest.mark.parametrize("page", [1, 3, 6])
def test_a_damaged_page_is_reported(tmp_path: Path, page: int) -> None:
    make(tmp_path / "c", 500)
    file = tmp_path / "c" / "truth.db"
    content = bytearray(file.read_bytes())
    content[page * 8192 : (page + 1) * 8192] = b"\xa5" * 8192
    file.write_bytes(content)
    with pytest.raises(SageError) as caught:
        use_all_of(tmp_path / "c")
    assert caught.value.code == "collection_damaged"
    assert "snapshot" in caught.value.message


def test_a_cut_database_is_reported(tmp_path: Path) -> None:
    make(tmp_path / "c", 500)
    file = tmp_path / "c" / "truth.db"
    file.write_bytes(file.read_bytes()[: 5 * 8192 + 100])
    with pytest.raises(SageError) as caught, opened(tmp_path / "c") as store, store.reading() as reading:
        assert sum(len(batch) for batch in reading.rows(0)) == 500
    assert caught.value.code == "collection_damaged"


def test_a_write_to_a_closed_store_names_the_collection(tmp_path: Path) -> None:
    make(tmp_path / "c")
    with opened(tmp_path / "c") as store, pytest.raises(InvalidRequest, match="have 4"):
        store.write(Change([NewDocument("x", "t", b"{}", np.zeros(3, np.float32))]), lambda commit: None)

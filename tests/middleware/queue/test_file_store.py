"""The store of files, where no client can look: what jobs write and read, other processes, and full disks."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.errors import NotFound, PayloadTooLarge, Unavailable
from sage.middleware.database.database import Database
from sage.middleware.queue.files import FileLimits, FileStore, NewFile
from sage.middleware.queue.records import NewJob
from sage.middleware.queue.store import JobStore
from sage.middleware.settings.database import DatabaseUrl

pytestmark = pytest.mark.both_databases

INPUT = NewFile(tenant="t", user="u", filename="in.jsonl", purpose="batch")


@pytest.fixture
def store(database: Database, directory: Path) -> FileStore:
    return FileStore(database, directory / "files", FileLimits(max_file=1000, max_files_total=1500))


def put(store: FileStore, content: bytes) -> str:
    with store.create("t") as upload:
        upload.write(content)
        return upload.commit(INPUT).id


def contents(directory: Path) -> list[bytes]:
    return sorted(blob.read_bytes() for blob in (directory / "files").iterdir())


def test_a_file_that_is_not_finished_leaves_nothing(store: FileStore, directory: Path) -> None:
    with store.create("t") as upload:
        upload.write(b"half of i")
    with store.create("t") as upload:
        upload.write(b"sealed, but its row was never committed")
        upload.seal(INPUT)
    assert contents(directory) == []
    assert store.used("t") == 0
    assert store.page("t", limit=10).files == []


def test_what_a_job_makes_is_kept_with_its_row_in_one_transaction_and_never_refused(
    store: FileStore, database: Database, directory: Path
) -> None:
    put(store, bytes(900))
    with store.create_output() as upload:
        upload.write(bytes(5000))
        stored = upload.seal(NewFile("t", "u", "out.jsonl", "batch_output", job_id="job_1"))
        with database.writing() as connection:
            store.insert(connection, stored)
        upload.keep()
    assert store.get("t", stored.id) == stored
    assert store.used("t") == 5900
    with pytest.raises(PayloadTooLarge, match=r"queue\.limits\.max_files_total"), store.create("t") as refused:
        refused.write(b"x")


def test_the_input_of_an_unfinished_job_stays_on_the_disk(
    store: FileStore, database: Database, directory: Path, run: Callable[[Any], Any]
) -> None:
    file_id = put(store, b"{}\n")
    jobs = JobStore(database, directory, store)
    run(jobs.add(NewJob(kind="batch", tenant="t", user="u", params={}, held=True, input_file_id=file_id)))
    stored = store.get("t", file_id)
    store.delete("t", file_id)
    store.purge()
    with pytest.raises(NotFound):
        store.get("t", file_id)
    with store.open_blob(stored) as file:
        assert file.read() == b"{}\n"
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE jobs SET state = 'cancelled'")
    assert store.purge() == 1
    assert contents(directory) == []
    run(jobs.close())


@pytest.mark.slow
def test_recovery_leaves_alone_what_another_process_still_writes(
    store: FileStore, directory: Path, database_url: DatabaseUrl | None
) -> None:
    kept = put(store, b"kept")
    with store.create("t") as written, store.create("t") as sealed:
        written.write(b"being written")
        written.flush()
        sealed.write(b"sealed, its row comes soon")
        stored = sealed.seal(INPUT)
        (directory / "files" / ("0" * 32)).write_bytes(b"nobody's")
        (directory / "files" / ("1" * 32 + ".part")).write_bytes(b"nobody's")
        ours = "from pathlib import Path\nfrom sage.middleware.queue.database import open_jobs_database\n"
        ours += "from sage.middleware.queue.files import FileLimits, FileStore\n"
        ours += "from sage.middleware.settings.database import DatabaseUrl\n"
        url = None if database_url is None else f"DatabaseUrl({database_url.conninfo!r})"
        ours += f"database = open_jobs_database(Path({str(directory)!r}), url={url})\n"
        ours += f"print(FileStore(database, Path({str(directory / 'files')!r}), FileLimits(1, 1)).recover())\n"
        other = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, check=True)
        assert other.stdout == "2\n"
        store.add(stored)
        sealed.keep()
    assert contents(directory) == [b"kept", b"sealed, its row comes soon"]
    assert store.recover() == 0
    assert {file.id for file in store.page("t", limit=10).files} == {kept, stored.id}


@pytest.fixture
def tiny_files() -> Iterator[None]:
    """No file of this process may have more than 2 MB, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_takes_no_more(database: Database, directory: Path, tiny_files: None) -> None:
    store = FileStore(database, directory / "files", FileLimits(max_file=10**7, max_files_total=10**7))
    with store.create("t") as upload:
        upload.write(bytes(1_900_000))
        with pytest.raises(Unavailable, match="cannot be stored"):
            upload.write(bytes(200_000))
    assert contents(directory) == []
    with store.create("t") as upload:
        upload.write(b"small")
        upload.commit(INPUT)
    assert contents(directory) == [b"small"]

"""What vector stores live through: workers and gateways that are killed, batches that are cancelled, expiry."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from running_gateway import Running
from sage_process import environment, serving
from stores_client import Stores
from waiting import wait_until

from sage.middleware.engines.proc_stats import descendants
from sage.middleware.settings.database import DatabaseUrl

pytestmark = pytest.mark.slow
FULL = bool(os.environ.get("SAGE_TEST_FULL"))
FILES = 200 if FULL else 40
KILLS = 20 if FULL else 3
SETTINGS = {"api": {"port": 0, "access_log": False}, "retrieval": {"defaults": {"embedder": "none"}}}


def upload_many(stores: Stores, count: int = FILES, paragraphs: int = 20) -> list[str]:
    """Files of several chunks each."""
    return [
        stores.upload(
            f"{number}.md",
            "\n\n".join(f"Barrel {number}, cask {cask}: {'oak ' * 60}" for cask in range(paragraphs)).encode(),
        )
        for number in range(count)
    ]


def chunks(url: str, key: str, store: str) -> list[tuple[str, int]]:
    """The file and the place of every chunk in the collection of a store."""
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        found: list[tuple[str, int]] = []
        cursor: str | None = None
        while True:
            query = "" if cursor is None else f"&cursor={cursor}"
            page: Any = client.get(
                f"/collections/{store.removeprefix('vs_')}/documents?limit=1000{query}", cast_to=object
            )
            found += [(each["metadata"]["file_id"], each["metadata"]["chunk"]) for each in page["documents"]]
            cursor = page["cursor"]
            if cursor is None:
                return found


def assert_whole(found: list[tuple[str, int]], ids: list[str]) -> None:
    """Every file has its chunks, each once."""
    assert len(found) == len(set(found))
    assert {file for file, _ in found} == set(ids)
    places = {file: sorted(place for each, place in found if each == file) for file in ids}
    assert all(place == list(range(len(place))) for place in places.values())
    assert len({len(place) for place in places.values()}) == 1


def test_a_killed_worker_loses_nothing_of_a_batch(stores: Stores) -> None:
    ids = upload_many(stores)
    store = stores.client.vector_stores.create(name="Killed").id
    batch = stores.client.vector_stores.file_batches.create(store, file_ids=ids)
    assert (batch.status, batch.file_counts.in_progress) == ("in_progress", FILES)
    for _ in range(KILLS):
        counts = stores.client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store).file_counts
        assert counts.total == FILES
        if counts.completed == FILES:
            break
        own = stores.running.edge.app.state.own_worker.pid
        if own is not None:
            for pid in descendants(own):
                if pid != own:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        before = counts.completed
        wait_until(lambda before=before: completed(stores, store) > min(before, FILES - 1))
    done = stores.done(store)
    assert (done.file_counts.completed, done.file_counts.failed) == (FILES, 0)
    assert_whole(chunks(stores.running.url, stores.running.key, store), ids)


def completed(stores: Stores, store: str) -> int:
    return stores.client.vector_stores.retrieve(store).file_counts.completed


@contextlib.contextmanager
def served(directory: Path, workers: int, **sections: Any) -> Iterator[tuple[Any, openai.OpenAI]]:
    """A `sage serve` on ``directory``, open to everybody here."""
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, **sections, "auth": {"enabled": False}}))
    arguments = ["--config", str(config), "--workers", str(workers)]
    env = environment(directory / "data")
    with (
        serving(arguments, env, directory, 60) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2) as client,
    ):
        yield server, client


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_gateway_goes_on_at_its_next_start(tmp_path: Path, workers: int) -> None:
    with served(tmp_path, workers) as (server, client):
        made = Stores(None, client)  # type: ignore[arg-type]
        ids = upload_many(made, 20)
        store = client.vector_stores.create(name="Restarted").id
        client.vector_stores.file_batches.create(store, file_ids=ids)
        wait_until(lambda: completed(made, store) >= 1)
        for pid in {server.process.pid, *descendants(server.process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.process.wait(30)
    with served(tmp_path, workers) as (server, client):
        again = Stores(None, client)  # type: ignore[arg-type]
        done = again.done(store)
        assert (done.file_counts.completed, done.file_counts.total) == (20, 20)
        assert_whole(chunks(server.url, "none", store), ids)
        assert {each.filename for each in client.vector_stores.search(store, query="Barrel 7").data} != set()


def test_a_cancelled_batch_leaves_no_half_files(stores: Stores) -> None:
    ids = upload_many(stores, paragraphs=40)
    client = stores.client
    store = client.vector_stores.create(name="Cancelled").id
    batch = client.vector_stores.file_batches.create(store, file_ids=ids)
    wait_until(lambda: completed(stores, store) >= 1)
    client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
    ended = client.vector_stores.file_batches.poll(batch.id, vector_store_id=store)
    assert ended.status == "cancelled"
    assert ended.file_counts.completed + ended.file_counts.cancelled == FILES
    assert ended.file_counts.cancelled >= 1
    kept = {each.id for each in client.vector_stores.files.list(store, filter="completed")}

    def is_settled() -> bool:
        return {file for file, _ in chunks(stores.running.url, stores.running.key, store)} == kept

    wait_until(is_settled)


def test_a_store_that_is_deleted_while_it_reads_does_not_come_back(stores: Stores) -> None:
    ids = upload_many(stores, 10, paragraphs=400)
    client, running = stores.client, stores.running
    for delete in (
        lambda store: client.vector_stores.delete(store),
        lambda store: running.request("DELETE", f"/collections/{store.removeprefix('vs_')}"),
    ):
        store = client.vector_stores.create(name="Deleted").id
        client.vector_stores.file_batches.create(store, file_ids=ids)
        wait_until(lambda store=store: len(chunks(running.url, running.key, store)) > 0)
        delete(store)
        wait_until(lambda: not unfinished_jobs(running))
        assert running.get(f"/collections/{store.removeprefix('vs_')}").status_code == 404
        with pytest.raises(openai.NotFoundError):
            client.vector_stores.retrieve(store)


def unfinished_jobs(running: Running) -> list[Any]:
    return [job for job in running.get("/tasks").json()["tasks"] if job["finished_at"] is None]


def test_an_unused_store_expires_and_is_removed(stores: Stores) -> None:
    client, running = stores.client, stores.running
    after: Any = {"anchor": "last_active_at", "days": 3}
    file = stores.upload("a.md", b"# Grapes\n\nGrapes are blue.")
    store = client.vector_stores.create(name="Short", expires_after=after, file_ids=[file])
    stores.done(store.id)
    assert store.expires_at is not None
    assert store.expires_at - store.created_at == pytest.approx(3 * 86400, abs=2)
    state = running.edge.app.state
    access, loop = state.vector_stores.access, state.gateway.loop
    real = access.clock
    try:
        access.clock = lambda: real() + 2 * 86400
        client.vector_stores.search(store.id, query="grapes")  # in use
        access.clock = lambda: real() + 4 * 86400
        assert client.vector_stores.retrieve(store.id).status == "completed"
        access.clock = lambda: real() + 6 * 86400
        assert client.vector_stores.retrieve(store.id).status == "expired"
        with pytest.raises(openai.BadRequestError) as refused:
            client.vector_stores.search(store.id, query="grapes")
        assert refused.value.code == "vector_store_expired"
        asyncio.run_coroutine_threadsafe(state.store_upkeep.expire(), loop).result(30)
        assert running.get(f"/collections/{store.id.removeprefix('vs_')}").status_code == 404
        assert client.vector_stores.retrieve(store.id).status == "expired"
        target = f"collection:{store.id.removeprefix('vs_')}"
        events = running.get("/audit", params={"target": target}).json()["events"]
        assert [event["action"] for event in events][:1] == ["collection.delete"]
        access.clock = lambda: real() + 40 * 86400
        asyncio.run_coroutine_threadsafe(state.store_upkeep.expire(), loop).result(30)
        with pytest.raises(openai.NotFoundError):
            client.vector_stores.retrieve(store.id)
    finally:
        access.clock = real


@pytest.mark.both_databases
def test_stores_on_both_databases(tmp_path: Path, database_url: DatabaseUrl | None) -> None:
    extra = {} if database_url is None else {"database": database_url.conninfo}
    with served(tmp_path, 1, **extra) as (_, client):
        stores = Stores(None, client)
        store = client.vector_stores.create(name="Both", metadata={"a": "b"}).id
        ids = upload_many(stores, 3, 2)
        batch = client.vector_stores.file_batches.create_and_poll(
            store, files=[{"file_id": each, "attributes": {"number": place}} for place, each in enumerate(ids)]
        )
        assert (batch.status, batch.file_counts.completed) == ("completed", 3)
        filters: Any = {"type": "gte", "key": "number", "value": 1}
        found = client.vector_stores.search(store, query="Barrel", filters=filters).data
        assert {each.file_id for each in found} == set(ids[1:])
        assert [each.id for each in client.vector_stores.files.list(store, order="asc", after=ids[0])] == ids[1:]
        client.vector_stores.files.delete(ids[0], vector_store_id=store)
        counts = client.vector_stores.update(store, name="Renamed").file_counts
        assert (counts.completed, counts.total) == (2, 2)
        assert client.vector_stores.delete(store).deleted
        assert client.vector_stores.list().data == []

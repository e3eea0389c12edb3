"""The vector service on a real Chroma: in files, and on its server."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ports import free_port, wait_for_port

from sage.errors import InvalidRequest, NotFound, Unavailable
from sage.middleware.retrieval.embedding.builtin import EARLIER_MINILM, MINILM, builtin_embedder
from sage.service import VDBService
from sage.service.vdb.chroma.client import close

pytestmark = pytest.mark.slow
_RUN = "from chromadb.cli.cli import app; app()"


def ids(results: list[dict[str, Any]]) -> list[str]:
    return [result["id"] for result in results]


@contextmanager
def chroma_server(directory: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address once it listens, and its process."""
    port = free_port()
    home = {"HOME": str(directory), "ANONYMIZED_TELEMETRY": "False"}
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, "run", "--path", str(directory), "--host", "127.0.0.1", "--port", f"{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **home},
    )
    output: list[str] = []
    listens = threading.Event()

    def read() -> None:
        for line in process.stdout or ():
            output.append(line)
            if "listening on" in line:
                listens.set()

    reader = threading.Thread(target=read)
    try:
        reader.start()
        assert listens.wait(60), "".join(output)
        wait_for_port(port, 60)  # on a starved machine it says so before it does
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def test_what_is_in_files_is_there_again(tmp_path: Path) -> None:
    directory = str(tmp_path / "chroma")
    with VDBService("chroma", persist_directory=directory, distance_metric="l2") as service:
        service.add([{"id": "a", "vector": [3, 4], "metadata": {"n": 1}, "text": "kept"}], tenant="acme")
    with VDBService("chroma", persist_directory=directory) as service:
        assert service.health() == {"backend": "chroma", "durable": True}
        assert service.collections(tenant="acme") == ["default"]
        assert service.collections() == []
        assert service.search([0, 0], tenant="acme")[0]["score"] == pytest.approx(-5.0)
        with pytest.raises(InvalidRequest, match=r"items\[0\]: 'vector' has 3 dimensions, but .* 2"):
            service.add([{"vector": [1, 2, 3]}], tenant="acme")


def test_a_collection_keeps_what_local_meant_when_it_was_made(tmp_path: Path) -> None:
    import chromadb  # here, as in the product: it is an extra

    directory, text = str(tmp_path / "chroma"), "The cat sleeps on the sofa."
    with VDBService("chroma", persist_directory=directory, embedder="local") as service:
        for name in ("old", "new"):
            service.add([{"id": "a", "text": text}], collection=name)
    client = chromadb.PersistentClient(directory)
    (old,) = (each for each in client.list_collections() if each.name.endswith("old"))
    assert old.metadata.pop("sage_embedder") == MINILM.full_name
    old.modify(metadata=old.metadata)  # as earlier releases left it
    close(client)
    with VDBService("chroma", persist_directory=directory, embedder="local") as service:
        for name, kind in (("old", EARLIER_MINILM), ("new", MINILM)):
            service.add([{"id": "b", "text": text}], collection=name)
            embedder = builtin_embedder(kind.full_name)
            assert embedder is not None
            vector = service.get("b", collection=name, vector=True)["vector"]
            assert vector == pytest.approx(embedder.embed([text])[0].tolist(), abs=1e-5)


def test_a_threshold_leaves_out_what_is_not_relevant() -> None:
    for metric, exact in (("cosine", False), ("l2", False), ("cosine", True)):
        with VDBService("chroma", distance_metric=metric) as service:
            service.add(
                [{"id": "a", "vector": [1, 0]}, {"id": "b", "vector": [0.8, 0.6]}, {"id": "c", "vector": [0, 1]}]
            )
            found = service.search([1, 0], score_threshold=0.7, options={"exact": exact})
            assert {result["id"]: result["scores"]["relevance"] for result in found} == pytest.approx(
                {"a": 1, "b": 0.8}
            )
            assert service.search([-1, 0], score_threshold=0.1) == []


def test_more_items_than_one_batch_of_chroma_takes() -> None:
    with VDBService("chroma", distance_metric="l2") as service:
        service.add([{"id": f"{n}", "vector": [1, n], "metadata": {"n": n}} for n in range(6000)])
        assert service.count() == 6000
        assert service.count({"n": {"$gte": 5500}}) == 500
        assert ids(service.search([1, 6000], n_results=1)) == ["5999"]
        assert service.delete(where={"n": {"$lt": 5990}}) == 5990
        assert service.count() == 10


def test_a_server_serves_several_services_and_its_death_is_said_within_seconds(tmp_path: Path) -> None:
    with chroma_server(tmp_path) as (url, process):
        with VDBService("chroma", url=url) as one, VDBService("chroma", url=url + "/") as two:
            items = [
                {"id": f"{n}", "vector": [1, n], "metadata": {"n": n, "x": n / 2, "l": ["a"]}, "text": "t"}
                for n in range(9)
            ]
            one.add(items)
            assert ids(two.search([0, 1], n_results=2, where={"n": {"$lt": 5}})) == ["4", "3"]
            assert two.count({"l": "a", "x": {"$gte": 2}}) == 5
            two.update("0", metadata={"n": 100})
            assert one.get("0", vector=True) == {"id": "0", "metadata": {"n": 100}, "text": "t", "vector": [1.0, 0.0]}
            assert ids(one.list_items(limit=2)["items"]) == ["0", "1"]
            assert one.health() == {"backend": "chroma", "durable": True}
            with pytest.raises(InvalidRequest, match="3 dimensions"):
                one.search([1, 2, 3])

            two.drop("default")
            with pytest.raises(NotFound, match="no collection 'default'; there are none yet"):
                one.search([1, 0], collection="default")
            assert one.search([1, 0]) == []
            two.add([{"id": "new", "vector": [1, 0, 0]}])
            assert ids(one.search([1, 0, 0])) == ["new"]
            two.drop("default")
            one.add([{"id": "newer", "vector": [1, 0]}])
            assert ids(two.search([1, 0])) == ["newer"]

            process.kill()
            process.wait()
            began = time.monotonic()
            for call in (
                lambda: one.search([1, 0]),
                lambda: two.add([{"vector": [1, 0]}]),
                one.health,
                one.collections,
            ):
                with pytest.raises(Unavailable, match=rf"Chroma server at {re.escape(url)}/? does not answer"):
                    call()
            assert time.monotonic() - began < 10
        with pytest.raises(Unavailable, match="does not answer"):
            VDBService("chroma", url=url).setup()


def test_a_server_that_takes_calls_and_never_answers_is_said_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer"):
            VDBService("chroma", url=url).setup()
        assert time.monotonic() - began < 10


def test_an_address_that_is_none_is_refused() -> None:
    for url in (
        "localhost:8000",
        "http://",
        "ftp://localhost",
        "http://user:word@localhost:8000",
        "http://h:x",
        "http://h/a",
    ):
        with pytest.raises(InvalidRequest, match="such as http://localhost:8000") as refused:
            VDBService("chroma", url=url).setup()
        assert "word" not in str(refused.value)

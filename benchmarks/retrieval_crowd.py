"""Searches over HTTP by one client and by several at once, at one process and at two; and writers side by side.

All rates that a ratio is made of are measured in turns in the same run: a busy machine slows both.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path

from processes import Server, clean_environment, free_port, running
from retrieval_made import Asked, Chunk, Made
from retrieval_speed import TOP, Figures

from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.embedding.builtin import installed_kinds

_ROUNDS = 3
_QUIET = 0.05
"""Seconds of CPU in a second below which a server is at rest: it compiles kernels and merges segments after a start."""
_AT_REST_WITHIN = 120
_DOCUMENTS = 10
"""Of a batch."""
_KEPT = 40
"""Different queries, whose vectors the server keeps."""


def searches(
    made: Made, store: Path, clients: Sequence[int], workers: Sequence[int], seconds: float, directory: Path
) -> Iterator[Figures]:
    """Whole hybrid searches of the collection in ``store``, by ``clients`` at once, at each number of processes."""
    asked = made.asked(_KEPT)
    for number in workers:
        figures = Figures(f"SAGE over HTTP, {number} worker{'s' * (number > 1)}", made.size)
        with _serving(store, directory / f"workers-{number}", number) as (server, port):
            for name, bodies in _kinds(asked, _embeds(made)).items():
                _warm_up(server, port, bodies, max(clients), seconds)
                _measure(server, port, name, bodies, clients, seconds, figures)
        yield figures


def embedder(made: Made) -> str | None:
    """The embedder that a made collection is served with, so that queries are embedded: ``None`` where none is
    installed, or its vectors are of another size."""
    return "local" if _embeds(made) else None


def _embeds(made: Made) -> bool:
    return any(kind.name == "local" and kind.dimension == made.dimension for kind in installed_kinds())


@contextlib.contextmanager
def _serving(store: Path, data: Path, workers: int) -> Iterator[tuple[Server, int]]:
    port = free_port()
    (data / "collections" / "local").mkdir(parents=True)
    (data / "collections" / "local" / "default").symlink_to(store)
    config = {"data_dir": str(data), "api": {"port": port, "access_log": False}, "auth": {"enabled": False}}
    (data / "config.yaml").write_text(json.dumps(config))
    argv = [sys.executable, "-m", "sage.middleware.cli.start", "serve", "--config", str(data / "config.yaml")]
    with running("sage", [*argv, "--workers", str(workers)], clean_environment({}), data / "log") as server:
        server.wait_ready(port, "/health", 60)
        yield server, port


Bodies = Callable[[int, int], bytes]
"""The body of a client's request, by the client and a number that is new each time."""


def _kinds(asked: Sequence[Asked], embeds: bool) -> dict[str, Bodies]:
    def kept(client: int, number: int) -> bytes:
        each = asked[(client * 7 + number) % len(asked)]
        fields = {} if embeds else {"vector": each.vector.tolist()}
        return json.dumps({"query": " ".join(each.words), **fields}).encode()

    def new(client: int, number: int) -> bytes:
        each = asked[number % len(asked)]
        return json.dumps({"query": f"what is said about {' '.join(each.words)} {client} {number}"}).encode()

    return {"hybrid, vectors kept": kept, **({"new hybrid query": new} if embeds else {})}


def _warm_up(server: Server, port: int, bodies: Bodies, clients: int, seconds: float) -> None:
    """Until kernels are compiled, in every process."""
    for _ in range(2):
        _load(port, bodies, clients, max(1.0, seconds))
        deadline, quiet = time.monotonic() + _AT_REST_WITHIN, 0
        while quiet < 2 and time.monotonic() < deadline:
            before = server.cpu()
            time.sleep(1)
            quiet = quiet + 1 if server.cpu().since(before) < _QUIET else 0


def _measure(
    server: Server, port: int, name: str, bodies: Bodies, clients: Sequence[int], seconds: float, figures: Figures
) -> None:
    rates, costs = defaultdict(list), defaultdict(list)
    for _ in range(_ROUNDS):
        for count in clients:
            before = server.cpu()
            answered, wrong, spent = _load(port, bodies, count, seconds)
            rates[count].append(answered / spent)
            costs[count].append(server.cpu().since(before) / max(1, answered) * 1e3)
            figures.check(answered > 0 and not wrong, f"{name}, {count} clients: {wrong[:1]}")
    for count in clients:
        called = f"{name}, {count} client{'s' * (count > 1)}"
        figures.values[f"{called}, a second"] = statistics.median(rates[count])
        figures.values[f"{called}, CPU ms each"] = min(costs[count])
    for count in clients[1:]:
        ratios = [many / one for many, one in zip(rates[count], rates[clients[0]], strict=True)]
        figures.values[f"{name}, {count} clients to {clients[0]}, ×"] = statistics.median(ratios)


def _load(port: int, bodies: Bodies, clients: int, seconds: float) -> tuple[int, list[str], float]:
    """How many answers all clients got together, what was wrong with some, and the seconds that it took."""
    context = multiprocessing.get_context("fork")
    results: Queue[tuple[int, list[str]]] = context.Queue()
    started = time.perf_counter()
    processes = [
        context.Process(target=_client, args=(port, bodies, client, seconds, results)) for client in range(clients)
    ]
    for process in processes:
        process.start()
    each = [results.get(timeout=seconds + 60) for _ in processes]
    spent = time.perf_counter() - started
    for process in processes:
        process.join()
    return sum(count for count, _ in each), [fault for _, faults in each for fault in faults], spent


def _client(port: int, bodies: Bodies, client: int, seconds: float, results: Queue[tuple[int, list[str]]]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    count, wrong, end = 0, [], time.perf_counter() + seconds
    number = time.time_ns() // 1000 % 1_000_000
    while time.perf_counter() < end:
        connection.request("POST", "/search", bodies(client, number + count), {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200 or len(json.loads(answer)["results"]) != TOP:
            wrong.append(f"{response.status} {answer[:200]!r}")
        count += 1
    results.put((count, wrong))


def writers(made: Made, counts: Sequence[int], seconds: float, directory: Path) -> Figures:
    """Batches of ten documents with vectors, each waited for until it is durable and found, by writers at once."""
    figures = Figures("SAGE", made.size)
    chunk: Chunk = next(made.chunks())
    rates: dict[int, list[float]] = defaultdict(list)
    for turn in range(_ROUNDS):
        for count in counts:
            with VectorStore(directory / f"{turn}-{count}", embedder=None, dimension=made.dimension) as opened:
                batches, spent = _write(opened, chunk, count, seconds / _ROUNDS)
                rates[count].append(batches / spent)
                figures.check(len(opened) == batches * _DOCUMENTS, "acknowledged documents are missing")
    for count in counts:
        name = "durable batches of 10 a second" + (f", {count} writers" if count > 1 else "")
        figures.values[name] = statistics.median(rates[count])
    for count in counts[1:]:
        ratios = [many / one for many, one in zip(rates[count], rates[counts[0]], strict=True)]
        figures.values[f"durable batches, {count} writers to {counts[0]}, ×"] = statistics.median(ratios)
    return figures


def _write(opened: VectorStore, chunk: Chunk, writers: int, seconds: float) -> tuple[int, float]:
    texts, done = chunk.texts, [0] * writers
    started = time.perf_counter()

    def write(writer: int) -> None:
        while time.perf_counter() < started + seconds:
            place = (writer * 13 + done[writer]) * _DOCUMENTS % (len(texts) - _DOCUMENTS)
            part = slice(place, place + _DOCUMENTS)
            ids = [f"{writer}-{done[writer]}-{number}" for number in range(_DOCUMENTS)]
            opened.add_documents(texts[part], ids=ids, vectors=chunk.vectors[part])
            done[writer] += 1

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done), time.perf_counter() - started

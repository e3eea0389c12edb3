"""What a sharded collection does over Ray actors, told as JSON: run by a test as a process of its own, since Ray keeps
its token and its settings for the whole of one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sage.api.ray_environment import RayEnvironment
from sage.errors import SageError
from sage.middleware.retrieval.types.search import Fusion, Mode, Search, SearchAnswer
from sage.middleware.retrieval.vector_store import VectorStore
from sage.service.vdb.sharded.collection import PartlyWritten, ShardedCollection
from sage.service.vdb.sharded.shard_service import ShardService

COUNT = 3
WORDS = ("amber", "birch", "cedar", "delta", "ember")


class Hosted(ShardService):
    """A shard in an actor, which says where it runs."""

    def pid(self) -> int:
        return os.getpid()


def started(root: Path, number: int) -> RayEnvironment:
    """A shard in an environment of its own, whose actor is not started again when it dies."""
    config = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "temp_dir": sys.argv[2]}
    env = RayEnvironment(f"shard{number}", {"discovery": None, "grace": 2.0, "ray": config})
    env.register_service("shard", Hosted, root / str(number), max_workers=4, placement={"max_restarts": 0})
    env.start()
    return env


def documents() -> list[dict[str, Any]]:
    generator = np.random.default_rng(2)
    return [
        {
            "id": f"d{n}",
            "text": " ".join(generator.choice(WORDS, size=1 + n % 5)),
            "metadata": {"n": n % 4},
            "vector": generator.choice([-1.0, 0.5, 2.0], size=6).tolist(),
        }
        for n in range(400)
    ]


def searches() -> list[Search]:
    vector = np.array([1, 2, -1, 0.5, 0, 1], np.float32)
    hybrid = [Search("amber delta", vector=vector, fusion=fusion, top_k=60, exact=True) for fusion in Fusion]
    hybrid += [Search("+birch -cedar", vector=vector, offset=5, filter={"n": {"$gte": 2}}, exact=True)]
    return [
        *hybrid,
        Search("ember", mode=Mode.BM25),
        Search(vector=vector, mode=Mode.DENSE, exact=True, top_k=30),
    ]


def same(ours: SearchAnswer, expected: SearchAnswer) -> bool:
    near = all(abs(a.score - b.score) < 1e-9 for a, b in zip(ours.results, expected.results, strict=True))
    return near and ours.total == expected.total and [r.id for r in ours.results] == [r.id for r in expected.results]


def refused(call: Any, *args: Any) -> list[str]:
    try:
        call(*args)
    except SageError as exc:
        return [type(exc).__name__, exc.message]
    return []


def run(root: Path) -> dict[str, Any]:
    report: dict[str, Any] = {}
    environments = [started(root, number) for number in range(COUNT)]
    shards: list[Any] = [env.call_service["shard"] for env in environments]
    ours = ShardedCollection("c", shards, timeout=30)
    report["pids"] = len({shard.pid() for shard in shards} | {os.getpid()})
    with VectorStore(embedder=None) as store:
        ours.add(documents())
        store.collection.add(documents())
        report["same"] = [same(ours.search(search), store.collection.search(search)) for search in searches()]
        report["bad filter"] = refused(ours.search, Search("amber", filter={"$what": 1}))
        os.kill(shards[1].pid(), signal.SIGKILL)
        report["dead"] = refused(ours.search, Search("amber"))
        partial = ours.search(Search("amber", top_k=500), partial=True)
        report["partial"] = {
            "warnings": partial.warnings,
            "shards": sorted({ours.shard_of(r.id) for r in partial.results}),
        }
        more = [{"id": f"e{n}", "text": "birch"} for n in range(30)]
        try:
            ours.add(more)
        except PartlyWritten as exc:
            report["partly"] = [exc.message, exc.ids == [document["id"] for document in more]]
        ours.close()
        environments.append(started(root, 1))  # in the place of the dead one, with what that had
        shards[1] = environments[-1].call_service["shard"]
        ours = ShardedCollection("c", shards, timeout=30)
        ours.add(more)
        store.collection.add(more)
        expected = store.collection.search(Search("birch", mode=Mode.BM25, top_k=500))
        again = ours.search(Search("birch", mode=Mode.BM25, top_k=500))
        report["again"] = [again.total == expected.total, ours.count() == store.collection.count()]
        report["same again"] = [same(ours.search(search), store.collection.search(search)) for search in searches()[:1]]
    ours.close()
    for env in environments:
        env.stop()
    return report


def main() -> None:
    report = run(Path(sys.argv[1]))
    sys.stdout.buffer.write(b"\n" + orjson.dumps(report) + b"\n")


if __name__ == "__main__":
    main()

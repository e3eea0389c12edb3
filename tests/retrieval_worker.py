"""A second process on a collection, driven over a pipe; and the same commands on a store in this process."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import orjson

from sage.middleware.retrieval.types.search import Mode, Search
from sage.middleware.retrieval.vector_store import VectorStore


class Worker(Protocol):
    def do(self, command: str, **arguments: Any) -> Any: ...


class Here:
    """A store in this process."""

    def __init__(self) -> None:
        self._store: VectorStore | None = None

    def do(self, command: str, **arguments: Any) -> Any:
        return getattr(self, f"_{command}")(**arguments)

    def _open(self, path: str) -> None:
        self._close()
        self._store = VectorStore(path, embedder=None)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def _collection(self) -> Any:
        assert self._store is not None
        return self._store.collection

    def _add(self, documents: list[dict[str, Any]]) -> list[str]:
        ids: list[str] = self._collection.add(documents).ids
        return ids

    def _delete(self, **which: Any) -> int:
        return int(self._collection.delete(**which))

    def _optimize(self) -> None:
        self._collection.optimize()

    def _purge(self) -> None:
        self._collection.purge()

    def _search(self, mode: str, vector: list[float] | None = None, **arguments: Any) -> dict[str, Any]:
        query_vector = None if vector is None else np.array(vector, np.float32)
        answer = self._collection.search(Search(mode=Mode(mode), vector=query_vector, **arguments))
        return {"results": [[result.id, result.score] for result in answer.results], "total": answer.total}

    def _limit(self, bytes: int | None) -> None:
        """Limits the size of files that this process writes; ``None`` means no limit."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if bytes is None else bytes, hard))

    def _renounce(self) -> None:
        """Gives up what root may do beyond others (capset(2)): from here on, modes of files bind it."""
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        if os.geteuid() == 0 and ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
            raise OSError("the capabilities of root cannot be given up here")

    def _index(self) -> dict[str, Any]:
        description: dict[str, Any] = self._collection.describe()["index"]
        return description


class Process:
    """A store in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def do(self, command: str, **arguments: Any) -> Any:
        self.send(command, **arguments)
        return self.receive()

    def send(self, command: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps([command, arguments]) + b"\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        assert self._process.stdout is not None
        answer = orjson.loads(self._process.stdout.readline() or b'{"error": "it ended"}')
        if "error" in answer:
            raise AssertionError(f"the second process: {answer['error']}")
        return answer["ok"]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._process.stdout:
            self._process.stdin.close()
            self._process.wait(60)


def main() -> None:
    here = Here()
    for line in sys.stdin.buffer:
        command, arguments = orjson.loads(line)
        try:
            answer = {"ok": here.do(command, **arguments)}
        except Exception as exc:
            answer = {"error": repr(exc)}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()
    here.do("close")


if __name__ == "__main__":
    main()

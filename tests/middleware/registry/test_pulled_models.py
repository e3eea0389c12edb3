"""What the registry adds to a pull: the name, and a word about a model that the machine has no memory for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

from sage.middleware.providers.base import PullProgress
from sage.middleware.registry.pulled_models import PulledModels


class Table:
    """A registry without models, which writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def get(self, name: str) -> None:
        return None

    def register(self, name: str, settings: Any, *, source: str = "program") -> None:
        self.told.append(f"register {name} from {source}")

    def forget(self, provider: Any, name: str) -> None:
        self.told.append(f"forget {name}")

    def check_free(self, name: str) -> None:
        self.told.append(f"check {name}")


class Files:
    """A model whose file has so many bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._names: frozenset[str] = frozenset()

    def names(self) -> frozenset[str]:
        return self._names

    async def pull(self, source: str, accept: Callable[[str], str], options: Any) -> AsyncGenerator[PullProgress, None]:
        name = accept("model")
        yield PullProgress("pulling it", 0, self._size)
        yield PullProgress("pulling it", self._size, self._size)
        self._names = frozenset({name})
        yield PullProgress("success", model=name)


def pull(size: int, **options: Any) -> tuple[list[str], list[str]]:
    """The steps, and what the registry was told."""
    table = Table()
    provider: Any = SimpleNamespace(name="local", model_files=Files(size))
    pulled: Any = PulledModels(table, [provider])

    async def run() -> list[str]:
        return [step.status async for step in pulled.pull("hf:a/b", lambda name: None, **options)]

    return asyncio.run(run()), table.told


def test_a_model_is_checked_first_and_registered_last() -> None:
    steps, told = pull(2**20, name="mine")
    assert steps == ["pulling it", "pulling it", "success"]
    assert told == ["check mine", "forget mine", "register mine from file"]


def test_a_file_that_is_larger_than_the_memory_is_told_once() -> None:
    steps, _ = pull(2**50)
    assert steps[0].startswith("its file has 1048576.0 GiB, and this machine lets programs take ")
    assert steps[1:] == ["pulling it", "pulling it", "success"]

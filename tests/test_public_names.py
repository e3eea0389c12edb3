"""The names that programs import, and the parameters that they call them with, are frozen in ``public_names.txt``.

A line that goes missing breaks somebody's program. A new line is a promise: add it with
``python tests/test_public_names.py --write``, and say so in CHANGELOG.md.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import sage.errors

FILE = Path(__file__).with_name("public_names.txt")
PUBLIC: dict[str, tuple[str, ...]] = {
    "sage.api.function.base_function": ("BaseFunction",),
    "sage.api.function.kinds": (
        "BaseCoMapFunction",
        "BaseJoinFunction",
        "BatchFunction",
        "FilterFunction",
        "FlatMapFunction",
        "KeyByFunction",
        "MapFunction",
        "SinkFunction",
        "SourceFunction",
        "StopSignal",
    ),
    "sage.api.local_environment": ("LocalEnvironment",),
    "sage.api.ray_environment": ("RayEnvironment",),
    "sage.api.remote_environment": ("RemoteEnvironment",),
    "sage.api.stream": ("Stream",),
    "sage.kernels.runtime.service.base_service_task": ("BaseServiceTask",),
    "sage.middleware.llm": ("Generation", "JobHandle", "JobUnsuccessful", "JobsClient", "LLMService"),
    "sage.middleware.retrieval": ("Fusion", "Mode", "SearchResult", "VectorStore"),
    "sage.service": (
        "KVService",
        "MemoryOrchestratorService",
        "VDBService",
        "create_kv_service_factory",
        "create_memory_service_factory",
        "create_vdb_service_factory",
    ),
    "sage.service.kv.kv_service": ("KVService", "create_kv_service_factory"),
    "sage.service.memory_orchestrator.memory_service": ("MemoryOrchestratorService", "create_memory_service_factory"),
    "sage.service.vdb.vdb_service": ("VDBService", "create_vdb_service_factory"),
}
"""Where programs import what from; of :mod:`sage.errors`, they may import everything."""


def public_names() -> list[str]:
    lines = {f"sage.errors.{name}" for name, value in vars(sage.errors).items() if _is_own(sage.errors, name, value)}
    for module, names in PUBLIC.items():
        for name in names:
            lines.update(_of_object(f"{module}.{name}", getattr(importlib.import_module(module), name)))
    return sorted(lines)


def _is_own(module: ModuleType, name: str, value: Any) -> bool:
    return not name.startswith("_") and getattr(value, "__module__", None) == module.__name__


def _of_object(full: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield full
        yield from _of_class(full, value)
    else:
        yield full + _parameters(value)


def _of_class(full: str, kind: type) -> Iterator[str]:
    if "__init__" in vars(kind):
        yield f"{full}{_parameters(kind.__init__)}"
    for base in kind.__mro__:
        if base.__module__.startswith("sage."):
            for name, value in vars(base).items():
                if not name.startswith("_"):
                    yield f"{full}.{name}{_parameters(value)}"


def _parameters(value: Any) -> str:
    """``(a, b=, *, c=)`` of something that can be called: defaults are there, but not which; else nothing."""
    value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    if not inspect.isfunction(value):
        return ""
    plain = [
        parameter.replace(
            annotation=parameter.empty, default=parameter.empty if parameter.default is parameter.empty else _GIVEN
        )
        for parameter in inspect.signature(value).parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    return str(inspect.Signature(plain))


class _Given:
    def __repr__(self) -> str:
        return ""


_GIVEN = _Given()


def test_every_public_name_is_there_and_no_other() -> None:
    frozen, now = FILE.read_text(encoding="utf-8").splitlines(), public_names()
    assert sorted(set(frozen) - set(now)) == [], "missing: somebody's program breaks"
    assert sorted(set(now) - set(frozen)) == [], "new: if they are meant, python tests/test_public_names.py --write"


if __name__ == "__main__" and "--write" in sys.argv:
    FILE.write_text("\n".join(public_names()) + "\n", encoding="utf-8")

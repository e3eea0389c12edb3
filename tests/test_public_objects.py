"""What users see of public objects at a prompt: docstrings, and a `repr` that says what the object is."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_public_names import PUBLIC

import sage.errors
from sage.api.function.base_function import BaseFunction
from sage.api.function.kinds import MapFunction
from sage.api.local_environment import LocalEnvironment
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.middleware.retrieval import SearchResult, VectorStore
from sage.service import KVService, MemoryOrchestratorService, VDBService


def public_classes() -> Iterator[type]:
    errors = vars(sage.errors).values()
    yield from (kind for kind in errors if inspect.isclass(kind) and kind.__module__ == "sage.errors")
    for module, names in PUBLIC.items():
        found = [getattr(importlib.import_module(module), name) for name in names]
        yield from (kind for kind in found if inspect.isclass(kind))


def test_every_public_class_has_a_docstring_and_a_repr_of_its_own() -> None:
    classes = set(public_classes())
    assert len(classes) > 30
    assert [kind.__qualname__ for kind in classes if not vars(kind).get("__doc__")] == []
    assert [kind.__qualname__ for kind in classes if kind.__repr__ is object.__repr__] == []


def test_every_public_method_has_a_docstring() -> None:
    members = {
        f"{kind.__qualname__}.{name}": inspect.getattr_static(kind, name)
        for kind in public_classes()
        for name in dir(kind)
        if not name.startswith("_")
    }
    methods = {name: member for name, member in members.items() if inspect.isfunction(member) or is_property(member)}
    assert len(methods) > 100
    assert [name for name in methods if not documentation(name)] == []


def is_property(member: Any) -> bool:
    return isinstance(member, property)


def documentation(name: str) -> str | None:
    """As ``help()`` shows it: that of a base class where a method has none of its own."""
    kind, _, member = name.rpartition(".")
    return inspect.getdoc(getattr(next(each for each in public_classes() if each.__qualname__ == kind), member))


class Upper(MapFunction):
    """A user's."""


class Own(BaseFunction):
    """A user's."""


class Desk(BaseServiceTask):
    """A user's."""

    def greet(self, name: str) -> str:
        return f"hello {name}"

    def fail(self) -> None:
        raise ValueError("of mine")


def test_functions_and_services() -> None:
    assert (repr(Upper()), repr(Own())) == ("<Upper, a MapFunction>", "<Own, a BaseFunction>")
    assert repr(Desk()) == "<Desk, a service>"


@pytest.mark.parametrize(
    ("make", "about"),
    [
        (KVService, "KVService: memory"),
        (VDBService, "VDBService: retrieval, collection 'default'"),
        (lambda: MemoryOrchestratorService(embedder=None), "MemoryOrchestratorService: collection 'memory'"),
    ],
)
def test_our_services_say_whether_they_run(make: Callable[[], Any], about: str) -> None:
    service = make()
    assert repr(service) == f"<{about}, not running>"
    with service:
        assert repr(service) == f"<{about}, running>"
    assert repr(service) == f"<{about}, not running>"


def test_a_service_shows_no_password() -> None:
    service = KVService(backend_type="redis", redis_url="redis://:secret@localhost:6379")
    assert repr(service) == "<KVService: redis, not running>"


def test_an_environment_its_streams_and_its_calls() -> None:
    env = LocalEnvironment("shop", {"discovery": None})
    env.register_service("desk", Desk)
    stream = env.from_batch([1]).map(str, name="text")
    assert repr(stream) == "<Stream of text in 'shop'>"
    assert repr(stream.connect(env.from_batch([2]))) == "<Stream of text and batch-2 in 'shop'>"
    assert repr(env) == "<LocalEnvironment 'shop': not running, services: desk, 3 stages>"
    with env:
        assert repr(env).startswith("<LocalEnvironment 'shop': running")
        assert repr(env.call_service) == "<ServiceCaller of 'shop': desk>"
        desk = env.call_service["desk"]
        assert repr(desk) == "<service 'desk': fail, greet>"
        assert {"fail", "greet", "options"} <= set(dir(desk))
        assert repr(desk.greet) == "<method 'greet' of the service 'desk'>"
        call = env.call_service_async["desk"].greet("you")
        assert call.result(20) == "hello you"
        assert repr(call) == "<ServiceCall 'desk'.greet: done>"
        failed = env.call_service_async["desk"].fail()
        assert failed.exception(20)
        assert repr(failed) == "<ServiceCall 'desk'.fail: failed, ValueError('of mine')>"


def test_a_store_and_its_results(tmp_path: Path) -> None:
    with VectorStore(embedder=None) as store:
        store.add_documents(["red", "green"])
        assert repr(store) == "<VectorStore in memory: documents: 2, embedder: none>"
    assert repr(store) == "<VectorStore in memory: closed>"
    with VectorStore(
        tmp_path / "notes", embedder=lambda texts: [[1.0, 2.0]] * len(texts), embedder_name="mine"
    ) as store:
        store.add_documents(["red"], ids=["a"], metadatas=[{"year": 2021}])
        assert re.fullmatch(r"<VectorStore at '.*/notes': documents: 1, embedder: function/mine>", repr(store))
        assert repr(store.collection) == "<Collection 'notes'>"
        [result] = store.search("red", mode="bm25")
    assert repr(result).startswith("SearchResult(id='a', score=")
    assert repr(SearchResult("a", 0.5, "red")) == "SearchResult(id='a', score=0.5, text='red', metadata={})"

"""Services of an environment: registered in any order, started by need, stopped in reverse; and services alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sage.errors import Conflict, InvalidRequest, NotFound, Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, ServiceFactory
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.registry import Services, ServiceStartFailed

Log = list[tuple[str, str]]


class LoggingService(BaseServiceTask):
    """Writes its setup and cleanup, with its name, into a log of the test."""

    def __init__(self, log: Log, name: str, fails: str = "", answer: Any = None) -> None:
        self.log = log
        self.name = name
        self.fails = fails
        self._answer = answer

    def setup(self) -> None:
        self._log("setup")

    def cleanup(self) -> None:
        self._log("cleanup")

    def answer(self) -> Any:
        return self._answer

    def _log(self, what: str) -> None:
        self.log.append((what, self.name))
        if what == self.fails:
            raise OSError(f"no {what} today")


def factory(log: Log, name: str, *needs: str, **more: Any) -> ServiceFactory:
    return ServiceFactory(LoggingService, (log, name), more, needs)


def test_services_start_after_what_they_need_and_stop_in_reverse() -> None:
    log: Log = []
    services = Services("test", LocalHost)
    services.register("c", factory(log, "c", "b", "a"))
    services.register("a", factory(log, "a"))
    services.register("b", LoggingService, factory(log, "b", "a"))
    services.start()
    assert [name for _, name in log] == ["a", "b", "c"]
    services.stop()
    assert log[3:] == [("cleanup", "c"), ("cleanup", "b"), ("cleanup", "a")]


def test_all_ways_of_registering_make_the_same_service() -> None:
    log: Log = []
    services = Services("test", LocalHost)
    services.register("by_factory", factory(log, "1", answer=1))
    services.register("by_class_and_factory", LoggingService, factory(log, "2", answer=2))
    services.register("by_class", LoggingService, log, "3", answer=3, max_workers=2)
    services.register("by_function", partial(LoggingService, log, "4", answer=4))
    services.register("by_lambda", lambda: LoggingService(log, "5", answer=5))
    services.register("with_more", factory(log, "6"), answer=6)
    services.start()
    try:
        names = ["by_factory", "by_class_and_factory", "by_class", "by_function", "by_lambda", "with_more"]
        assert [services.call[name].answer() for name in names] == [1, 2, 3, 4, 5, 6]
        assert services.names() == sorted(names)
        assert {described["name"]: described["statistics"]["workers"] for described in services.describe()}[
            "by_class"
        ] == 2
    finally:
        services.stop()


def test_a_circle_of_needs_or_a_missing_need_fails_the_start() -> None:
    log: Log = []
    services = Services("test", LocalHost)
    services.register("a", factory(log, "a", "b"))
    with pytest.raises(NotFound, match="'a' needs 'b', which is not registered; registered: a"):
        services.start()
    services.register("b", factory(log, "b", "c"))
    services.register("c", factory(log, "c", "a"))
    with pytest.raises(InvalidRequest, match="in a circle: a → b → c → a"):
        services.start()
    assert log == []


def test_a_service_that_cannot_start_fails_the_start_with_its_cause_and_nothing_runs() -> None:
    log: Log = []
    services = Services("test", LocalHost)
    services.register("a", factory(log, "a"))
    services.register("b", factory(log, "b", "a", fails="setup"))
    with pytest.raises(
        ServiceStartFailed, match="'b' of the environment 'test' cannot start: no setup today"
    ) as caught:
        services.start()
    assert isinstance(caught.value.__cause__, OSError)
    assert log == [("setup", "a"), ("setup", "b"), ("cleanup", "b"), ("cleanup", "a")]
    with pytest.raises(NotFound):
        services.call["a"]


def test_a_constructor_that_fails_is_a_service_that_cannot_start() -> None:
    services = Services("test", LocalHost)
    services.register("a", LoggingService)
    with pytest.raises(ServiceStartFailed, match="missing 2 required positional arguments"):
        services.start()


@pytest.mark.parametrize("name", ["", "  ", 5, "x" * 201])
def test_a_bad_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="a service's name must be a text"):
        Services("test", LocalHost).register(name, LoggingService)


@pytest.mark.parametrize("service", [None, 5, "KVService"])
def test_an_object_that_is_neither_class_nor_factory_is_refused(service: Any) -> None:
    with pytest.raises(InvalidRequest, match="by a class or a factory"):
        Services("test", LocalHost).register("a", service)


@pytest.mark.parametrize(("word", "value"), [("max_workers", 0), ("queue_size", -1), ("max_workers", "two")])
def test_bad_hosting_options_are_refused(word: str, value: Any) -> None:
    services = Services("test", LocalHost)
    services.register("a", LoggingService, [], "a", **{word: value})
    with pytest.raises(ServiceStartFailed, match=f"a whole number from 1 as {word}"):
        services.start()


def test_a_name_is_taken_once_and_never_while_services_run() -> None:
    services = Services("test", LocalHost)
    services.register("a", factory([], "a"))
    with pytest.raises(Conflict, match="has a service 'a' already"):
        services.register("a", factory([], "a"))
    services.start()
    with pytest.raises(Conflict, match="before the services"):
        services.register("b", factory([], "b"))
    services.stop()


def test_two_environments_with_the_same_names_are_apart() -> None:
    first, second = (Services(name, LocalHost) for name in ("first", "second"))
    first.register("a", factory([], "a", answer="first"))
    second.register("a", factory([], "a", answer="second"))
    second.register("b", factory([], "b"))
    first.start()
    second.start()
    assert [services.call["a"].answer() for services in (first, second)] == ["first", "second"]
    with pytest.raises(NotFound, match="'first' runs no service 'b'; it runs: a"):
        first.call["b"]
    first.stop()
    assert second.call["a"].answer() == "second"
    second.stop()


def test_services_run_until_their_last_user_stops_and_may_start_again() -> None:
    log: Log = []
    services = Services("test", LocalHost)
    services.register("a", factory(log, "a", answer=1))
    services.start()
    services.start()
    services.stop()
    proxy = services.call["a"]
    assert proxy.answer() == 1
    services.stop()
    with pytest.raises(Unavailable, match="the service 'a' is stopped"):
        proxy.answer()
    services.start()
    assert services.call["a"].answer() == 1
    services.stop()
    services.stop()
    assert log == [("setup", "a"), ("cleanup", "a")] * 2


def test_a_service_works_without_an_environment() -> None:
    log: Log = []
    with LoggingService(log, "alone", answer=3) as service:
        assert service.answer() == 3
        with pytest.raises(InvalidRequest, match="LoggingService stands alone"):
            _ = service.call_service
    assert log == [("setup", "alone"), ("cleanup", "alone")]


def test_a_health_check_that_fails_shows() -> None:
    class Sick(BaseServiceTask):
        def health(self) -> dict[str, Any]:
            raise OSError("disk full")

        def work(self) -> None: ...

    services = Services("test", LocalHost)
    services.register("sick", Sick)
    services.start()
    (described,) = services.describe()
    assert described["health"] == {"healthy": False, "error": "OSError: disk full"}
    services.stop()


def test_any_class_can_be_a_service() -> None:
    class Plain:
        def double(self, number: int) -> int:
            return 2 * number

    services = Services("test", LocalHost)
    services.register("plain", Plain)
    services.start()
    assert services.call["plain"].double.map(range(3)) == [0, 2, 4]
    services.stop()

"""An environment: how long its services run, what it announces of them, and what it refuses."""

from __future__ import annotations

import sqlite3
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from sage.api.function.base_function import BaseFunction
from sage.api.local_environment import LocalEnvironment
from sage.errors import Conflict, InvalidRequest, NotFound
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, ServiceFactory
from sage.kernels.runtime.services.registry import ServiceStartFailed
from sage.kernels.runtime.streams.job import JobState
from sage.kernels.runtime.upstream import installed_beside


def environment(name: str = "test", **config: Any) -> LocalEnvironment:
    return LocalEnvironment(name, {"discovery": None, **config})


class Logging(BaseServiceTask):
    log: list[str]

    def __init__(self, log: list[str], fails: bool = False) -> None:
        self.log = log
        self.fails = fails

    def setup(self) -> None:
        self.log.append("setup")
        if self.fails:
            raise OSError("port taken")

    def cleanup(self) -> None:
        self.log.append("cleanup")

    def note(self, text: str) -> None:
        self.log.append(text)


class Calling(BaseFunction):
    def setup(self) -> None:
        self.call_service["logging"].note("function setup")

    def process(self, record: Any) -> Any:
        self.call_service["logging"].note(f"record {record}")
        return record

    def cleanup(self) -> None:
        self.call_service["logging"].note("function cleanup")


def test_services_start_before_and_stop_after_the_tasks() -> None:
    log: list[str] = []
    env = environment()
    env.register_service("logging", Logging, log)
    env.from_batch([1, 2]).map(Calling)
    env.execute()
    assert log == ["setup", "function setup", "record 1", "record 2", "function cleanup", "cleanup"]
    assert env.services() == []


def test_services_run_as_long_as_they_have_a_user() -> None:
    log: list[str] = []
    env = environment()
    env.register_service("logging", Logging, log)
    with env:
        env.call_service["logging"].note("by hand")
        assert env.submit().wait(30) is JobState.FINISHED
        assert [service["state"] for service in env.services()] == ["running"]
        env.start()
        env.stop()
        assert env.call_service_async["logging"].note("soon").result(30) is None
    assert log == ["setup", "by hand", "soon", "cleanup"]
    env.stop()
    with pytest.raises(NotFound, match="runs no service 'logging'"):
        env.call_service["logging"].note("late")


def test_stopping_an_environment_that_was_only_submitted_ends_its_job() -> None:
    env = environment()
    begun = threading.Event()

    def numbers() -> Any:
        while True:
            begun.set()
            yield 1

    env.from_source(numbers).map(str)
    job = env.submit()
    assert begun.wait(30)
    env.stop()
    assert job.state is JobState.STOPPED


def test_a_service_that_cannot_start_fails_submit_with_its_cause_and_stops_the_others() -> None:
    log: list[str] = []
    env = environment()
    env.register_service("logging", Logging, log)
    env.register_service("broken", Logging, [], fails=True)
    env.from_batch([1]).map(Calling)
    with pytest.raises(
        ServiceStartFailed, match="'broken' of the environment 'test' cannot start: port taken"
    ) as caught:
        env.submit()
    assert isinstance(caught.value.__cause__, OSError)
    assert log == ["setup", "cleanup"]
    assert env.services() == []


def test_a_circle_of_services_fails_submit() -> None:
    env = environment()
    env.register_service("a", ServiceFactory(Logging, ([],), needs=("b",)))
    env.register_service("b", ServiceFactory(Logging, ([],), needs=("a",)))
    with pytest.raises(InvalidRequest, match="in a circle: a → b → a"):
        env.submit()


def test_two_environments_never_meet() -> None:
    one, other = environment("one"), environment("other")
    own_log: list[str] = []
    other_log: list[str] = []
    one.register_service("logging", Logging, own_log)
    other.register_service("logging", Logging, other_log)
    with one, other:
        one.call_service["logging"].note("one")
        other.call_service["logging"].note("other")
    assert (own_log, other_log) == (["setup", "one", "cleanup"], ["setup", "other", "cleanup"])
    with pytest.raises(InvalidRequest, match="streams of the environment 'one'"):
        one.from_batch([1]).connect(other.from_batch([1]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"discover": None}, "did you mean 'discovery'"),
        ({"queue_size": 0}, "queue_size must be"),
        ({"grace": -1}, "grace must be"),
        ({"on_error": "explode"}, "on_error of 'the environment' must be"),
    ],
)
def test_a_wrong_setting_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        LocalEnvironment("test", config)


def test_an_environment_that_cannot_run_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="name must be"):
        LocalEnvironment(" ")
    with pytest.raises(InvalidRequest, match="platform must be"):
        LocalEnvironment("test", platform="cluster")
    with pytest.raises(InvalidRequest, match="neither streams nor services"):
        environment().execute()
    env = environment()
    stream = env.from_batch([1], name="numbers")
    with pytest.raises(InvalidRequest, match="has a stage 'numbers' already"):
        stream.map(str, name="numbers")
    with pytest.raises(InvalidRequest, match="parallelism must be"):
        stream.map(str, parallelism=0)
    env.register_service("a", Logging, [])
    with pytest.raises(Conflict, match="has a service 'a' already"):
        env.register_service("a", Logging, [])


# Discovery


def test_an_environment_announces_its_services_while_they_run(tmp_path: Path) -> None:
    board = str(tmp_path / "board.sqlite")
    one, other = LocalEnvironment("one", {"discovery": board}), LocalEnvironment("other", {"discovery": board})
    for env in (one, other):
        env.register_service("logging", Logging, [])
    with one:
        with other:
            services = {service["environment"]: service for service in one.discover()}
            assert set(services) == {"one", "other"}
            assert services["other"]["name"] == "logging"
            assert services["other"]["methods"] == ["note"]
            assert services["other"]["state"] == "running"
            assert services["one"]["node"] != services["other"]["node"]
        assert [service["environment"] for service in one.discover()] == ["one"]
    assert one.discover() == []


def test_the_board_is_in_the_data_directory_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_DATA_DIR", str(tmp_path / "data"))
    env = LocalEnvironment("test")
    env.register_service("logging", Logging, [])
    with env:
        assert [service["name"] for service in env.discover()] == ["logging"]
        assert (tmp_path / "data" / "services.sqlite").exists()


def test_without_a_board_an_environment_finds_its_own_services() -> None:
    env = environment()
    env.register_service("logging", Logging, [])
    with env:
        assert [(service["name"], service["environment"]) for service in env.discover()] == [("logging", "test")]


def test_a_board_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = tmp_path / "board.sqlite"
    board.write_bytes(b"no database at all" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(board).execute("select * from sqlite_master")
    log: list[str] = []
    env = LocalEnvironment("test", {"discovery": str(board)})
    env.register_service("logging", Logging, log)
    env.from_batch([1]).map(Calling)
    env.execute()
    assert "record 1" in log
    assert len([record for record in caplog.records if "cannot be announced" in record.message]) == 1


# Upstream beside us


def test_a_warning_about_upstream_beside_us_is_shown_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("isage-1.0.dist-info", "isage_middleware-0.2.4.dist-info", "isagelike-1.0.dist-info"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert installed_beside() == ["isage", "isage-middleware"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            environment()
    assert [str(warning.message).split(" of upstream")[0] for warning in caught] == ["isage, isage-middleware"]
    assert caught[0].category is UserWarning
    with pytest.warns(UserWarning, match="pip uninstall isage isage-middleware"):
        environment()


# The contract's example, with a batch in place of Kafka


@pytest.mark.slow
def test_the_first_documents_example_runs() -> None:
    from sage.service import (
        KVService,
        MemoryOrchestratorService,
        VDBService,
        create_kv_service_factory,
        create_memory_service_factory,
        create_vdb_service_factory,
    )

    env = environment("my_app")
    env.register_service("kv_service", KVService, create_kv_service_factory())
    env.register_service("vdb_service", VDBService, create_vdb_service_factory())
    env.register_service("memory_service", MemoryOrchestratorService, create_memory_service_factory())

    class MyProcessor(BaseFunction):
        def process(self, data: dict[str, Any]) -> Any:
            self.call_service["kv_service"].put("key1", data)
            return self.call_service["memory_service"].store_memory(
                session_id="session_1", content=data["content"], vector=data["vector"]
            )

    data = {"content": "Hello, world", "vector": [0.1] * 384}
    processed = env.from_batch([data]).map(MyProcessor())
    ids: list[str] = []
    processed.sink(ids.append)
    with env:
        env.execute()
        assert env.call_service["kv_service"].get("key1") == data
        assert env.call_service["memory_service"].get_memory(ids[0])["content"] == "Hello, world"

"""The key-value service: one behaviour on three backends, durable where it says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkey_server import Valkey, valkey

from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.kernels.runtime.local_host import LocalHost
from sage.kernels.runtime.services import Services
from sage.service.kv.kv_service import KVService, create_kv_service_factory

BACKENDS = ("memory", "sqlite", "redis")
Open = Callable[..., KVService]


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with valkey() as running:
        yield running


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_kv(tmp_path: Path, server: Valkey) -> Iterator[Open]:
    with ExitStack() as stack:

        def start(backend: str, **options: Any) -> KVService:
            if backend == "sqlite":
                options.setdefault("persist_directory", str(tmp_path))
            if backend == "redis":
                options = {"redis_url": server.url, "prefix": f"{tmp_path.name}:", **options}
            return stack.enter_context(KVService(backend, **options))

        yield start


def test_what_is_put_is_there(open_kv: Open, backend: str) -> None:
    kv = open_kv(backend)
    for key, value in {
        "a": 1,
        "b/c d": {"x": [1, 2.5, None, True]},
        "茶": "绿",
        "bytes": b"\0\xff",
        "none": None,
    }.items():
        kv.put(key, value)
        assert kv.get(key) == value
        assert type(kv.get(key)) is type(value)
        assert kv.exists(key)
    assert kv.get("absent") is None
    assert kv.get("absent", 7) == 7
    assert kv.get("none", 7) is None
    assert not kv.exists("absent")
    assert kv.size() == 5
    assert kv.delete("a")
    assert not kv.delete("a")
    assert kv.size() == 4


@pytest.mark.parametrize("prefix", ["a*", "a%", "a_", "a[b]", "a?", "a\\", "a^", "ab", "", "茶/", "a-", "\n"])
def test_a_prefix_is_taken_literally(open_kv: Open, backend: str, prefix: str) -> None:
    kv = open_kv(backend)
    keys = ["a*x", "a%x", "a_x", "a[b]x", "a?x", "a\\x", "a^x", "abx", "axx", "茶/x", "a-x", "\nx", "A*x"]
    for key in keys:
        kv.put(key, 1)
        kv.put(key, 2, tenant="other")
    expected = sorted(key for key in keys if key.startswith(prefix))
    assert kv.list_keys(prefix) == expected
    assert kv.list_keys(prefix, limit=2) == expected[:2]
    assert kv.list_keys(prefix, after=expected[0]) == expected[1:]
    assert kv.clear(prefix) == len(expected)
    assert kv.list_keys() == sorted(set(keys) - set(expected))
    assert kv.size(tenant="other") == len(keys)


def test_tenants_never_meet(open_kv: Open, backend: str) -> None:
    kv = open_kv(backend)
    for tenant, key in (("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("", "c")):
        kv.put(key, tenant, tenant=tenant)
    assert kv.get("b:c", tenant="a") == "a"
    assert kv.get("c", tenant="a:b") == "a:b"
    assert kv.get("c", tenant="a") is None
    assert kv.list_keys(tenant="a") == ["b:c"]
    assert kv.clear(tenant="a") == 1
    assert [kv.get("c", tenant=tenant) for tenant in ("a:b", "a%3Ab", "")] == ["a:b", "a%3Ab", ""]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_entries_end_to_the_moment(open_kv: Open, kind: str) -> None:
    now = [1000.0]
    kv = open_kv(kind, ttl_seconds=10, clock=lambda: now[0])
    kv.put("default", 1)
    kv.put("short", 1, ttl=0.5)
    kv.incr("count", ttl=2)
    now[0] += 0.499
    assert kv.list_keys() == ["count", "default", "short"]
    now[0] += 0.001
    assert (kv.get("short"), kv.exists("short"), kv.size()) == (None, False, 2)
    now[0] += 1
    assert kv.incr("count") == 2  # keeps its time
    now[0] += 0.5
    assert kv.incr("count") == 1
    assert not kv.delete("short")
    assert kv.compare_and_set("short", None, 5)
    now[0] += 8
    assert kv.list_keys() == ["count", "short"]
    assert kv.clear() == 2


def test_entries_end_on_redis(open_kv: Open, server: Valkey) -> None:
    kv = open_kv("redis", ttl_seconds=100)
    kv.put("default", 1)
    kv.put("short", 1, ttl=0.05)
    kv.incr("count", ttl=50)
    kv.incr("count")
    with server.client as client:
        left = {key.decode().rsplit(":", 1)[1]: client.pttl(key) for key in client.keys(f"{kv._prefix}*")}
    assert 99_000 < left["default"] <= 100_000
    assert 49_000 < left["count"] <= 50_000
    end = time.monotonic() + 10
    while kv.exists("short"):
        assert time.monotonic() < end


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_the_least_recently_used_go_first(open_kv: Open, kind: str) -> None:
    kv = open_kv(kind, max_size=3)
    for key in "abc":
        kv.put(key, 1)
    kv.put("z", 1, tenant="other")
    kv.get("a")
    kv.put("d", 1)
    assert kv.list_keys() == ["a", "c", "d"]
    kv.put("c", 2)
    kv.incr("e")
    assert kv.list_keys() == ["c", "d", "e"]
    assert kv.list_keys(tenant="other") == ["z"]


def test_counting_and_comparing(open_kv: Open, backend: str) -> None:
    kv = open_kv(backend)
    assert [kv.incr("n"), kv.incr("n", 5), kv.incr("n", -7)] == [1, 6, -1]
    assert kv.incr("n", 2**80) == 2**80 - 1
    kv.put("text", "1")
    with pytest.raises(Conflict, match="'text' is no whole number"):
        kv.incr("text")
    assert kv.get("text") == "1"
    assert not kv.compare_and_set("absent", 1, 2)
    assert kv.compare_and_set("k", None, {"b": 1, "a": 2})
    assert not kv.compare_and_set("k", None, 3)
    assert kv.compare_and_set("k", {"a": 2, "b": 1}, 1)
    assert not kv.compare_and_set("k", True, 3)
    assert kv.get("k") == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.put("", 1),
        lambda kv: kv.put("x" * 1025, 1),
        lambda kv: kv.get(5),
        lambda kv: kv.get("\ud800"),
        lambda kv: kv.put("a", 1, ttl=0),
        lambda kv: kv.put("a", 1, ttl=float("nan")),
        lambda kv: kv.put("a", 1, ttl="5"),
        lambda kv: kv.incr("a", 1.5),
        lambda kv: kv.list_keys(limit=0),
        lambda kv: kv.list_keys(None),
        lambda kv: kv.clear(5),
    ],
)
def test_bad_input_is_refused_and_nothing_written(
    open_kv: Open, backend: str, call: Callable[[KVService], Any]
) -> None:
    kv = open_kv(backend)
    with pytest.raises(InvalidRequest):
        call(kv)
    assert kv.size() == 0


@pytest.mark.parametrize("value", [object(), {1: 2}, float("nan"), {"a": [float("inf")]}, {1, 2}, "\ud800", 1j])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_json_cannot_say_is_refused(open_kv: Open, kind: str, value: Any) -> None:
    kv = open_kv(kind)
    with pytest.raises(InvalidRequest, match="the value"):
        kv.put("a", value)
    assert not kv.exists("a")


def test_in_memory_objects_go_by_reference(open_kv: Open) -> None:
    value = object()
    kv = open_kv("memory")
    kv.put("a", value)
    assert kv.get("a") is value


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backend_type": "postgres"}, "there is no backend_type 'postgres'; there are memory, sqlite, redis"),
        ({"backend_type": "redis"}, "backend_type='redis' needs 'redis_url'"),
        ({"backend_type": "sqlite"}, "needs 'persist_directory'"),
        ({"redis_url": "redis://x"}, "backend_type='memory' takes no 'redis_url'"),
        ({"max_size": 0}, "'max_size' must be"),
        ({"ttl_seconds": -1}, "'ttl_seconds' must be"),
        ({"backend_type": "redis", "redis_url": "redis://x", "max_size": 5}, "maxmemory"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        KVService(**options)


def test_a_factory_names_the_nearest_keyword() -> None:
    with pytest.raises(InvalidRequest, match="takes no 'max_sizes'; did you mean 'max_size'"):
        create_kv_service_factory(max_sizes=5)


def test_it_must_run(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not run"):
        KVService().get("a")


def test_sixteen_writers_lose_nothing(open_kv: Open, backend: str) -> None:
    kv = open_kv(backend)
    rounds = 10

    def work(number: int) -> None:
        for round in range(rounds):
            kv.incr("count")
            while not kv.compare_and_set("list", seen := kv.get("list"), [*(seen or []), [number, round]]):
                pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert kv.get("count") == 16 * rounds
    assert sorted(kv.get("list")) == [[number, round] for number in range(16) for round in range(rounds)]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "get", "incr", "cas", "clear", "keys", "later"]),
        st.sampled_from(["a", "ab", "b", "b/c"]),
        st.sampled_from([1, 2, "x", None, [1]]),
        st.sampled_from([None, 1.0, 5.0]),
        st.sampled_from(["t", "u"]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@given(operations=OPERATIONS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_does_what_a_dictionary_does(kind: str, operations: list[Any], tmp_path_factory: Any) -> None:
    now = [0.0]
    options = {"persist_directory": str(tmp_path_factory.mktemp("kv"))} if kind == "sqlite" else {}
    model: dict[tuple[str, str], tuple[Any, float]] = {}
    with KVService(kind, clock=lambda: now[0], **options) as kv:
        for what, key, value, ttl, tenant in operations:
            model = {place: entry for place, entry in model.items() if entry[1] > now[0]}
            here = {name: entry[0] for (owner, name), entry in model.items() if owner == tenant}
            end = now[0] + (ttl or 1e9)
            if what == "put":
                kv.put(key, value, ttl, tenant=tenant)
                model[tenant, key] = (value, end)
            elif what == "delete":
                assert kv.delete(key, tenant=tenant) == (key in here)
                model.pop((tenant, key), None)
            elif what == "get":
                assert kv.get(key, "none", tenant=tenant) == here.get(key, "none")
            elif what == "incr" and isinstance(here.get(key, 0), int):
                assert kv.incr(key, 3, ttl, tenant=tenant) == here.get(key, 0) + 3
                model[tenant, key] = (here.get(key, 0) + 3, model[tenant, key][1] if key in here else end)
            elif what == "cas":
                fits = key in here and here[key] == 1 and here[key] is not True
                assert kv.compare_and_set(key, 1, value, ttl, tenant=tenant) == fits
                if fits:
                    model[tenant, key] = (value, end)
            elif what == "clear":
                assert kv.clear(key, tenant=tenant) == sum(name.startswith(key) for name in here)
                model = {
                    place: entry for place, entry in model.items() if place[0] != tenant or not place[1].startswith(key)
                }
            elif what == "keys":
                assert kv.list_keys(key, tenant=tenant) == sorted(name for name in here if name.startswith(key))
            else:
                now[0] += 1.0


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom sage.service import KVService\n"
        "with KVService('sqlite', persist_directory=sys.argv[1]) as kv:\n"
        "    for number in range(10**6):\n        kv.put(str(number), number)\n        print(number, flush=True)\n"
    )
    for _ in range(20 if os.environ.get("SAGE_TEST_FULL") else 2):
        place = tmp_path / str(time.monotonic_ns())
        process = subprocess.Popen([sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        seen += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        acknowledged = [int(line) for line in seen if line.endswith("\n")]
        with KVService("sqlite", persist_directory=str(place)) as kv:
            assert [kv.get(str(number)) for number in acknowledged] == acknowledged
            assert kv.size() - len(acknowledged) in (0, 1)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "kv.sqlite").write_bytes(b"no database at all" * 1000)
    with (
        pytest.raises(Unavailable, match=r"'kv.sqlite' is damaged or no database"),
        KVService("sqlite", persist_directory=str(tmp_path)),
    ):
        pass


def test_other_keys_of_the_redis_are_never_touched(open_kv: Open, server: Valkey, tmp_path: Path) -> None:
    kv = open_kv("redis")
    with server.client as client:
        others = [f"{tmp_path.name}x", "mine", f"x{tmp_path.name}:default:a"]
        for key in others:
            client.set(key, "theirs")
        for number in range(1200):
            kv.put(f"k{number}", number)
        assert kv.size() == 1200
        assert kv.clear() == 1200
        assert [client.get(key) for key in others] == [b"theirs"] * 3
        client.delete(*others)


@pytest.mark.slow
def test_a_frozen_redis_fails_calls_within_seconds() -> None:
    with valkey() as own, KVService("redis", redis_url=own.url) as kv:
        kv.put("a", 1)
        own.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer"):
            kv.get("a")
        assert time.monotonic() - begun < 20
        own.process.send_signal(signal.SIGCONT)
        assert kv.get("a") == 1
        own.process.kill()
        own.process.wait()
        with pytest.raises(Unavailable) as caught:
            kv.put("a", 2)
        assert "127.0.0.1" not in str(caught.value)


def test_it_is_called_through_its_queue(server: Valkey) -> None:
    services = Services("test", LocalHost)
    services.register("kv_service", KVService, create_kv_service_factory(backend_type="redis", redis_url=server.url))
    services.start()
    try:
        kv = services.call["kv_service"]
        kv.put("queue", {"a": 1}, ttl=5, timeout=10)
        assert kv.get.map(["queue", "absent"]) == [{"a": 1}, None]
        assert kv.clear() == 1
        assert services.describe()[0]["health"] == {"healthy": True, "backend": "redis"}
    finally:
        services.stop()

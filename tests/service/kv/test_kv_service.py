"""The key-value service: the same behaviour on three backends, and durability where it is promised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkey_server import Valkey, valkey

from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.registry import Services
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


def test_many_values_are_put_in_one_write_or_none(open_kv: Open, backend: str) -> None:
    kv = open_kv(backend)
    kv.put("a", "old", tenant="t")
    assert kv.put_many({"a": 1, "b": [2], "c": {"d": None}}, 100.0, tenant="t") == 3
    assert [kv.get(key, tenant="t") for key in "abc"] == [1, [2], {"d": None}]
    assert kv.get("b") is None  # of another tenant
    if backend != "memory":  # which keeps any object
        with pytest.raises(InvalidRequest):
            kv.put_many({"a": 5, "x": object()}, tenant="t")
    with pytest.raises(InvalidRequest):
        kv.put_many({"a": 5, "": 6}, tenant="t")
    with pytest.raises(InvalidRequest, match="'entries' must be an object"):
        kv.put_many([("a", 5)])  # type: ignore[arg-type]
    assert kv.get("a", tenant="t") == 1
    assert kv.put_many({}) == 0


def test_values_of_one_write_expire_together(open_kv: Open, backend: str) -> None:
    kv = open_kv(backend)
    kv.put_many({"a": 1, "b": 2}, 0.05)
    kv.put_many({"b": 3})
    deadline = time.monotonic() + 10
    while kv.get("a") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert kv.get("b") == 3


def test_values_come_back_as_they_were_put(open_kv: Open, backend: str) -> None:
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


@pytest.mark.parametrize(
    "prefix", ["a*", "a%", "a_", "a[b]", "a?", "a\\", "a^", "ab", "", "茶/", "a-", "\n", "a\0", "z\ud7ff"]
)
def test_a_prefix_is_taken_literally(open_kv: Open, backend: str, prefix: str) -> None:
    kv = open_kv(backend)
    keys = [
        "a*x",
        "a%x",
        "a_x",
        "a[b]x",
        "a?x",
        "a\\x",
        "a^x",
        "abx",
        "axx",
        "茶/x",
        "a-x",
        "\nx",
        "A*x",
        "a\0x",
        "a\0",
        "z\ud7ff!",
        "z\ue000",
    ]
    keys += ["\U0010ffff", "\U0010ffffx", "a" * 1024, "\U0010ffff" * 1024]
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


def test_tenants_share_no_entries(open_kv: Open, backend: str) -> None:
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
def test_entries_expire_to_the_moment(open_kv: Open, kind: str) -> None:
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


def test_entries_expire_on_redis(open_kv: Open, server: Valkey) -> None:
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
        time.sleep(0.01)


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
    with pytest.raises(Conflict, match="'text' is not a whole number"):
        kv.incr("text")
    assert kv.get("text") == "1"
    assert not kv.compare_and_set("absent", 1, 2)
    assert kv.compare_and_set("k", None, {"b": 1, "a": 2})
    assert not kv.compare_and_set("k", None, 3)
    assert kv.compare_and_set("k", {"a": 2, "b": 1}, 1)
    assert not kv.compare_and_set("k", True, 3)
    assert kv.get("k") == 1


def test_an_entry_of_the_value_none_is_an_entry(open_kv: Open, backend: str) -> None:
    kv = open_kv(backend)
    assert [kv.compare_and_set("lock", None, None) for _ in range(2)] == [True, False]
    assert kv.exists("lock")
    assert not kv.compare_and_set("lock", None, 1)
    kv.put("lock", 1)
    assert kv.compare_and_set("lock", 1, None)
    assert kv.get("lock", "absent") is None
    kv.delete("lock")
    assert kv.compare_and_set("lock", None, 2)


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
        lambda kv: kv.put("a", 1, ttl=1e300),
        lambda kv: kv.put("a", 1, tenant=None),
        lambda kv: kv.get("a", tenant="\ud800"),
        lambda kv: kv.size(tenant=5),
        lambda kv: kv.list_keys(after=5),
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


def recursive_list() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1: 2},
        float("nan"),
        {"a": [float("inf")]},
        {1, 2},
        "\ud800",
        1j,
        10**5000,
        recursive_list(),
        bytearray(b""),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_values_that_json_cannot_express_are_refused(open_kv: Open, kind: str, value: Any) -> None:
    kv = open_kv(kind)
    with pytest.raises(InvalidRequest, match="the value"):
        kv.put("a", value)
    with pytest.raises(InvalidRequest, match="the value"):
        kv.compare_and_set("a", None, value)
    assert not kv.exists("a")


def test_a_number_that_is_too_long_spoils_no_other_write_of_its_commit(open_kv: Open) -> None:
    """Writers whose commits are shared: what is wrong with one is its own."""
    kv, started = open_kv("sqlite"), threading.Barrier(8)
    refused = []

    def work(number: int) -> None:
        started.wait()
        for round in range(10):
            if number % 2:
                kv.put(f"{number}/{round}", round)
                continue
            try:
                kv.incr("n", 10**5000)
            except InvalidRequest:
                refused.append(number)

    in_threads(work, 8)
    assert len(refused) == 40
    assert kv.list_keys() == [f"{number}/{round}" for number in (1, 3, 5, 7) for round in range(10)]


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_expired_entries_make_room_before_live_ones(open_kv: Open) -> None:
    now = [0.0]
    for kind in ("memory", "sqlite"):
        kv = open_kv(kind, max_size=3, clock=lambda: now[0])
        kv.put("old", 1)
        kv.put("short", 1, ttl=1)
        kv.put("again", 1, ttl=1)
        kv.put("again", 1, ttl=1000)
        now[0] += 1
        kv.put("new", 1)
        assert kv.list_keys() == ["again", "new", "old"]


def test_expired_entries_leave_memory(open_kv: Open) -> None:
    now = [0.0]
    kv = open_kv("memory", clock=lambda: now[0])
    for number in range(5000):
        kv.put(f"k{number % 100}", number, ttl=1, tenant=f"t{number % 7}")
    assert kv.health()["entries"] == 700
    now[0] += 1
    for _ in range(100):
        kv.put("k", 1)
    assert kv.health()["entries"] == 1


def test_in_memory_objects_go_by_reference(open_kv: Open) -> None:
    value = object()
    kv = open_kv("memory")
    kv.put("a", value)
    assert kv.get("a") is value


@pytest.mark.parametrize(
    ("options", "message"),
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
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        KVService(**options)


def test_a_factory_names_the_nearest_keyword() -> None:
    with pytest.raises(InvalidRequest, match="takes no 'max_sizes'; did you mean 'max_size'"):
        create_kv_service_factory(max_sizes=5)


def test_calls_before_the_start_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not run"):
        KVService().get("a")


@pytest.mark.slow
def test_sixteen_writers_lose_nothing(open_kv: Open, backend: str) -> None:
    kv = open_kv(backend)
    rounds = 10

    def work(number: int) -> None:
        for round in range(rounds):
            kv.incr("count")
            while not kv.compare_and_set("list", current := kv.get("list"), [*(current or []), [number, round]]):
                pass

    in_threads(work, 16)
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


@given(operations=OPERATIONS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_behaves_like_a_dictionary(
    backend: str, operations: list[Any], tmp_path_factory: pytest.TempPathFactory, server: Valkey
) -> None:
    now = [0.0]
    options: dict[str, Any] = {"backend_type": backend, "clock": lambda: now[0]}
    if backend == "sqlite":
        options["persist_directory"] = str(tmp_path_factory.mktemp("kv"))
    if backend == "redis":  # whose clock is its own: nothing ends
        options |= {"redis_url": server.url, "prefix": f"{uuid.uuid4()}:"}
        operations = [(*operation[:3], operation[3] and 1e6, operation[4]) for operation in operations]
    model: dict[tuple[str, str], tuple[Any, float]] = {}
    with KVService(**options) as kv:
        for what, key, value, ttl, tenant in operations:
            model = {place: entry for place, entry in model.items() if entry[1] > now[0]}
            here = {name: entry[0] for (owner, name), entry in model.items() if owner == tenant}
            end = now[0] + (ttl or 1e9)
            assert kv.size(tenant=tenant) == len(here)
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
def test_processes_share_a_file(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom sage.service import KVService\nsys.stdin.readline()\n"
        "with KVService('sqlite', persist_directory=sys.argv[1], max_size=60) as kv:\n"
        "    for number in range(20):\n        kv.incr('count')\n        kv.put(sys.argv[2] + str(number), number)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name], stdin=subprocess.PIPE) for name in "abcd"
    ]
    for process in processes:  # all open it at once
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 4
    with KVService("sqlite", persist_directory=str(tmp_path)) as kv:
        assert kv.get("count") == 80
        assert kv.size() == 60


@pytest.mark.slow
def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom sage.service import KVService\n"
        "with KVService('sqlite', persist_directory=sys.argv[1]) as kv:\n"
        "    for number in range(10**6):\n        kv.put(str(number), number)\n        print(number, flush=True)\n"
    )
    for _ in range(20 if os.environ.get("SAGE_TEST_FULL") else 2):
        place = tmp_path / str(time.monotonic_ns())
        process = subprocess.Popen([sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        acknowledged = [int(line) for line in lines if line.endswith("\n")]
        with KVService("sqlite", persist_directory=str(place)) as kv:
            assert [kv.get(str(number)) for number in acknowledged] == acknowledged
            assert kv.size() - len(acknowledged) in (0, 1)


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "kv.sqlite").write_bytes(b"no database at all" * 1000)
    with (
        pytest.raises(Unavailable, match=r"'kv.sqlite' is damaged or no database"),
        KVService("sqlite", persist_directory=str(tmp_path)),
    ):
        pass


def test_a_backend_that_cannot_be_opened_is_reported(tmp_path: Path, server: Valkey) -> None:
    (tmp_path / "file").write_text("in its way")
    for options, message in (
        ({"backend_type": "sqlite", "persist_directory": str(tmp_path / "file")}, "cannot be used now"),
        ({"backend_type": "redis", "redis_url": "redis://:s3cret@127.0.0.1:1/0"}, "does not answer"),
        ({"backend_type": "redis", "redis_url": server.url.replace("//", "//nobody:s3cret@")}, "does not answer"),
    ):
        with pytest.raises(Unavailable, match=message) as caught:
            KVService(**options).setup()
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
def test_a_full_redis_is_reported_as_full() -> None:
    with valkey() as own, KVService("redis", redis_url=own.url) as kv:
        with own.client as client:
            client.config_set("maxmemory", 1)
        with pytest.raises(Unavailable, match=r"refuses: .*maxmemory"):
            kv.put("a", 1)


def test_a_value_that_is_too_large_is_refused(open_kv: Open) -> None:
    kv = open_kv("sqlite")
    with pytest.raises(InvalidRequest, match="the value has 268,435,457 bytes"):
        kv.put("a", bytes(2**28 + 1))
    assert not kv.exists("a")


def test_a_value_of_another_program_is_reported(open_kv: Open, server: Valkey) -> None:
    kv = open_kv("redis")
    with server.client as client:
        for foreign in (b"", b"5", b"j{", b"jjj"):
            client.set(f"{kv._prefix}default:a", foreign)
            for call in (kv.get, kv.incr):
                with pytest.raises(Conflict, match="a value was not written by this service"):
                    call("a")
    kv.put("a", 1)
    assert kv.get("a") == 1


def test_a_value_may_use_the_service_when_it_is_deleted(open_kv: Open) -> None:
    class Closing:
        def __del__(self) -> None:
            kv.delete("its key")

    kv = open_kv("memory", max_size=3)
    for end in (lambda: kv.put("a", 1), lambda: kv.delete("a"), lambda: kv.clear("a")):
        kv.put("its key", 1)
        kv.put("a", Closing())
        end()
        assert not kv.exists("its key")


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


def test_it_works_as_a_registered_service(server: Valkey) -> None:
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

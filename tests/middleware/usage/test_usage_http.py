"""`GET /usage` and `GET /usage/requests`: who sees what, in which time zone, page by page, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from running_gateway import Running
from upstream import Upstream

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES
from sage.middleware.database.database import Database
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.usage.database import open_usage_database
from sage.middleware.usage.entries import Identities, LateCost, LedgerEntry
from sage.middleware.usage.periods import read_period
from sage.middleware.usage.reader import UsageFilter, UsageReader
from sage.middleware.usage.records import CallSeries, UsageRecord
from sage.middleware.usage.store import UsageStore

MESSAGES = [{"role": "user", "content": "one two three"}]


def made(time: str, **fields: Any) -> UsageRecord:
    """A call that ended at that time (ISO 8601, UTC)."""
    values: dict[str, Any] = {
        **{"request_id": "r", "attempts": 1, "status": 200},
        **{"prompt_tokens": 10, "cached_tokens": 0, "completion_tokens": 1},
        **{"reasoning_tokens": 0, "estimated": False, "cost": 1000, "ms": 5.0, "first_token_ms": None},
    }
    common = {name: fields.pop(name) for name in CallSeries._fields if name in fields}
    series = CallSeries("t", "u", "", "m", "p", "p/m", "m", "chat/completions", stream=False)._replace(**common)
    at = datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp()
    return UsageRecord(time=at, series=series, **{**values, **fields})


def stored(database: Database, *records: UsageRecord) -> UsageReader:
    identities = Identities()
    UsageStore(database).write([LedgerEntry(identities.next(record.time), record) for record in records])
    return UsageReader(lambda: database)


@pytest.fixture
def database(tmp_path: Path, database_url: DatabaseUrl | None) -> Any:
    opened = open_usage_database(tmp_path, url=database_url)
    yield opened
    opened.close()


def days(reader: UsageReader, begin: str, end: str, zone: str) -> dict[str, int]:
    rows = reader.sums("day", read_period(begin, end, zone), UsageFilter())
    return {row["day"]: row["requests"] for row in rows}


@pytest.mark.both_databases
def test_days_are_those_of_the_time_zone_half_hours_and_changes_of_the_clock_included(database: Database) -> None:
    reader = stored(
        database,
        made("2026-03-28T18:29:59"),  # 23:59:59 in India
        made("2026-03-28T18:30:00"),  # midnight in India
        made("2026-03-28T22:59:00"),  # 23:59 in Berlin
        made("2026-03-28T23:00:00"),  # midnight in Berlin; the clock goes on at 01:00 UTC
        made("2026-03-29T21:59:00"),  # 23:59 in Berlin, of a day of 23 hours
        made("2026-03-29T22:00:00"),
    )
    assert days(reader, "2026-03-28", "2026-03-29", "Asia/Kolkata") == {"2026-03-28": 1, "2026-03-29": 3}
    assert days(reader, "2026-03-28", "2026-03-29", "+05:30") == {"2026-03-28": 1, "2026-03-29": 3}
    assert days(reader, "2026-03-28", "2026-03-30", "Europe/Berlin") == {
        "2026-03-28": 3,
        "2026-03-29": 2,
        "2026-03-30": 1,
    }
    assert days(reader, "2026-03-29", "2026-03-29", "UTC") == {"2026-03-29": 2}
    assert days(reader, "2026-03-28T18:30:00Z", "2026-03-28T23:00:00Z", "UTC") == {"2026-03-28": 2}


@pytest.mark.both_databases
def test_sums_add_up_by_everything_and_a_price_that_nobody_knows_is_no_zero(database: Database) -> None:
    at = "2026-11-30T10:00:00"
    reader = stored(
        database,
        made(at, user="a", tags=("x", "y"), cached_tokens=4, reasoning_tokens=1),
        made(at, user="a", tags=("x",), cost=None, status=502, estimated=True),
        made(at, user="b", key="k1", model="n", provider="q", cost=7),
        made(at, user="c", cost=None),
    )
    period = read_period("2026-11-30", "2026-11-30", None)

    def by(group: str, **wanted: Any) -> dict[str, tuple[Any, ...]]:
        rows = reader.sums(group, period, UsageFilter(**wanted))
        return {row[group]: (row["requests"], row["prompt_tokens"], row["cost"], row["priced"]) for row in rows}

    assert by("user") == {"a": (2, 20, 1e-06, False), "b": (1, 10, 7e-09, True), "c": (1, 10, None, False)}
    assert by("model") == {"m": (3, 30, 1e-06, False), "n": (1, 10, 7e-09, True)}
    assert by("key") == {"": (3, 30, 1e-06, False), "k1": (1, 10, 7e-09, True)}
    assert by("tag") == {"x": (2, 20, 1e-06, False), "y": (1, 10, 1e-06, True)}
    assert by("user", tag="y") == {"a": (1, 10, 1e-06, True)}
    assert by("provider", user="b") == {"q": (1, 10, 7e-09, True)}
    (row,) = reader.sums("tenant", period, UsageFilter())
    assert (row["failed"], row["estimated"], row["unpriced"], row["cached_tokens"], row["reasoning_tokens"]) == (
        1,
        1,
        2,
        4,
        1,
    )


@pytest.mark.both_databases
def test_a_cost_that_comes_later_is_added_once_also_when_the_batch_is_written_twice(database: Database) -> None:
    store, identities = UsageStore(database), Identities()
    entry = LedgerEntry(identities.next(1000.0), made("2026-11-30T10:00:00", cost=None, tags=("x",)))
    store.write([entry])
    late = [LateCost(entry, 500)]
    store._number, store._current = 2, [id(late[0])]
    store._write(late)  # whose commit was not heard of
    store.write(late)
    reader = UsageReader(lambda: database)
    period = read_period("2026-11-30", "2026-11-30", None)
    for group in ("user", "tag"):
        (row,) = reader.sums(group, period, UsageFilter())
        assert (row["requests"], row["cost"], row["priced"]) == (1, 5e-07, True)


@pytest.mark.both_databases
def test_pages_go_from_the_newest_call_to_the_oldest_whatever_is_filtered(database: Database) -> None:
    records = [
        made(
            f"2026-11-30T10:00:{n:02d}",
            request_id=f"r{n}",
            user=f"u{n % 2}",
            status=429 if n % 5 == 0 else 200,
            tags=("odd",) if n % 2 else (),
        )
        for n in range(23)
    ]
    reader = stored(database, *records)
    period = read_period("2026-11-30", "2026-11-30", None)

    def all_pages(**wanted: Any) -> list[str]:
        found, cursor, first = [], None, True
        while first or cursor:
            page, cursor = reader.page(period, UsageFilter(**wanted), int(cursor) if cursor else None, 4)
            found += [row["id"] for row in page]
            first = False
        return found

    newest = [f"r{n}" for n in reversed(range(23))]
    assert all_pages() == newest
    assert all_pages(user="u1") == newest[1::2]
    assert all_pages(tag="odd") == newest[1::2]
    assert all_pages(statuses=(400, 599)) == ["r20", "r15", "r10", "r5", "r0"]
    assert all_pages(user="nobody") == []


@pytest.mark.both_databases
def test_pages_of_who_has_many_keys_are_in_order_too(database: Database) -> None:
    records = [
        made(f"2026-11-30T10:00:{n:02d}", request_id=f"r{n}", user="ab"[n % 2], key=f"k{n}", tags=("x",))
        for n in range(60)
    ]
    reader = stored(database, *records)
    period = read_period("2026-11-30", "2026-11-30", None)
    for wanted, expected in (
        ({"tag": "x"}, [f"r{n}" for n in (59, 58, 57)]),
        ({"user": "a"}, ["r58", "r56", "r54"]),
        ({"key": "k7"}, ["r7"]),
    ):
        rows, cursor = reader.page(period, UsageFilter(**wanted), None, 3)
        assert [row["id"] for row in rows] == expected
        assert (cursor is None) == (len(expected) < 3)
    assert reader.erase("a") == 30
    assert reader.page(period, UsageFilter(user="a"), None, 3) == ([], None)
    stored(database, made("2026-11-30T11:00:00", request_id="again", user="a", key="k0", tags=("x",)))
    ((again,), _) = reader.page(period, UsageFilter(user="a", tag="x"), None, 3)
    assert (again["id"], again["key"]) == ("again", "k0")


@pytest.mark.both_databases
def test_a_user_who_is_erased_leaves_no_call_and_no_name_but_the_sums(database: Database) -> None:
    at = "2026-11-30T10:00:00"
    reader = stored(
        database,
        made(at, user="a", key="k1", tags=("x",)),
        made(at, user="a", key="k2", tags=("x",)),
        made(at, user="a", tenant="other"),
        made(at, user="b"),
    )
    period = read_period("2026-11-30", "2026-11-30", None)
    assert reader.erase("a", "t") == 2
    assert {row["user"] for row in reader.page(period, UsageFilter(tenant="t"), None, 10)[0]} == {"b"}
    rows = reader.sums("user", period, UsageFilter(tenant="t"))
    assert {row["user"]: row["requests"] for row in rows} == {"": 2, "b": 1}
    assert [row["key"] for row in reader.sums("key", period, UsageFilter(tenant="t"))] == [""]
    assert [row["requests"] for row in reader.sums("tag", period, UsageFilter())] == [2]
    assert len(reader.page(period, UsageFilter(tenant="other"), None, 10)[0]) == 1


# Over HTTP


def add_user(running: Running, name: str, role: str, tenant: str) -> str:
    """Makes a user; returns a key."""
    accounts = running.accounts
    assert accounts is not None
    accounts.users.add(name, "correct horse battery staple", role, tenant)
    return accounts.keys.create_for(name, KeyRequest("k", scopes=[*ROLES[role]])).secret


def used(running: Running, key: str, path: str = "/usage?by=user") -> Any:
    answer = running.get(path, key=key)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_everyone_sees_their_own_usage_owners_their_tenants_and_admins_all(running: Running, up: Upstream) -> None:
    keys = {
        "ann": add_user(running, "ann", "user", "red"),
        "bob": add_user(running, "bob", "user", "red"),
        "eve": add_user(running, "eve", "user", "blue"),
        "red-owner": add_user(running, "red-owner", "owner", "red"),
    }
    for name, times in (("ann", 2), ("bob", 1), ("eve", 3)):
        for _ in range(times):
            assert running.post("/v1/chat/completions", {"model": "bench", "messages": MESSAGES}, key=keys[name]).ok

    def users(key: str, query: str = "") -> dict[str, int]:
        return {row["user"]: row["requests"] for row in used(running, key, f"/usage?by=user{query}")["rows"]}

    assert users(keys["ann"]) == {"ann": 2}
    assert users(keys["red-owner"]) == {"ann": 2, "bob": 1}
    assert users(running.key).items() >= {"ann": 2, "bob": 1, "eve": 3}.items()
    assert users(running.key, "&tenant=blue") == {"eve": 3}
    assert {each["user"] for each in used(running, keys["bob"], "/usage/requests")["requests"]} == {"bob"}
    for key, query in ((keys["ann"], "user=bob"), (keys["ann"], "tenant=blue"), (keys["red-owner"], "tenant=blue")):
        assert running.get(f"/usage?{query}", key=key).status_code == 403
        assert running.get(f"/usage/requests?{query}", key=key).status_code == 403
    assert running.request("DELETE", "/usage?user=bob", key=keys["ann"]).status_code == 403
    assert running.request("DELETE", "/usage?user=eve", key=keys["red-owner"]).json() == {"requests": 0}
    assert running.request("DELETE", "/usage?user=bob", key=keys["red-owner"]).json() == {"requests": 1}
    assert used(running, keys["bob"], "/usage/requests")["requests"] == []


def test_csv_comes_by_accept_or_by_format_and_runs_no_formula(running: Running, up: Upstream) -> None:
    running.post("/v1/chat/completions", {"model": 'up0/=HYPERLINK("http://x")', "messages": MESSAGES})
    by_format = running.get("/usage?by=model&format=csv")
    by_accept = running.get("/usage?by=model", headers={"accept": "text/csv"})
    assert by_format.headers["content-type"] == by_accept.headers["content-type"] == "text/csv; charset=utf-8"
    assert by_format.text == by_accept.text
    rows = list(csv.DictReader(io.StringIO(by_format.text)))
    assert {"model", "requests", "prompt_tokens", "cost", "priced"} <= rows[0].keys()
    calls = list(csv.DictReader(io.StringIO(running.get("/usage/requests?format=csv&limit=1").text)))
    assert calls[0]["upstream_model"] == '\'=HYPERLINK("http://x")'
    assert (
        "application/json"
        in running.get("/usage", headers={"accept": "text/csv, application/json"}).headers["content-type"]
    )


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("from=yesterday", "from"),
        ("to=2026-02-30", "to"),
        ("from=2026-11-30&to=2026-11-01", "from"),
        ("tz=Mars/Olympus", "tz"),
        ("tz=../../etc/passwd", "tz"),
        ("tz=%2B25:00", "tz"),
        ("by=tag&key=k", "key"),
        ("by=model&tag=x", "by"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_by_name(running: Running, query: str, param: str) -> None:
    answer = running.get(f"/usage?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_cursor_or_a_status_that_is_none_is_refused(running: Running) -> None:
    for query, param in (("cursor=1;drop", "cursor"), ("status=teapot", "status")):
        answer = running.get(f"/usage/requests?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_one_request_is_found_by_its_id_by_who_may_see_it(running: Running, up: Upstream) -> None:
    chat = {"model": "bench", "messages": MESSAGES}
    first, _ = (running.post("/v1/chat/completions", chat).headers["x-request-id"] for _ in range(2))
    stranger = add_user(running, "stranger", "user", "elsewhere")
    path = f"/usage/requests?id={first}"
    assert [call["id"] for call in used(running, running.key, path)["requests"]] == [first]
    assert used(running, stranger, path)["requests"] == []
    assert used(running, running.key, f"{path}x")["requests"] == []

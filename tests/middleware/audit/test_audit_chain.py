"""The chain of events: every tampering is found, one order among writers, and nothing secret in it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from sage.errors import ConfigError
from sage.middleware.audit.anchors import anchor_line, read_anchors, write_anchor
from sage.middleware.audit.event import GENESIS, OPERATOR, AuditEvent, hash_of
from sage.middleware.audit.log import AuditFilter, AuditLog
from sage.middleware.audit.login_failures import EACH, LoginFailures
from sage.middleware.audit.verification import verify
from sage.middleware.settings.database import DatabaseUrl

pytestmark = pytest.mark.both_databases


def event(number: int, **fields: Any) -> AuditEvent:
    return AuditEvent("key.create", f"key:{number}", OPERATOR, **fields)


@pytest.fixture
def log(tmp_path: Path, database_url: DatabaseUrl | None) -> Iterator[AuditLog]:
    with closing(AuditLog(tmp_path, database_url, lambda: 1_800_000_000.5)) as log:
        yield log


def tamper(log: AuditLog, *statements: str) -> None:
    """As the owner of the database, who takes the rule against changes away first."""
    with log.open().writing() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER IF EXISTS audit_events_no_update"))
            connection.execute(text("DROP TRIGGER IF EXISTS audit_events_no_delete"))
        else:
            connection.execute(text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
        for statement in statements:
            connection.execute(text(statement))


def test_an_event_is_read_as_it_was_written(log: AuditLog) -> None:
    details = {"b": [1, None], "a": "ü\x00\ud800"}
    log.append(AuditEvent("user.change", "user:ann", "user:root", "key:1", "acme", details, "::1"))
    page, following = log.page(AuditFilter(), None, 10)
    texts = {"actor": "user:root", "credential": "key:1", "tenant": "acme", "action": "user.change"}
    texts |= {"target": "user:ann", "address": "::1", "details": '{"a":"\\u00fc\\u0000\\ud800","b":[1,null]}'}
    digest = hash_of(1, 1_800_000_000_500, texts, GENESIS)
    assert page == [{"seq": 1, "time": 1_800_000_000.5, **texts, "details": details, "hash": digest}]
    assert following is None
    assert log.head() == (1, digest)


def test_the_hash_is_made_as_the_documentation_says() -> None:
    texts = dict(
        zip(("actor", "credential", "tenant", "action", "target", "address", "details"), "abcdefg", strict=True)
    )

    content = '[7,8,"a","b","c","d","e","f","g","' + GENESIS + '"]'
    assert hash_of(7, 8, texts, GENESIS) == hashlib.sha256(content.encode()).hexdigest()


def test_what_stands_under_the_name_of_a_secret_is_not_kept(log: AuditLog) -> None:
    log.append(event(1, details={"api_key": "sk-1", "deep": [{"Password": "p"}], "x": "y", "token": None}))
    page, _ = log.page(AuditFilter(), None, 1)
    assert page[0]["details"] == {"api_key": "***", "deep": [{"Password": "***"}], "x": "y", "token": None}
    log.append(event(2, details={"long": "x" * 10_000}))
    page, _ = log.page(AuditFilter(), None, 1)
    assert page[0]["details"]["fields"] == ["long"]


def test_pages_and_filters(log: AuditLog) -> None:
    log.append(*(event(n, tenant="even" if n % 2 == 0 else "odd") for n in range(1, 8)))
    first, following = log.page(AuditFilter(tenant="odd"), None, 3)
    assert [each["seq"] for each in first] == [7, 5, 3]
    assert following == 3
    last, following = log.page(AuditFilter(tenant="odd"), following, 3)
    assert ([each["seq"] for each in last], following) == ([1], None)
    log.append(AuditEvent("keyed.x", "t:1", "user:ann"), AuditEvent("key", "t:2", "user:ann"))
    assert len(log.page(AuditFilter(action="key"), None, 100)[0]) == 8
    assert len(log.page(AuditFilter(action="key.create"), None, 100)[0]) == 7
    for actor in ("ann", "user:ann"):
        assert len(log.page(AuditFilter(actor=actor), None, 100)[0]) == 2
    assert len(log.page(AuditFilter(actor="operator", target="key:3"), None, 100)[0]) == 1
    assert log.page(AuditFilter(end=1_800_000_000.5), None, 100)[0] == []
    assert len(log.page(AuditFilter(begin=1_800_000_000.5), None, 100)[0]) == 9


def test_the_database_refuses_to_change_or_delete_an_event(log: AuditLog) -> None:
    log.append(event(1))
    for statement in ("UPDATE audit_events SET actor = 'x'", "DELETE FROM audit_events"):
        with pytest.raises(DatabaseError, match="append-only"), log.open().writing() as connection:
            connection.execute(text(statement))
    assert verify(log.open()).fault is None


@pytest.mark.parametrize(
    ("statement", "fault", "standing"),
    [
        ("UPDATE audit_events SET actor = 'user:eve' WHERE seq = 3", "event 3 was changed", 2),
        ("UPDATE audit_events SET at = at + 1 WHERE seq = 1", "event 1 was changed", 0),
        ("UPDATE audit_events SET details = '[]' WHERE seq = 5", "event 5 was changed", 4),
        ("DELETE FROM audit_events WHERE seq = 2", "event 2 is missing: the next one is 3", 1),
        ("DELETE FROM audit_events WHERE seq >= 4", "events 4 to 5 are missing", 3),
        ("DELETE FROM audit_events", "events 1 to 5 are missing", 0),
        ("DELETE FROM audit_head", "the head of the chain is missing", 5),
        ("UPDATE audit_head SET seq = 4", "event 5 was not written by the gateway", 5),
        (
            "INSERT INTO audit_events SELECT 0, at, actor, credential, tenant, action, target, details, address, hash "
            "FROM audit_events WHERE seq = 1",
            "event 1 is missing: the next one is 0",
            0,
        ),
    ],
)
def test_tampering_is_found(log: AuditLog, statement: str, fault: str, standing: int) -> None:
    log.append(*(event(n) for n in range(1, 6)))
    assert verify(log.open()).events == 5
    tamper(log, statement)
    verdict = verify(log.open())
    assert verdict.fault is not None
    assert verdict.fault.startswith(fault)
    assert verdict.events == standing


def test_an_anchor_finds_a_chain_that_was_written_anew(log: AuditLog, tmp_path: Path) -> None:
    log.append(event(1), event(2))
    file = tmp_path / "anchors"
    write_anchor(file, "sage: audit: " + anchor_line(*log.head(), 1_800_000_000.0))
    anchors = read_anchors(file)
    assert anchors == dict([log.head()])
    log.append(event(3))
    assert verify(log.open(), anchors).anchors == 1
    tamper(log, "DELETE FROM audit_events", f"UPDATE audit_head SET seq = 0, hash = '{GENESIS}'")
    assert verify(log.open()).fault is None  # by itself it cannot tell
    assert verify(log.open(), anchors).fault == (
        "event 2, whose hash was kept as an anchor, is missing: the end of the chain was cut off"
    )
    log.append(event(7), event(8), event(9))
    assert verify(log.open()).fault is None
    assert verify(log.open(), anchors).fault == "event 2 is not the one whose hash was kept as an anchor"


def test_a_file_without_anchors_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text('{"audit_seq": 1}\n{"audit_seq": true, "audit_sha256": 1}\nx\n')
    with pytest.raises(ConfigError, match="there is no anchor in it"):
        read_anchors(file)
    file.write_text(f"{anchor_line(1, '0' * 64, 0)}\n{anchor_line(1, '1' * 64, 0)}\n")
    with pytest.raises(ConfigError, match="two different hashes of event 1"):
        read_anchors(file)


@pytest.mark.slow
def test_writers_of_several_logs_have_one_order(tmp_path: Path, database_url: DatabaseUrl | None) -> None:
    AuditLog(tmp_path, database_url).open().close()

    def write(name: str) -> None:
        with closing(AuditLog(tmp_path, database_url)) as log:
            for n in range(25):
                log.append(AuditEvent("key.create", f"key:{n}", name))

    threads = [threading.Thread(target=write, args=[f"user:{n}"]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with closing(AuditLog(tmp_path, database_url)) as log:
        verdict = verify(log.open())
        assert (verdict.fault, verdict.events) == (None, 150)
        for n in range(6):
            own, _ = log.page(AuditFilter(actor=f"user:{n}"), None, 100)
            assert [each["target"] for each in reversed(own)] == [f"key:{n}" for n in range(25)]


class Moment:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_failed_logins_are_counted_beyond_a_few_a_minute(log: AuditLog) -> None:
    clock = Moment()
    failures = LoginFailures(log, lambda account: (account.title(), "acme" if account == "ann" else ""), clock)

    def shown(read: Callable[[dict[str, Any]], Any]) -> list[Any]:
        return [read(each) for each in reversed(log.page(AuditFilter(action="login.failed"), None, 1000)[0])]

    for _ in range(1000):
        failures.add("ann", "10.0.0.1")
    failures.add("bob", "10.0.0.1")
    failures.flush()
    rows = shown(lambda each: (each["target"], each["tenant"], each["address"], each["details"]))
    assert rows == [("user:Ann", "acme", "10.0.0.1", {})] * EACH + [("user:Bob", None, "10.0.0.1", {})]
    assert not failures.is_due
    clock.now += 61
    assert failures.is_due
    failures.flush()
    assert shown(lambda each: each["details"])[EACH + 1 :] == [{"more": 1000 - EACH}]
    for n in range(5000):
        failures.add(f"user-{n}", "10.0.0.2")
    failures.flush(everything=True)
    rows = shown(lambda each: each["details"].get("more", 1))[EACH + 2 :]
    assert sum(rows) == 5000
    assert len(rows) == 100 + 20 + 1
    clock.now += 600
    failures.add("ann", "10.0.0.1")
    failures.flush()
    assert shown(lambda each: json.dumps(each["details"]))[-1] == "{}"

"""A ledger whose database is away: calls wait in memory, what does not fit is counted, and nothing counts twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sage.errors import Unavailable
from sage.middleware.settings.usage import PriceSettings, UsageRetention, UsageSettings
from sage.middleware.usage.entries import LateCost, LedgerEntry
from sage.middleware.usage.ledger import Ledger
from sage.middleware.usage.price_list import PriceList
from sage.middleware.usage.records import UsageRecord


class FlakyStore:
    """Fails while ``away``; remembers what it was given otherwise."""

    def __init__(self) -> None:
        self.away = False
        self.batches: list[Sequence[LedgerEntry | LateCost]] = []

    def write(self, batch: Sequence[LedgerEntry | LateCost]) -> None:
        if self.away:
            raise Unavailable("the usage database cannot be used now: as told")
        self.batches.append(batch)

    def trim(self, retention: UsageRetention) -> None:
        pass

    @property
    def ids(self) -> list[str]:
        return [each.record.request_id for batch in self.batches for each in batch if isinstance(each, LedgerEntry)]


def call(number: int, model: str = "m", kind: str = "openai") -> Any:
    provider = SimpleNamespace(name="up", kind=kind, endpoints=(SimpleNamespace(base_url="http://up.example/v1"),))
    deployment = SimpleNamespace(name=f"up/{model}", model=model, price=None, provider=provider)
    caller = SimpleNamespace(tenant="t", user="u", subjects=("key:k1", "user:u"), tags=("x",))
    usage = SimpleNamespace(prompt_tokens=10, completion_tokens=1, details=lambda: (0, 0, None))
    now = time.perf_counter()
    return (
        now,
        now,
        None,
        caller,
        b"%d" % number,
        model,
        "chat/completions",
        False,
        deployment,
        1,
        200,
        usage,
        None,
        None,
        None,
        None,
    )


def wait_for(look: Any, within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not look():
        assert time.monotonic() < end
        time.sleep(0.01)


PRICED = {"m": PriceSettings(input=1)}  # type: ignore[arg-type]


def test_calls_wait_in_memory_while_the_database_is_away(caplog: pytest.LogCaptureFixture) -> None:
    store, settled = FlakyStore(), list[UsageRecord]()
    store.away = True
    ledger = Ledger(lambda: store, PriceList(PRICED), UsageSettings(max_waiting=5), settled.extend)
    ledger.start()
    try:
        for number in range(8):
            ledger.add(call(number))
        wait_for(lambda: ledger.dropped == 3 and ledger.error is not None)
        assert ledger.fault is not None
        assert "5 calls wait in memory, and 3 are lost" in ledger.fault
        assert [record.request_id for record in settled] == [str(number) for number in range(8)]
        store.away = False
        wait_for(lambda: ledger.error is None and ledger.written == 5)
        assert store.ids == ["3", "4", "5", "6", "7"]
        assert ledger.fault is None
    finally:
        ledger.stop()
    assert caplog.text.count("usage is kept in memory") == 1


def test_stopping_writes_what_has_just_ended() -> None:
    store = FlakyStore()
    ledger = Ledger(lambda: store, PriceList(PRICED))
    ledger.start()
    for number in range(100):
        ledger.add(call(number))
    ledger.stop()
    assert store.ids == [str(number) for number in range(100)]


def test_a_call_whose_price_is_being_looked_up_is_stored_at_once_and_gets_its_cost_later() -> None:
    store, settled = FlakyStore(), list[UsageRecord]()
    described = [{"parts": [{"unit": "input_tokens", "per": 10**6, "usd": "3", "within": []}]}]

    def describe(questions: Sequence[Any]) -> list[Any]:
        wait_for(lambda: store.ids == ["1"])
        return [described for _ in questions]

    ledger = Ledger(lambda: store, PriceList(describe=describe), on_settled=settled.extend)
    ledger.start()
    try:
        ledger.add(call(1))
        wait_for(lambda: len(store.batches) == 2)
    finally:
        ledger.stop()
    (entry,), (late,) = store.batches
    assert isinstance(entry, LedgerEntry)
    assert isinstance(late, LateCost)
    assert entry.record.cost is None
    assert (late.entry.id, late.cost) == (entry.id, 30_000)
    assert [record.cost for record in settled] == [30_000]  # once, with its cost


def test_a_record_says_who_asked_and_with_which_key() -> None:
    store = FlakyStore()
    ledger = Ledger(lambda: store, PriceList(PRICED))
    ledger.start()
    ledger.add(call(1))
    ledger.stop()
    (each,) = store.batches[0]
    assert isinstance(each, LedgerEntry)
    record = each.record
    series = record.series
    assert (series.tenant, series.user, series.key, series.tags) == ("t", "u", "k1", ("x",))
    assert (series.provider, series.deployment, series.upstream_model) == ("up", "up/m", "m")
    assert abs(record.time - time.time()) < 60

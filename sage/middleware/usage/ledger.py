"""The ledger: calls are appended to a list, and two threads do the rest.

The *settling* thread looks several times a second: it gives each call its tokens and its cost, and hands the batch to
whoever settles budgets. It never waits for a database. The *storing* thread writes what was settled, in one transaction
a batch, and trims what is too old. So a call that ended is stored half a second later, or as soon as the database
can be written again; what does not fit in memory until then is dropped, the oldest first, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from sage.errors import SageError
from sage.middleware.settings.usage import UsageRetention, UsageSettings
from sage.middleware.usage.captures import Captures
from sage.middleware.usage.entries import Identities, LateCost, LedgerEntry
from sage.middleware.usage.price_list import PriceList
from sage.middleware.usage.prices import Price
from sage.middleware.usage.reader import UsageReader
from sage.middleware.usage.records import PricedDeployment, UsageRecord
from sage.middleware.usage.settled_calls import CallRecorder, SettledCall

_LOOKS_EVERY = 0.25
_MOST_AT_ONCE = 2000
"""Calls in one transaction: some milliseconds of other work at most wait for the interpreter's lock between them."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_CLOSE_WITHIN = 5.0
_PRICES_WITHIN = 2.0
"""Seconds that the end waits for prices of the last calls, which are stored without a cost else."""
_PRICED_WITHIN = 60.0
"""Seconds that a call waits for its price; then it has none."""
_log = logging.getLogger("sage")


class Store(Protocol):
    """The database, as the storing thread uses it (:class:`sage.middleware.usage.store.UsageStore`)."""

    def write(self, batch: Sequence[LedgerEntry | LateCost]) -> None: ...

    def trim(self, retention: UsageRetention) -> None: ...


Waiting = SettledCall | tuple[UsageRecord, PricedDeployment | None]
"""A call of this process, or one that another process has recorded and whose cost is not known there."""


class Ledger:
    """``add`` may be called on the event loop: it appends to a list, and does nothing else.

    ``on_settled`` is called on the settling thread with each batch, once a call, before it is stored.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        prices: PriceList,
        settings: UsageSettings | None = None,
        on_settled: Callable[[Sequence[UsageRecord]], None] | None = None,
    ) -> None:
        """``open_store`` is called on the storing thread, again after each failure."""
        self.prices = prices
        self.on_settled = on_settled
        self._settings = settings or UsageSettings()
        self._open_store = open_store
        self._settled_calls: list[Waiting] = []
        self.add: Callable[[Waiting], None] = self._settled_calls.append
        self.reader: UsageReader | None = None
        """Reads what is stored; ``None`` in a ledger that only writes."""
        self.captures: Captures | None = None
        """Keeps prompts and answers of teams that want it."""
        self.on_stopped: Callable[[], None] = _nothing
        self.written = 0
        self.dropped = 0
        """Calls that did not fit in memory while the database could not be written."""
        self.error: str | None = None
        """Why the database cannot be written now."""
        self._identities = Identities()
        self._recorder = CallRecorder(prices.find)
        self._unwritten: deque[LedgerEntry | LateCost] = deque()
        self._unpriced: deque[tuple[float, LedgerEntry, PricedDeployment]] = deque()
        self._settling = threading.Lock()
        self._look = threading.Event()
        self._work = threading.Condition()
        self._busy = False
        self._stopping = False
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._pricing: threading.Thread | None = None

    # Life

    def start(self) -> None:
        """Starts the threads, unless they run."""
        if self._threads:
            return
        self._stopping = False
        self._ending.clear()
        self._threads = [
            threading.Thread(target=self._settle_on, name="usage-settling", daemon=True),
            threading.Thread(target=self._store_on, name="usage-storing", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stores what is settled, and ends the threads; blocks for some seconds at most."""
        if not self._threads:
            return
        with self._settling:  # who makes the thread starts it under this lock
            pricing = self._pricing
        if pricing is not None:
            pricing.join(_PRICES_WITHIN)
        settling, storing = self._threads
        self._stopping = True
        self._look.set()
        settling.join(_CLOSE_WITHIN)
        self._ending.set()
        with self._work:
            self._work.notify_all()
        storing.join(_CLOSE_WITHIN)
        self._threads = []
        if self.captures is not None:
            self.captures.finish()
        self.on_stopped()
        if self.waiting:
            _log.error("the gateway ends, and %d calls are not in the usage ledger: %s", self.waiting, self.error)

    # For readers

    @property
    def waiting(self) -> int:
        """Calls that are not stored yet."""
        return len(self._settled_calls) + len(self._unwritten)

    @property
    def fault(self) -> str | None:
        """Why calls are not stored now; ``None`` means that they are. Models can be asked all the same."""
        if self.error is None:
            return None
        lost = f", and {self.dropped} are lost" if self.dropped else ""
        return f"{self.error}; {self.waiting} calls wait in memory{lost}"

    async def settled(self) -> None:
        """Returns once every call that was added before has gone through ``on_settled``, but for those whose price is
        being looked up."""
        if self._settled_calls:
            await asyncio.to_thread(self._settle)

    async def stored(self, within: float = 2.0) -> None:
        """Returns once every call that was added before is stored, or after some seconds."""
        await asyncio.to_thread(self.store_now, within)

    def store_now(self, within: float = 2.0) -> None:
        """As :meth:`stored`; blocks."""
        self._settle()
        end = time.monotonic() + within
        with self._work:
            while (self._unwritten or self._busy) and self.error is None:
                if not self._threads or not self._work.wait(max(0.0, end - time.monotonic())):
                    return

    # Settling

    def _settle_on(self) -> None:
        while not self._stopping:
            self._look.wait(_LOOKS_EVERY)
            self._look.clear()
            self._settle()
        self._settle()

    def _settle(self) -> None:
        with self._settling:
            added = self._settled_calls
            count = len(added)
            late = self._late_costs() if self._unpriced else []
            if not count and not late:
                return
            calls = added[:count]
            del added[:count]
            entries, finished = self._entries(calls)
            finished += [each.entry.record for each in late]
            self._tell(finished)
            self._hand_over([*entries, *(each for each in late if each.cost is not None)])

    def _entries(self, calls: Sequence[Waiting]) -> tuple[list[LedgerEntry | LateCost], list[UsageRecord]]:
        """What is to be written for ``calls``, and the records of those whose cost is final."""
        offset = time.time() - time.perf_counter()
        entries: list[LedgerEntry | LateCost] = []
        finished: list[UsageRecord] = []
        record_call, next_id = self._recorder.record, self._identities.next
        for call in calls:
            try:
                if len(call) == 2:
                    record, pending = self._priced(*call)
                else:
                    record, pending = record_call(call, offset)
            except Exception:  # one call must not hold up all others
                _log.exception("a call cannot be settled")
                continue
            entry = LedgerEntry(next_id(record.time), record)
            entries.append(entry)
            if pending is None:
                finished.append(record)
            else:
                self._unpriced.append((time.monotonic(), entry, pending))
        if self._unpriced:
            self._look_up_prices()
        return entries, finished

    def _priced(
        self, record: UsageRecord, deployment: PricedDeployment | None
    ) -> tuple[UsageRecord, PricedDeployment | None]:
        """As :meth:`CallRecorder.record`, for what another process has recorded."""
        if deployment is None:
            return record, None
        resolved, price = self.prices.find(deployment)
        if price is None:
            return record, None if resolved else deployment
        return record._replace(cost=_cost(price, record)), None

    def _tell(self, records: list[UsageRecord]) -> None:
        if self.on_settled is not None and records:
            try:
                self.on_settled(records)
            except Exception:
                _log.exception("budgets cannot be settled")

    def _hand_over(self, entries: Sequence[LedgerEntry | LateCost]) -> None:
        with self._work:
            self._unwritten.extend(entries)
            excess = len(self._unwritten) - self._settings.max_waiting
            if excess > 0:
                for _ in range(excess):
                    self._unwritten.popleft()
                if not self.dropped:
                    _log.error("the usage ledger cannot be written and its memory is full: the oldest calls are lost")
                self.dropped += excess
            self._work.notify_all()

    # Prices that are looked up when a model is first used

    def _look_up_prices(self) -> None:
        if self._pricing is None or not self._pricing.is_alive():
            wanted = [deployment for _, _, deployment in self._unpriced]
            self._pricing = threading.Thread(target=self._load_prices, args=(wanted,), name="prices", daemon=True)
            self._pricing.start()

    def _load_prices(self, deployments: Sequence[PricedDeployment]) -> None:
        self.prices.load(deployments)
        self._look.set()

    def _late_costs(self) -> list[LateCost]:
        """Of the calls that wait for their price, those that have it now, and those that waited for too long."""
        now, late = time.monotonic(), []
        for _ in range(len(self._unpriced)):
            since, entry, deployment = self._unpriced.popleft()
            resolved, price = self.prices.find(deployment)
            if not resolved and now - since < _PRICED_WITHIN:
                self._unpriced.append((since, entry, deployment))
                continue
            cost = None if price is None else _cost(price, entry.record)
            late.append(LateCost(LedgerEntry(entry.id, entry.record._replace(cost=cost)), cost))
        if self._unpriced:
            self._look_up_prices()
        return late

    # Storing

    def _store_on(self) -> None:
        store: Store | None = None
        pause = _FIRST_PAUSE
        while True:
            with self._work:
                self._work.wait_for(lambda: self._unwritten or self._ending.is_set(), timeout=60.0)
                self._busy = bool(self._unwritten)
            if self._ending.is_set() and (not self._unwritten or self.error is not None):
                break
            try:
                store = store or self._open_store()
                self._store(store)
                self.error, pause = None, _FIRST_PAUSE
            except SageError as exc:
                if self.error is None:
                    _log.error("usage is kept in memory: %s", exc.message)
                self.error = exc.message
                self._done()
                if self._ending.is_set():
                    break
                self._ending.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _store(self, store: Store) -> None:
        while self._unwritten:
            with self._work:
                batch = [self._unwritten.popleft() for _ in range(min(len(self._unwritten), _MOST_AT_ONCE))]
            try:
                store.write(batch)
            except BaseException:
                with self._work:
                    self._unwritten.extendleft(reversed(batch))
                raise
            self.written += sum(isinstance(each, LedgerEntry) for each in batch)
        self._done()
        store.trim(self._settings.retention)

    def _done(self) -> None:
        with self._work:
            self._busy = False
            self._work.notify_all()


def _cost(price: Price, record: UsageRecord) -> int | None:
    tokens = record.prompt_tokens, record.cached_tokens, record.completion_tokens, record.reasoning_tokens
    return price.of_call(*tokens, record.ms, record.units, record.time)


def _nothing() -> None:
    pass

"""What was spent and what is held, in the database: drawn, settled and taken back in single transactions.

For every window ``settled + reserved <= amount`` when something is drawn, and ``reserved`` is the sum of what living
holders hold. Locks are taken in one order (the holder, then windows by their key), so that none wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, delete, or_, select, text, update

from sage.middleware.budgets.account import MOST_AHEAD
from sage.middleware.budgets.spending import Counted, Spending, WindowKey
from sage.middleware.budgets.tables import counters, holders, holdings
from sage.middleware.database.database import Database

_SHARES = 32
_ROOMY_SHARES = 4096
_BEAT = text(
    "INSERT INTO budget_holders (id, beat) VALUES (:holder, 1) "
    "ON CONFLICT (id) DO UPDATE SET beat = budget_holders.beat + 1 RETURNING beat"
)
_OPEN = text(
    "INSERT INTO budget_counters (subject, unit, period, ends, settled, reserved, told, refused) "
    "VALUES (:subject, :unit, :period, :ends, 0, 0, 0, false) ON CONFLICT DO NOTHING"
)
_HOLD = text(
    "INSERT INTO budget_holdings (holder, subject, unit, period, amount) "
    "VALUES (:holder, :subject, :unit, :period, :amount) ON CONFLICT (holder, subject, unit, period) "
    "DO UPDATE SET amount = budget_holdings.amount + excluded.amount"
)


def _named(table: Table) -> ColumnElement[bool]:
    """The window that the parameters of :func:`_names` name."""
    return and_(*(table.c[name] == bindparam(f"the_{name}") for name in WindowKey._fields))


def _names(key: WindowKey, **others: object) -> dict[str, object]:
    return {"the_subject": key.subject, "the_unit": key.unit, "the_period": key.period, **others}


# Made once: to put a statement together takes longer than to run it.
_MY_BEAT = select(holders.c.beat).where(holders.c.id == bindparam("the_holder")).with_for_update()
_GO_ON = update(holders).where(holders.c.id == bindparam("the_holder")).values(beat=holders.c.beat + 1)
_LOCK = select(counters.c.settled, counters.c.reserved).where(_named(counters)).with_for_update()
_RESERVE = update(counters).where(_named(counters)).values(reserved=counters.c.reserved + bindparam("granted"))
_IS_HELD = and_(holdings.c.holder == bindparam("the_holder"), _named(holdings))
_HELD = select(holdings.c.amount).where(_IS_HELD)
_LET_GO = delete(holdings).where(_IS_HELD)
_HOLD_LESS = update(holdings).where(_IS_HELD).values(amount=bindparam("left"))
_BOOK = (
    update(counters)
    .where(_named(counters))
    .values(
        settled=counters.c.settled + bindparam("spent"),
        reserved=counters.c.reserved - bindparam("released"),
    )
    .returning(counters)
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """The answer to a draw: what was ``granted``, the window before it, and whether the holder was known to hold
    anything: it is not after a long silence. ``None`` means that the window was only read."""

    granted: int
    before: Counted
    was_alive: bool | None


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a report: whether the holder was known to hold anything, and the counts after it."""

    was_alive: bool
    counts: dict[WindowKey, Counted]


class Told(NamedTuple):
    """What was told of a window: the highest threshold, in percent, and whether calls were refused."""

    threshold: int
    refused: bool


Observer = Callable[[Connection, Spending, int, Told], Told]
"""Sees a window in the transaction that changes it: what is settled now, and what was told. Returns what is told after
it."""


def share(left: int, has: int, needs: Sequence[int], ahead: int) -> int:
    """How much of ``left`` a holder gets that has ``has`` and wants to serve ``needs``, first come first.

    More than that is given for calls to come: as much as ``ahead`` calls with the dearest need take, a 32nd part of
    what is left at most, so nothing once 32 such calls would empty the budget. A 4096th part is given at once, up to
    ``MOST_AHEAD`` such calls: others hardly miss it, and each further draw would be a transaction.
    """
    granted, room = 0, max(left, 0)
    for need in needs:
        missing = max(0, need - has)
        if missing <= room - granted:
            granted += missing
            has += missing - need
    dearest = max(needs)
    if granted and dearest:
        calls = (room - granted) // dearest
        granted += min(calls // _SHARES, max(ahead, min(calls // _ROOMY_SHARES, MOST_AHEAD))) * dearest
    return granted


class BudgetCounters:
    """The counters in one database. Calls block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def draw(
        self, holder: str, key: WindowKey, ends: float | None, amount: int, has: int, needs: Sequence[int], ahead: int
    ) -> Drawn:
        """Reserves for ``holder`` what :func:`share` says of ``amount``. An empty budget is only read."""
        before = self.counted(key)
        if amount - before.settled - before.reserved < min(max(0, need - has) for need in needs):
            return Drawn(0, before, None)
        with self._database.writing(alone=False) as connection:
            beat = connection.execute(_BEAT, {"holder": holder}).scalar_one()
            before = _locked(connection, key, ends)
            granted = share(amount - before.settled - before.reserved, has, needs, ahead)
            if granted:
                connection.execute(_RESERVE, _names(key, granted=granted))
                connection.execute(_HOLD, {"holder": holder, "amount": granted, **key._asdict()})
        return Drawn(granted, before, beat > 1)

    def settle(
        self, holder: str, spendings: Iterable[Spending], *, lives: bool, observer: Observer | None = None
    ) -> Settled:
        """Books what calls have used and gives back what is released; ``lives`` says whether the holder still holds
        something."""
        counts = {}
        with self._database.writing(alone=False) as connection:
            was_alive = connection.execute(_MY_BEAT, {"the_holder": holder}).scalar() is not None
            for spending in sorted(spendings, key=lambda each: each.key):
                counts[spending.key] = _settle(connection, holder, spending, observer)
            if not lives:
                _release_all(connection, holder)
            elif was_alive:
                connection.execute(_GO_ON, {"the_holder": holder})
        return Settled(was_alive, counts)

    def beats(self) -> dict[str, int]:
        """The beat of every holder; that of one that lives changes every few seconds."""
        with self._database.reading() as connection:
            return {row.id: row.beat for row in connection.execute(select(holders))}

    def reclaim(self, holder: str, beat: int) -> bool:
        """Gives back what a dead holder held, unless it has moved on from ``beat``; returns whether it did."""
        with self._database.writing(alone=False) as connection:
            seen = select(holders.c.id).where(holders.c.id == holder, holders.c.beat == beat).with_for_update()
            if connection.execute(seen).scalar() is None:
                return False
            _release_all(connection, holder)
        return True

    def counted(self, key: WindowKey) -> Counted:
        """The counts of one window; zeros where nothing was counted yet."""
        return self.counts([key]).get(key, Counted(0, 0))

    def counts(self, keys: Sequence[WindowKey]) -> dict[WindowKey, Counted]:
        """The counts of those of the windows that have any."""
        found: dict[WindowKey, Counted] = {}
        with self._database.reading() as connection:
            for start in range(0, len(keys), 100):
                query = select(counters).where(or_(*(_is(counters, key) for key in keys[start : start + 100])))
                for row in connection.execute(query):
                    found[WindowKey(row.subject, row.unit, row.period)] = Counted(row.settled, row.reserved)
        return found

    def purge(self, before: float) -> None:
        """Forgets windows that ended before that moment."""
        with self._database.writing(alone=False) as connection:
            connection.execute(delete(counters).where(counters.c.ends < before, counters.c.reserved == 0))


def _is(table: Table, key: WindowKey) -> ColumnElement[bool]:
    columns = table.c
    return and_(columns.subject == key.subject, columns.unit == key.unit, columns.period == key.period)


def _locked(connection: Connection, key: WindowKey, ends: float | None) -> Counted:
    """The counts of a window, which is made where there is none; nobody changes them before the transaction ends."""
    row = connection.execute(_LOCK, _names(key)).one_or_none()
    if row is None:
        connection.execute(_OPEN, {**key._asdict(), "ends": ends})
        row = connection.execute(_LOCK, _names(key)).one()
    return Counted(row.settled, row.reserved)


def _settle(connection: Connection, holder: str, spending: Spending, observer: Observer | None) -> Counted:
    key = spending.key
    _locked(connection, key, spending.ends)
    mine = _names(key, the_holder=holder)
    held = connection.execute(_HELD, mine).scalar() or 0
    released = min(spending.released, held)  # less where others took it back meanwhile
    if held and released == held:
        connection.execute(_LET_GO, mine)
    elif released:
        connection.execute(_HOLD_LESS, mine | {"left": held - released})
    row = connection.execute(_BOOK, _names(key, spent=spending.spent, released=released)).one()
    if observer is not None:
        told = Told(row.told, row.refused)
        after = observer(connection, spending, row.settled, told)
        if after != told:
            changed = update(counters).where(_is(counters, key))
            connection.execute(changed.values(told=after.threshold, refused=after.refused))
    return Counted(row.settled, row.reserved)


def _release_all(connection: Connection, holder: str) -> None:
    """Gives back all that ``holder`` holds, and forgets it."""
    query = select(holdings).where(holdings.c.holder == holder).order_by(*holdings.primary_key.columns)
    for row in connection.execute(query).all():
        key = WindowKey(row.subject, row.unit, row.period)
        reserved = counters.c.reserved - row.amount
        connection.execute(update(counters).where(_is(counters, key)).values(reserved=reserved))
    connection.execute(delete(holdings).where(holdings.c.holder == holder))
    connection.execute(delete(holders).where(holders.c.id == holder))

"""The tables of budgets: the amounts, what was spent in each window, and who holds what of it.

Amounts are whole nano-dollars or tokens, by ``unit``. A window's name is that of
:class:`~sage.middleware.budgets.periods.BudgetPeriod`.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    event,
)

from sage.middleware.database.types import Whole

metadata = MetaData()
_SUBJECT = 320
"""Characters: a kind, a colon and a name."""

budgets = Table(
    "budgets",
    metadata,
    Column("subject", String(_SUBJECT), primary_key=True),
    Column("tenant", String(64)),
    Column("unit", String(8), nullable=False),
    Column("amount", Whole, nullable=False),
    Column("window", String(8), nullable=False),
    Column("hard", Boolean, nullable=False),
    Column("updated_at", Whole, nullable=False),
    Column("given_by", String(_SUBJECT)),  # as the audit names who did it; NULL: unknown
)
"""The stored budgets. Those of the configuration are in no table; what they counted is."""

counters = Table(
    "budget_counters",
    metadata,
    Column("subject", String(_SUBJECT), primary_key=True),
    Column("unit", String(8), primary_key=True),
    Column("period", String(32), primary_key=True),
    Column("ends", Float),  # Unix seconds; NULL: never
    Column("settled", Whole, nullable=False),
    Column("reserved", Whole, nullable=False),  # what holders hold
    Column("told", Integer, nullable=False),  # the highest threshold that was told, in percent
    Column("refused", Boolean, nullable=False),  # whether it was told that calls are refused
)
"""What was spent in one window of a subject, and what processes hold of the rest."""

holders = Table(
    "budget_holders",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("beat", Whole, nullable=False),  # changes while the process lives
)
"""The processes that hold something."""

holdings = Table(
    "budget_holdings",
    metadata,
    Column("holder", String(32), primary_key=True),
    Column("subject", String(_SUBJECT), primary_key=True),
    Column("unit", String(8), primary_key=True),
    Column("period", String(32), primary_key=True),
    Column("amount", Whole, nullable=False),
)
"""What one process holds of one window. Their sum is the window's ``reserved``."""

revision = Table(
    "budget_revision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("value", Integer, nullable=False),
    CheckConstraint("id = 1", name="budget_revision_one_row"),
)
"""One row that counts every change of a stored budget."""

events = Table(
    "budget_events",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # JSON, as it is posted
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float, nullable=False),  # Unix seconds
)
"""What is to be told and was not taken yet."""


@event.listens_for(revision, "after_create")
def _begin_at_one(_: Table, connection: Connection, **__: object) -> None:
    connection.exec_driver_sql("INSERT INTO budget_revision (id, value) VALUES (1, 1)")

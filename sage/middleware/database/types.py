"""Types of columns that hold the same on SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer

Whole = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits: for Unix seconds, bytes, counts and amounts. On SQLite, where every integer has 64 bits, it is INTEGER, the
only type of a primary key that numbers rows itself."""

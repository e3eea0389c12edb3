"""The tables of vector stores: what is known of a collection as a store, its files, and batches of these.

What is in the files is in the collection. Times are Unix seconds with fractions.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text, text

from sage.middleware.database.schema import of_rows
from sage.middleware.database.types import Whole

metadata = MetaData()

stores = Table(
    "vector_stores",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("collection", String(80), primary_key=True),
    Column("made_at", Float, nullable=False),  # the collection: one of the same name made later is not this store
    Column("name", String(256), nullable=False),
    Column("description", String(512)),
    Column("meta", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_active_at", Float, nullable=False),
    Column("expires_days", Integer),
    Column("expired_at", Float),  # its collection is removed by then
)
Index("ix_vector_stores_expires", stores.c.last_active_at, **of_rows(stores.c.expires_days.is_not(None)))

files = Table(
    "vector_store_files",
    metadata,
    Column("sequence", Whole, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("collection", String(80), nullable=False),
    Column("file_id", String(40), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("status", String(12), nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("max_tokens", Integer, nullable=False),  # of a chunk
    Column("overlap_tokens", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("usage_bytes", Whole, nullable=False),
    Column("error_code", String(32)),
    Column("error_message", Text),
    Column("ticket", String(40), nullable=False),  # of the request that it is read for
    Column("job_id", String(40)),  # that reads it
    Column("settled", Boolean, nullable=False),  # nothing of it is left to be done
    sqlite_autoincrement=True,
)
Index("ix_vector_store_files_id", files.c.tenant, files.c.collection, files.c.file_id, unique=True)
Index("ix_vector_store_files_order", files.c.tenant, files.c.collection, files.c.sequence)
Index("ix_vector_store_files_ticket", files.c.ticket, files.c.file_id)
Index("ix_vector_store_files_job", files.c.job_id)
Index("ix_vector_store_files_unsettled", files.c.sequence, **of_rows(text("NOT settled")))

batches = Table(
    "vector_store_batches",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("collection", String(80), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("job_id", String(40)),
    Column("cancelled", Boolean, nullable=False),
)
Index("ix_vector_store_batches_store", batches.c.tenant, batches.c.collection)

batch_files = Table(
    "vector_store_batch_files",
    metadata,
    Column("batch", String(40), primary_key=True),
    Column("file_id", String(40), primary_key=True),
)

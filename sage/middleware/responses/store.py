"""Responses as they are kept: each in its tenant, until its time is over or somebody deletes it.

A response keeps its own input and its output. What went before is in the responses that it continues.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.middleware.database.database import Database
from sage.middleware.responses.kept import RUNNING, KeptResponse, NewResponse
from sage.middleware.responses.tables import LONGEST_ID, events, items, responses, secrets

_MOST_TURNS = 1000
_MOST_ITEMS = 10_000
_PIECE = 500
"""Rows that one statement names."""


class ResponseStore:
    """Its calls block; safe to use from several threads and processes."""

    def __init__(self, database: Database, keep: float, clock: Callable[[], float] = time.time) -> None:
        """``keep`` is how many seconds a response stays."""
        self._database = database
        self._keep = keep
        self._clock = clock

    def add(self, new: NewResponse) -> None:
        """Keeps a response."""
        now, body = self._clock(), new.body
        row = {
            **{"id": body["id"], "tenant": new.tenant, "user": new.user, "status": body["status"]},
            **{"previous": body["previous_response_id"], "job": new.job, "created_at": now},
            **{"expires_at": now + self._keep, "body": orjson.dumps(body)},
        }
        rows = _item_rows(body["id"], new.input, 0, is_output=False)
        rows += _item_rows(body["id"], body["output"], len(rows), is_output=True)
        with self._database.writing(alone=False) as connection:
            connection.execute(insert(responses), row)
            if rows:
                connection.execute(insert(items), rows)

    def get(self, tenant: str, name: str) -> KeptResponse:
        """Raises :class:`NotFound`."""
        with self._database.reading() as connection:
            return self._get(connection, tenant, name)

    def conversation(self, tenant: str, name: str) -> list[dict[str, Any]]:
        """All items up to the end of that response, the oldest first. Raises :class:`NotFound`, also where an earlier
        one is gone, and :class:`Conflict` for one that has not ended."""
        turns: list[list[dict[str, Any]]] = []
        count, wanted, after = 0, name, ""
        with self._database.reading() as connection:
            while wanted:
                row = connection.execute(self._of(tenant, wanted)).one_or_none()
                if row is None:
                    raise _not_found(wanted, after, param="previous_response_id")
                if row.status in RUNNING:
                    raise Conflict(f"the response '{wanted}' is {row.status}; wait for its end to continue it")
                turns.append(self._items(connection, wanted))
                count += len(turns[-1])
                if len(turns) > _MOST_TURNS or count > _MOST_ITEMS:
                    raise InvalidRequest(
                        f"the conversation before '{name}' is longer than {_MOST_TURNS} turns or {_MOST_ITEMS} items; "
                        "begin a new one",
                        param="previous_response_id",
                    )
                wanted, after = row.previous, wanted
        return [item for turn in reversed(turns) for item in turn]

    def input_page(
        self, tenant: str, name: str, *, limit: int, after: str | None, oldest_first: bool
    ) -> tuple[list[dict[str, Any]], bool]:
        """At most ``limit`` items of its input behind the item ``after``, and whether there are more. Raises
        :class:`NotFound`."""
        with self._database.reading() as connection:
            self._get(connection, tenant, name)
            query = select(items.c.number, items.c.id, items.c.body)
            query = query.where(items.c.response == name, items.c.is_output.is_(False))
            rows = list(connection.execute(query.order_by(items.c.number)).all())
        if not oldest_first:
            rows.reverse()
        if after is not None:
            place = next((place for place, row in enumerate(rows) if row.id == after), None)
            if place is None:
                raise NotFound(f"the input of '{name}' has no item '{after[:LONGEST_ID]}'", param="after")
            rows = rows[place + 1 :]
        return [orjson.loads(row.body) for row in rows[:limit]], len(rows) > limit

    def find_items(self, tenant: str, ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """The items with these ids in responses of the tenant, of several the newest."""
        found: dict[str, dict[str, Any]] = {}
        wanted = [name for name in ids if len(name) <= LONGEST_ID and "\0" not in name]
        with self._database.reading() as connection:
            for start in range(0, len(wanted), _PIECE):
                query = (
                    select(items.c.id, items.c.body)
                    .join(responses, responses.c.id == items.c.response)
                    .where(items.c.id.in_(wanted[start : start + _PIECE]), responses.c.tenant == tenant)
                    .where(responses.c.expires_at > self._clock())
                    .order_by(responses.c.created_at)
                )
                found.update((row.id, orjson.loads(row.body)) for row in connection.execute(query))
        return found

    def use_approvals(self, tenant: str, asked: Mapping[str, Mapping[str, Any]]) -> str | None:
        """Marks requests for approval as used, all or none: each by its id, with what it asks for. Returns the id of
        one that no response of the tenant has made so; raises :class:`Conflict` for one that was used before."""
        with self._database.writing() as connection:
            rows = {name: self._approval(connection, tenant, name) for name in asked}
            for name, row in rows.items():
                made = None if row is None else orjson.loads(row.body)
                if made is None or any(made.get(field) != value for field, value in asked[name].items()):
                    return name
                if row.approved_at is not None:
                    raise Conflict(f"the approval of '{name}' was used before; a call runs once", code="approval_used")
            for row in rows.values():
                connection.execute(
                    update(items)
                    .where(items.c.response == row.response, items.c.number == row.number)
                    .values(approved_at=self._clock())
                )
        return None

    def _approval(self, connection: Connection, tenant: str, name: str) -> Any:
        query = (
            select(items)
            .join(responses, responses.c.id == items.c.response)
            .where(items.c.id == name[:LONGEST_ID].replace("\0", ""), items.c.is_output.is_(True))
            .where(responses.c.tenant == tenant, responses.c.expires_at > self._clock())
        )
        return connection.execute(query).first()

    def secret(self, name: str) -> bytes:
        """32 random bytes, the same for all processes and for good."""
        query = select(secrets.c.secret).where(secrets.c.name == name)
        with self._database.writing() as connection:
            found = connection.execute(query).scalar()
            if found is None:
                found = os.urandom(32)
                connection.execute(insert(secrets), {"name": name, "secret": found})
            return bytes(found)

    def delete(self, tenant: str, name: str) -> None:
        """Raises :class:`NotFound`."""
        with self._database.writing(alone=False) as connection:
            self._get(connection, tenant, name)
            _delete(connection, [name])

    def change(self, name: str, body: dict[str, Any]) -> bool:
        """Replaces a response that has not ended; whether there was one. Its output is kept as items once it ends."""
        with self._database.writing() as connection:
            changed = connection.execute(
                update(responses)
                .where(responses.c.id == name, responses.c.status.in_(RUNNING))
                .values(status=body["status"], body=orjson.dumps(body))
            ).rowcount
            if changed and body["status"] not in RUNNING and body["output"]:
                query = select(items.c.number).where(items.c.response == name).order_by(items.c.number.desc()).limit(1)
                last = connection.execute(query).scalar()
                first = 0 if last is None else last + 1
                connection.execute(insert(items), _item_rows(name, body["output"], first, is_output=True))
        return bool(changed)

    def set_job(self, name: str, job: str) -> None:
        """The job that makes a response."""
        with self._database.writing(alone=False) as connection:
            connection.execute(update(responses).where(responses.c.id == name).values(job=job))

    def add_events(self, name: str, new: Sequence[tuple[int, bytes]]) -> None:
        """Adds events by their numbers."""
        rows = [{"response": name, "number": number, "body": body} for number, body in new]
        with self._database.writing(alone=False) as connection:
            connection.execute(insert(events), rows)

    def clear_events(self, name: str) -> None:
        """Forgets all events of a response, which is made anew."""
        with self._database.writing(alone=False) as connection:
            connection.execute(delete(events).where(events.c.response == name))

    def events_after(self, name: str, number: int, limit: int) -> list[tuple[int, bytes]]:
        """At most ``limit`` events with a higher number."""
        query = select(events.c.number, events.c.body).where(events.c.response == name, events.c.number > number)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(events.c.number).limit(limit)).all()
        return [(row.number, row.body) for row in rows]

    def erase(self, user: str, tenant: str | None = None) -> int:
        """Deletes all responses of ``user``, with ``tenant`` those that it has there; returns how many."""
        conditions: list[ColumnElement[bool]] = [responses.c.user == user]
        if tenant is not None:
            conditions.append(responses.c.tenant == tenant)
        return self._delete_where(conditions)

    def purge(self) -> int:
        """Deletes what has expired; returns how many responses that were."""
        return self._delete_where([responses.c.expires_at <= self._clock()])

    def _delete_where(self, conditions: list[ColumnElement[bool]]) -> int:
        deleted = 0
        while True:
            with self._database.writing(alone=False) as connection:
                ids = connection.execute(select(responses.c.id).where(*conditions).limit(_PIECE)).scalars().all()
                if ids:
                    _delete(connection, ids)
            deleted += len(ids)
            if len(ids) < _PIECE:
                return deleted

    def _of(self, tenant: str, name: str) -> Any:
        return select(responses).where(
            responses.c.id == name, responses.c.tenant == tenant, responses.c.expires_at > self._clock()
        )

    def _get(self, connection: Connection, tenant: str, name: str) -> KeptResponse:
        row = connection.execute(self._of(tenant, name)).one_or_none()
        if row is None:
            raise _not_found(name)
        return KeptResponse(orjson.loads(row.body), row.status, row.user, row.job)

    @staticmethod
    def _items(connection: Connection, name: str) -> list[dict[str, Any]]:
        query = select(items.c.body).where(items.c.response == name).order_by(items.c.number)
        return [orjson.loads(body) for body in connection.execute(query).scalars()]


def _delete(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(events).where(events.c.response.in_(ids)))
    connection.execute(delete(items).where(items.c.response.in_(ids)))
    connection.execute(delete(responses).where(responses.c.id.in_(ids)))


def _item_rows(name: str, found: Sequence[dict[str, Any]], first: int, *, is_output: bool) -> list[dict[str, Any]]:
    return [
        {"response": name, "number": number, "is_output": is_output, "id": item["id"], "body": orjson.dumps(item)}
        for number, item in enumerate(found, first)
    ]


def _not_found(name: str, after: str = "", param: str | None = None) -> NotFound:
    shown = name[:LONGEST_ID]
    before = f", which '{after}' continues," if after else ""
    return NotFound(
        f"the response '{shown}'{before} is not kept here: it was made with 'store: false', was deleted "
        "or has expired, or there never was one",
        param=param,
        code="previous_response_not_found" if param else "not_found",
    )

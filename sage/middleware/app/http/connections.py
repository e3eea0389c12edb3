"""The connections of clients: how many there may be, in all and of one address, and how long each may keep us waiting.

No timer runs for a request. Once a second every connection is looked at: whether its client owes us something (the rest
of a head or of a body, the reading of an answer) and whether that moves.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from heapq import nsmallest
from typing import Protocol

from sage.middleware.app.http.repeated_head import RepeatedHead
from sage.middleware.settings.settings import Api

KEEP_ALIVE = 75.0
"""Seconds that a connection may be idle between two requests."""
LEAST_RATE = 500
"""Bytes a second that a body must come at, and an answer be read at, over each period of ``api.client_timeout``."""
_BATCH = 16  # of so many connections one is looked at for closing when there are too many
_SLOW, _IDLE, _FLOWS, _WORKS = range(4)
_RESCAN = 0.1  # seconds without another look for connections to close, after there were none


class Phase(Enum):
    """What a connection waits for. The client is at fault when one of the first four does not end."""

    HEAD = "head"
    BODY = "body"
    REST = "rest of a body that was answered already"
    READING = "the client's reading"
    IDLE = "another request"
    WORK = "the gateway"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, and how long a client may keep one waiting, in seconds."""

    total: int
    per_address: int
    timeout: float

    @classmethod
    def of(cls, api: Api) -> ConnectionLimits:
        """What ``api`` asks for, as far as this process may open files.

        A request may need a second one towards its upstream, and databases, collections and engines need theirs.
        """
        files = _open_files()
        possible = (files - 200) // 2 if files >= 600 else files // 3
        total = min(api.max_connections, possible)
        per_address = api.max_connections_per_address or max(1, total // 2)
        return cls(total, min(per_address, total), api.client_timeout)


class ClientConnection(Protocol):
    """What :class:`ClientConnections` asks of the server's protocol."""

    address: str

    def waits_for(self) -> Phase: ...

    def moved(self, phase: Phase) -> int:
        """Bytes that the client has sent or, for :attr:`Phase.READING`, read so far."""
        ...

    def request(self) -> object:
        """The newest request; another one begins another period."""
        ...

    def give_up(self, phase: Phase) -> None:
        """Answers, if that is still possible, and closes."""
        ...


class _Period:
    """The time that a connection has waited for one thing, and how much had moved when it began."""

    __slots__ = ("moved", "phase", "request", "since")

    def __init__(self, now: float) -> None:
        self.phase, self.request, self.since, self.moved = Phase.HEAD, None, now, 0  # type: Phase, object, float, int

    def begin(self, phase: Phase, request: object, now: float, moved: int) -> None:
        self.phase, self.request, self.since, self.moved = phase, request, now, moved


class ClientConnections:
    """All connections of one server; belongs to its event loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._periods: dict[ClientConnection, _Period] = {}
        self._by_address: defaultdict[str, set[ClientConnection]] = defaultdict(set)
        self._look_again = 0.0
        self.heads: dict[str, RepeatedHead] = {}
        """By address, the head that was parsed last of those that connections may repeat, while it has connections."""

    def __len__(self) -> int:
        return len(self._periods)

    def admit(self, connection: ClientConnection, now: float) -> bool:
        """Takes a new connection in; ``False`` means that there is no place for it.

        Places are made by closing connections whose clients owe us something and are slow, then idle ones, then the
        slowest of the others: those of the same address if that has too many, else those of the address that has most.
        """
        own = self._by_address[connection.address]
        self._periods[connection] = _Period(now)
        own.add(connection)
        if len(own) > self._limits.per_address:
            return self._make_room(own, connection, now)
        if len(self._periods) > self._limits.total:
            most = max(self._by_address.values(), key=len)
            return self._make_room(most, connection, now) or self._make_room(self._periods, connection, now)
        return True

    def remove(self, connection: ClientConnection) -> None:
        """Forgets a connection that is closed."""
        self._periods.pop(connection, None)
        own = self._by_address.get(connection.address)
        if own is not None:
            own.discard(connection)
            if not own:
                del self._by_address[connection.address]
                self.heads.pop(connection.address, None)

    def check(self, now: float) -> None:
        """Gives up those whose clients have kept them waiting for too long. To be called once a second."""
        for connection, period in list(self._periods.items()):
            phase, request = connection.waits_for(), connection.request()
            if phase is not period.phase or request is not period.request:
                period.begin(phase, request, now, connection.moved(phase))
            elif now - period.since >= (KEEP_ALIVE if phase is Phase.IDLE else self._limits.timeout):
                moved = connection.moved(phase)
                enough = (moved - period.moved) >= LEAST_RATE * (now - period.since)
                if phase is Phase.WORK or (enough and phase in (Phase.BODY, Phase.READING)):
                    period.begin(phase, request, now, moved)
                else:
                    connection.give_up(phase)

    def _make_room(self, among: Iterable[ClientConnection], new: ClientConnection, now: float) -> bool:
        if now < self._look_again:
            return False
        order = ((*self._place(each, now), id(each), each) for each in among if each != new)
        first = nsmallest(1 + len(self._periods) // _BATCH, order)
        kind = first[0][0] if first else _WORKS
        if kind == _WORKS:
            self._look_again = now + _RESCAN
            return False
        alike = [entry for entry in first if entry[0] == kind]
        # Half of them, so that those go on that have just begun; many at a time, as to look at all takes some ms.
        for *_, connection in alike[:1] if kind == _FLOWS else alike[: (len(alike) + 1) // 2]:
            connection.give_up(connection.waits_for())
        return True

    def _place(self, connection: ClientConnection, now: float) -> tuple[int, float, float]:
        """The place of a connection in the order in which they make room: its kind, the bytes a second that it moves,
        and its age, the oldest first."""
        phase, period = connection.waits_for(), self._periods[connection]
        if phase is Phase.WORK:
            return _WORKS, 0.0, 0.0
        if phase is Phase.IDLE:
            return _IDLE, 0.0, period.since
        started = period.moved if phase is period.phase and connection.request() is period.request else 0
        speed = (connection.moved(phase) - started) / (now - period.since + 0.1)
        return _SLOW if speed < LEAST_RATE else _FLOWS, speed, period.since


def _open_files() -> int:
    """How many files this process may have open."""
    if sys.platform == "win32":
        return 8192
    import resource  # not there on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if soft == resource.RLIM_INFINITY else soft


def allow_more_files(connections: int) -> None:
    """Raises this process's own limit on open files, as far as it may, to what so many connections need."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))

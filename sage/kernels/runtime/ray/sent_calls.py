"""Calls that were sent to an actor and have no reply yet."""

from __future__ import annotations

from sage.kernels.runtime.services.calls import ServiceCall


class SentCalls:
    """Only the thread of the link uses it; others may ask for its length.

    An actor that dies is started again, with a greater number of its life. What one life has accepted dies with it,
    also when no message was under way then.
    """

    def __init__(self) -> None:
        self._calls: dict[int, ServiceCall] = {}
        self._accepted: set[int] = set()
        """Numbers of the calls that the present life of the actor has accepted."""
        self.life = 0
        """The newest life of the actor that has answered."""

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, number: int, call: ServiceCall) -> None:
        self._calls[number] = call

    def remove(self, number: int) -> ServiceCall | None:
        self._accepted.discard(number)
        return self._calls.pop(number, None)

    def remove_all(self) -> list[ServiceCall]:
        calls = list(self._calls.values())
        self._calls.clear()
        self._accepted.clear()
        return calls

    def begin_life(self, life: int) -> list[ServiceCall]:
        """The actor has answered from ``life``. Returns the calls that died with the life before; they are removed."""
        if life <= self.life:
            return []
        self.life = life
        lost, self._accepted = self._accepted, set()
        return [call for number in lost if (call := self._calls.pop(number, None)) is not None]

    def accept(self, number: int, life: int) -> ServiceCall | None:
        """A ``life`` of the actor has accepted a call. Returns the call when that life is over; it is removed."""
        if number not in self._calls:
            return None
        if life < self.life:
            return self.remove(number)
        self._accepted.add(number)
        return None

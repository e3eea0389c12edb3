"""A queue whose owners take turns: who asks for much waits for it, and delays the others by one piece at most."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import count, zip_longest
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_REMEMBERED = 1024
"""Owners of whom it is known when they had their last turn."""


class TurnHistory:
    """Who had a turn last. Owners who had none for long are forgotten: they count as newcomers, who come first."""

    __slots__ = ("_last", "_turns")

    def __init__(self) -> None:
        self._last: dict[Hashable, int] = {}
        """The longest ago first."""
        self._turns = count(1)

    def record(self, owner: Hashable) -> None:
        """``owner`` has a turn now."""
        last = self._last
        last.pop(owner, None)
        last[owner] = next(self._turns)
        if len(last) > _REMEMBERED:
            del last[next(iter(last))]

    def last(self, owner: Hashable) -> int:
        """The number of the owner's last turn; 0 means that it is not known. The lowest is next."""
        return self._last.get(owner, 0)


class FairQueue(Generic[T]):
    """First in, first out for each owner; owners take turns, beginning with the one whose last turn is longest ago.

    What it remembers of owners without items is bounded. It has no lock.
    """

    __slots__ = ("_history", "_items", "_length")

    def __init__(self) -> None:
        self._items: dict[Hashable, dict[T, None]] = {}
        """By owner, in their order; an owner is here while there is an item."""
        self._history = TurnHistory()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, owner: Hashable, item: T) -> None:
        self._items.setdefault(owner, {})[item] = None
        self._length += 1

    def pop(self) -> T:
        """The next item, which is its owner's turn; raises :class:`IndexError` when there is none."""
        if not self._items:
            raise IndexError("the queue is empty")
        owner = next(iter(self._items)) if len(self._items) == 1 else min(self._items, key=self._history.last)
        item = next(iter(self._items[owner]))
        self.remove(owner, item)
        self._history.record(owner)
        return item

    def remove(self, owner: Hashable, item: T) -> bool:
        """Takes ``item`` out, which is no turn; returns whether it was there."""
        items = self._items.get(owner)
        if items is None or item not in items:
            return False
        del items[item]
        if not items:
            del self._items[owner]
        self._length -= 1
        return True

    def record_turn(self, owner: Hashable) -> None:
        """``owner`` had a turn without waiting for it, or for an item that was removed."""
        self._history.record(owner)

    def in_turn(self) -> Iterator[T]:
        """All items in the order of the turns, if each turn is taken. Nothing may be put in meanwhile."""
        owners = sorted(self._items, key=self._history.last)
        if len(owners) == 1:
            yield from list(self._items[owners[0]])
            return
        for one_each in zip_longest(*[list(self._items[owner]) for owner in owners], fillvalue=None):
            yield from (item for item in one_each if item is not None)

    def make_room(self, owner: Hashable, is_removable: Callable[[T], bool] = lambda _: True) -> T | None:
        """Removes and returns the newest item of the owner who has the most, for one of ``owner``; ``None`` if
        ``owner`` would have as many then, or the item is not removable."""
        if not self._items:
            return None
        longest = max(self._items, key=lambda each: len(self._items[each]))
        newest = next(reversed(self._items[longest]))
        if len(self._items[longest]) <= len(self._items.get(owner, ())) + 1 or not is_removable(newest):
            return None
        self.remove(longest, newest)
        return newest

    def clear(self) -> list[T]:
        """Removes and returns all items, in the order of the turns."""
        items = list(self.in_turn())
        self._items.clear()
        self._length = 0
        return items

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

    An owner's own items may be of several members, who take its turns in turn. What it remembers of those without items
    is bounded. It has no lock.
    """

    __slots__ = ("_history", "_items", "_length", "_member")

    def __init__(self, member: Callable[[T], Hashable] | None = None) -> None:
        """``member`` tells whose an item is within its owner; without it an owner has no members."""
        self._member = member
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
        item = self._items_of(owner)[0] if self._member is not None else next(iter(self._items[owner]))
        self.remove(owner, item)
        self.record_turn(owner, self._member(item) if self._member is not None else None)
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

    def record_turn(self, owner: Hashable, member: Hashable = None) -> None:
        """``owner`` had a turn without waiting for it, or for an item that was removed; it was that member's."""
        self._history.record(owner)
        if self._member is not None:
            self._history.record((owner, member))

    def in_turn(self) -> Iterator[T]:
        """All items in the order of the turns, if each turn is taken. Nothing may be put in meanwhile."""
        owners = sorted(self._items, key=self._history.last)
        if len(owners) == 1:
            yield from self._items_of(owners[0])
            return
        yield from _one_each([self._items_of(owner) for owner in owners])

    def _items_of(self, owner: Hashable) -> list[T]:
        """The owner's items in the order of its turns."""
        items = list(self._items[owner])
        if self._member is None or len(items) == 1:
            return items
        by_member: dict[Hashable, list[T]] = {}
        for item in items:
            by_member.setdefault(self._member(item), []).append(item)
        if len(by_member) == 1:
            return items
        order = sorted(by_member, key=lambda member: self._history.last((owner, member)))
        return list(_one_each([by_member[member] for member in order]))

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


def _one_each(lists: list[list[T]]) -> Iterator[T]:
    """The first of each list, then the second of each, and so on."""
    for one_each in zip_longest(*lists, fillvalue=None):
        yield from (item for item in one_each if item is not None)

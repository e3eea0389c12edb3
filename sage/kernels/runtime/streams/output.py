"""The output of a task: it passes records on to every stage that reads the task's stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sage.kernels.runtime.streams.channels import Channel, new_wakeup
from sage.kernels.runtime.streams.key_hash import key_hash
from sage.kernels.runtime.streams.records import StreamRecord

_NO_READER_ROOM = 1 << 30
"""Records that a stream takes at once when no stage reads it."""


class Output:
    """``readers``: the channels of each stage that reads the stream. A stage has one channel, or one for each of its
    workers; then the key of a record says which. ``tags``: for each of them the number that its values are paired with;
    ``None`` means that they go as they are."""

    def __init__(self, readers: Sequence[Sequence[Channel]], tags: Sequence[int | None] = ()) -> None:
        self._readers = readers
        self._tags = tags or [None] * len(readers)
        self._only = readers[0][0] if len(readers) == 1 and len(readers[0]) == 1 and self._tags == [None] else None
        """The one channel to which all records go as they are. ``None`` means that there is not just one."""
        self._wakeup = new_wakeup()
        for channel in self._channels():
            channel.writers += 1

    def _channels(self) -> Iterator[Channel]:
        return (channel for channels in self._readers for channel in channels)

    def put(self, records: list[StreamRecord]) -> bool:
        """Waits for room. ``False`` means that the job was aborted."""
        if self._only is not None:
            return self._only.put(records, self._wakeup)
        self._count_copies(records)
        return all(channel.put(part, self._wakeup) for channel, part in self._parts(records))

    def put_now(self, records: list[StreamRecord]) -> bool:
        """Puts without waiting, even where there is no room. ``False`` means that the job was aborted."""
        self._count_copies(records)
        return all(channel.put_now(part) for channel, part in self._parts(records))

    def _count_copies(self, records: list[StreamRecord]) -> None:
        """Each reading stage gets a copy, which has to be done too; without any, the record is done."""
        if (added := len(self._readers) - 1) != 0:
            for record in records:
                if record.ticket is not None:
                    record.ticket.add(added)

    def _parts(self, records: list[StreamRecord]) -> Iterator[tuple[Channel, list[StreamRecord]]]:
        for channels, tag in zip(self._readers, self._tags, strict=True):
            tagged = records if tag is None else _with_tag(records, tag)
            if len(channels) == 1:
                yield channels[0], tagged
            else:
                yield from _by_key(tagged, channels)

    def room(self) -> int:
        """Records for which there is room in every channel."""
        return min((channel.room() for channel in self._channels()), default=_NO_READER_ROOM)

    def on_room(self, listener: Callable[[], object]) -> None:
        for channel in self._channels():
            channel.on_room(listener)

    def close(self) -> None:
        for channel in self._channels():
            channel.close()


def _with_tag(records: list[StreamRecord], tag: int) -> list[StreamRecord]:
    return [StreamRecord((tag, record.value), record.key, record.ticket) for record in records]


def _by_key(records: list[StreamRecord], channels: Sequence[Channel]) -> Iterator[tuple[Channel, list[StreamRecord]]]:
    parts: list[list[StreamRecord]] = [[] for _ in channels]
    for record in records:
        parts[key_hash(record.key) % len(channels)].append(record)
    return ((channel, part) for channel, part in zip(channels, parts, strict=True) if part)

"""Channels between the stages of a pipeline: no record is lost or overtaken, whoever waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from sage.kernels.runtime.streams.channels import Channel, new_wakeup
from sage.kernels.runtime.streams.records import StreamRecord


def channel_of(limit: int, writers: int = 1, readers: int = 1) -> Channel:
    channel = Channel(limit)
    channel.writers, channel.readers = writers, readers
    return channel


def records(*values: object) -> list[StreamRecord]:
    return [StreamRecord(value) for value in values]


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(1, 7),
    st.integers(1, 7),
)
def test_all_records_of_all_writers_arrive_in_the_order_of_each(
    counts: list[int], readers: int, limit: int, put_size: int, take_size: int
) -> None:
    channel = channel_of(limit, len(counts), readers)
    taken: list[list[tuple[int, int]]] = [[] for _ in range(readers)]

    def write(writer: int) -> None:
        wakeup = new_wakeup()
        for start in range(0, counts[writer], put_size):
            numbers = range(start, min(start + put_size, counts[writer]))
            assert channel.put([StreamRecord((writer, number)) for number in numbers], wakeup)
        channel.close()

    def read(reader: int) -> None:
        wakeup = new_wakeup()
        while (batch := channel.take(take_size, wakeup)) is not None:
            assert 1 <= len(batch) <= take_size
            taken[reader] += [record.value for record in batch]

    threads = [started(lambda reader=reader: read(reader)) for reader in range(readers)]  # type: ignore[misc]
    threads += [started(lambda writer=writer: write(writer)) for writer in range(len(counts))]  # type: ignore[misc]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    wanted = [(writer, number) for writer, count in enumerate(counts) for number in range(count)]
    assert sorted(value for values in taken for value in values) == wanted
    for values in taken:
        for writer in range(len(counts)):
            numbers = [number for other, number in values if other == writer]
            assert numbers == sorted(numbers)


def test_a_single_record_reaches_a_reader_that_waits() -> None:
    channel, taken = channel_of(100), threading.Semaphore(0)

    def read() -> None:
        wakeup = new_wakeup()
        while channel.take(10, wakeup) is not None:
            taken.release()

    reader = started(read)
    wakeup = new_wakeup()
    for number in range(5):
        assert channel.put(records(number), wakeup)
        assert taken.acquire(timeout=30)
    channel.close()
    reader.join(30)
    assert not reader.is_alive()


def test_records_beyond_the_limit_wait_outside() -> None:
    channel = channel_of(3)
    writer = started(lambda: channel.put(records(*range(8)), new_wakeup()))
    wakeup, values = new_wakeup(), []
    while len(values) < 8:
        batch = channel.take(1, wakeup)
        assert batch is not None
        assert len(channel) <= 3
        values += [record.value for record in batch]
    assert values == list(range(8))
    writer.join(30)
    assert not writer.is_alive()


def test_put_now_goes_beyond_the_limit() -> None:
    channel = channel_of(2)
    assert channel.put_now(records(1, 2, 3))
    assert channel.room() == -1
    assert channel.take(10, new_wakeup()) == records(1, 2, 3)
    assert channel.room() == 2


def test_a_reader_takes_no_more_than_its_share() -> None:
    channel = channel_of(10, readers=3)
    channel.put_now(records(*range(9)))
    assert channel.take(10, new_wakeup()) == records(0, 1, 2)


def test_records_that_are_given_back_are_taken_next() -> None:
    channel = channel_of(10)
    channel.put_now(records(1, 2, 3))
    batch = channel.take(2, new_wakeup())
    assert batch is not None
    channel.give_back(batch[1:])
    assert channel.take(10, new_wakeup()) == records(2, 3)


def test_listeners_are_called_when_there_is_room() -> None:
    channel, rooms = channel_of(2), []
    channel.on_room(lambda: rooms.append(channel.room()))
    channel.put_now(records(1, 2))
    channel.take(1, new_wakeup())
    assert rooms == [1]


def test_an_aborted_channel_lets_everybody_go() -> None:
    full, empty = channel_of(1), channel_of(1)
    full.put_now(records(1))
    results: list[object] = []
    threads = [
        started(lambda: results.append(full.put(records(2), new_wakeup()))),
        started(lambda: results.append(empty.take(1, new_wakeup()))),
    ]
    full.abort()
    empty.abort()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(results, key=str) == [False, None]
    assert len(full) == 0
    assert not full.put_now(records(3))
    assert full.take(1, new_wakeup()) is None

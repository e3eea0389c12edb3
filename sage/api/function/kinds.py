"""The names that upstream SAGE has for the functions of each kind of stage. All are :class:`BaseFunction`: the stage
decides what a function is used for."""

from __future__ import annotations

from typing import Any

from sage.api.function.base_function import BaseFunction
from sage.errors import InvalidRequest
from sage.kernels.runtime.streams.collecting import Collector


class MapFunction(BaseFunction):
    """Returns the new record. ``None`` that ``execute`` returns means that there is none; from ``process``, it is a
    record as any other."""


class FilterFunction(BaseFunction):
    """Returns whether the record goes on."""


class FlatMapFunction(BaseFunction):
    """Returns many records: a list, a generator, or ``None`` for no records. It may hand over records with
    :meth:`collect` too; they come after those that it returns."""

    _collector: Collector | None = None
    """``None`` means that no flatmap has run the function yet."""

    def collect(self, record: Any) -> None:
        """Hands over one record, while the function runs in a flatmap."""
        if self._collector is None or not self._collector.add(record):
            raise InvalidRequest(f"{type(self).__name__}: collect() works only while the function runs in a flatmap")


class KeyByFunction(BaseFunction):
    """Returns the record's key: a text, a number, a tuple of them."""


class BaseCoMapFunction(BaseFunction):
    """One method for each of the connected streams: ``map0(record)``, ``map1(record)`` and so on. Each returns the new
    record; ``None`` means that there is none."""


class BaseJoinFunction(BaseFunction):
    """``execute(record, key, stream)`` (or ``process``) for each record of connected streams with keys; ``stream`` is 0
    for the first one, 1 for the second. It returns many records, as a flatmap does, and keeps what it waits for itself:
    all records of a key come to the same instance."""


class SinkFunction(BaseFunction):
    """Takes the record; its result is dropped."""


class SourceFunction(BaseFunction):
    """Called without a record: returns the next one each time, and at the end ``None`` or a :class:`StopSignal`."""


class BatchFunction(SourceFunction):
    """A source whose records come to an end. It may have ``get_data_iterator()``, which returns all of them, instead of
    ``execute``."""


class StopSignal:
    """What a source returns in place of a record to say that there are no more. ``name`` is for messages."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"StopSignal({self.name!r})"

"""The names that upstream SAGE has for the functions of each kind of stage. All are :class:`BaseFunction`: the stage
decides what a function is used for."""

from __future__ import annotations

from sage.api.function.base_function import BaseFunction


class MapFunction(BaseFunction):
    """Returns the new record."""


class FilterFunction(BaseFunction):
    """Returns whether the record goes on."""


class FlatMapFunction(BaseFunction):
    """Returns many records: a list, a generator, or ``None`` for no records."""


class KeyByFunction(BaseFunction):
    """Returns the record's key: a text, a number, a tuple of them."""


class SinkFunction(BaseFunction):
    """Takes the record; its result is dropped."""


class SourceFunction(BaseFunction):
    """Called without a record: returns the next one each time, and ``None`` at the end."""

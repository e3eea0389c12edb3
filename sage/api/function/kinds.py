"""The names that upstream SAGE has for functions of each kind of stage. All are :class:`BaseFunction`; what a function
is for, the stage says that it is given to."""

from __future__ import annotations

from sage.api.function.base_function import BaseFunction


class MapFunction(BaseFunction):
    """Gives the new record."""


class FilterFunction(BaseFunction):
    """Gives whether the record goes on."""


class FlatMapFunction(BaseFunction):
    """Gives many records: a list, a generator, or ``None`` for none."""


class KeyByFunction(BaseFunction):
    """Gives the record's key: a text, a number, a tuple of them."""


class SinkFunction(BaseFunction):
    """Takes the record; what it gives goes nowhere."""


class SourceFunction(BaseFunction):
    """Without a record: gives the next one each time, at last ``None``."""

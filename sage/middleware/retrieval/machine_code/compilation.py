"""Plain functions made into machine code by numba, on a thread of its own.

Numba is an optional package, and compiling takes seconds: until that is done, other code gives the same answers.
Nothing is written to disk, because what is read back from there would be unpickled.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Generic, TypeVar

from sage.errors import MissingExtra

_logger = logging.getLogger(__name__)
ENOUGH_SEARCHES = 20
"""Searches that would have been faster, after which the compiler starts: a program that searches once and ends does not
wait for it."""
FAST = {"reassoc", "contract", "nsz"}
"""For sums whose last digits do not matter: several numbers are added at a time."""
Kernels = TypeVar("Kernels")
Entry = tuple[Callable[..., Any], Any]
"""A function that Python calls, and its signature."""


def is_compiler_installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def load_numba() -> Any:
    """Raises :class:`sage.errors.MissingExtra`."""
    try:
        import numba
    except ImportError as exc:
        raise MissingExtra("compiled search kernels", "numba") from exc
    return numba


def compiled(
    entries: Sequence[Entry], called: Sequence[Callable[..., Any]], names: Mapping[str, Any], fast: bool = False
) -> list[Callable[..., Any]]:
    """The entries as machine code. ``called`` are all functions that they call, each after those that it calls itself;
    ``names`` are the globals that all of these use. ``fast``: see :data:`FAST`."""
    numba = load_numba()
    options: dict[str, Any] = {"nogil": True, "fastmath": FAST if fast else False}
    namespace = dict(names)
    for function in called:  # compiled functions can call only compiled ones
        copied = FunctionType(function.__code__, namespace, function.__name__)
        namespace[function.__name__] = numba.njit(**options)(copied)
    return [
        numba.njit([signature], **options)(FunctionType(entry.__code__, namespace, entry.__name__))
        for entry, signature in entries
    ]


class Compilation(Generic[Kernels]):
    """Machine code that comes into being once enough searches have asked for it. Safe to use from several threads."""

    def __init__(self, name: str, build: Callable[[], Kernels]) -> None:
        self.kernels: Kernels | None = None
        """``None`` until it is compiled."""
        self._build = build
        self._requests = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._compile, name=name)

    def request(self) -> None:
        """Counts a search that would be faster; the last of :data:`ENOUGH_SEARCHES` starts the compiler."""
        with self._lock:
            self._requests += 1
            if self._requests == ENOUGH_SEARCHES:
                self._thread.start()

    def _compile(self) -> None:
        try:
            self.kernels = self._build()
        except Exception:  # a numba that does not fit: the answers are the same, only slower
            _logger.warning("a search kernel was not compiled; searches go on without it", exc_info=True)

    def wait(self) -> None:
        """Waits until compiling is done, and starts it if need be."""
        while self._requests < ENOUGH_SEARCHES:
            self.request()
        self._thread.join()

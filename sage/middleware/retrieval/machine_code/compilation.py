"""Plain functions made into machine code by numba, on a thread of its own.

Numba is an optional package, and compiling takes seconds: until that is done, other code gives the same answers. The
next process finds the machine code on disk: see :mod:`sage.middleware.retrieval.machine_code.kept_code`.
"""

from __future__ import annotations

import importlib.util
import logging
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Generic, TypeVar

from sage.errors import MissingExtra
from sage.middleware.retrieval.machine_code.kept_code import KeptCode

_logger = logging.getLogger(__name__)
ENOUGH_SEARCHES = 20
"""Searches that would have been faster, after which the compiler starts: a program that searches once and ends does not
wait for it."""
ENOUGH_WHEN_KEPT = 2
"""The same where the machine code was kept, and takes half a second to load."""
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
    entries: Sequence[Entry],
    called: Sequence[Callable[..., Any]],
    names: Mapping[str, Any],
    kept: KeptCode,
    fast: bool = False,
) -> list[Callable[..., Any]]:
    """The entries as machine code, from ``kept`` where that has it. ``called`` are all functions that they call, each
    after those that it calls itself; ``names`` are the globals that all of these use. ``fast``: see :data:`FAST`."""
    numba = load_numba()
    options: dict[str, Any] = {"nogil": True, "fastmath": FAST if fast else False}
    namespace = dict(names)
    for function in called:  # compiled functions can call only compiled ones
        copied = FunctionType(function.__code__, namespace, function.__name__)
        namespace[function.__name__] = numba.njit(**options)(copied)
    dispatchers = []
    with kept.turn():
        for entry, signature in entries:
            dispatcher = numba.njit(**options)(FunctionType(entry.__code__, namespace, entry.__name__))
            dispatcher._cache = _KeptResults(kept, entry.__name__)
            dispatcher.compile(signature)
            dispatcher.disable_compile()
            dispatchers.append(dispatcher)
    return dispatchers


class _KeptResults:
    """What numba asks before it compiles a function, and gives the result to, in place of its own files: those are
    unpickled whoever wrote them, and end the search when they are cut."""

    def __init__(self, kept: KeptCode, function: str) -> None:
        self._kept = kept
        self._function = function

    def load_overload(self, signature: Any, target: Any) -> Any:
        """``None`` means that it is to be compiled."""
        target.refresh()
        content = self._kept.read(self._function, (signature, target.codegen().magic_tuple()))
        if content is None:
            return None
        try:
            return load_numba().core.compiler.CompileResult._rebuild(target, *pickle.loads(content))  # noqa: S301
        except Exception:  # another numba's in spite of its version
            _logger.info("the machine code of %s is made anew", self._function, exc_info=True)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            content = load_numba().core.serialize.dumps(result._reduce())
        except Exception:
            _logger.info("the machine code of %s cannot be kept", self._function, exc_info=True)
        else:
            self._kept.write(self._function, (signature, result.codegen.magic_tuple()), content)


class Compilation(Generic[Kernels]):
    """Machine code that comes into being once enough searches have asked for it. Safe to use from several threads."""

    def __init__(self, name: str, build: Callable[[], Kernels], kept: Callable[[], KeptCode]) -> None:
        self.kernels: Kernels | None = None
        """``None`` until it is compiled."""
        self._build = build
        self._kept = kept
        self._requests = 0
        self._has_started = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._compile, name=name)

    def request(self) -> None:
        """Counts a search that would be faster; the last of :data:`ENOUGH_SEARCHES` starts the compiler, or an earlier
        one where the code was kept."""
        with self._lock:
            self._requests += 1
            if self._has_started:
                return
            if self._requests == ENOUGH_SEARCHES or (self._requests == ENOUGH_WHEN_KEPT and self._kept().is_whole):
                self._start()

    def _start(self) -> None:
        self._has_started = True
        self._thread.start()

    def _compile(self) -> None:
        try:
            self.kernels = self._build()
        except Exception:  # a numba that does not fit: the answers are the same, only slower
            _logger.warning("a search kernel was not compiled; searches go on without it", exc_info=True)

    def wait(self) -> None:
        """Waits until compiling is done, and starts it if need be."""
        with self._lock:
            if not self._has_started:
                self._start()
        self._thread.join()

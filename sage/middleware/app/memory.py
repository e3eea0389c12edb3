"""What the server asks of the allocator of memory, and of the collector of cycles."""

from __future__ import annotations

import contextlib
import gc

_M_MMAP_THRESHOLD = -3
_LARGE = 8 * 2**20  # bytes
_CROWD = 200
"""Connections. What fewer of them took is not worth the milliseconds of giving it back."""
_SETTLED = 5
"""Looks after the end of a crowd: connections to upstreams are kept for some seconds."""


def give_back_large_blocks() -> None:
    """Lets large blocks, such as the bodies of requests, go back to the system as soon as they are free.

    By itself glibc takes blocks of up to 32 MiB from its heaps once it has seen a few, and these do not shrink while
    anything small lies behind them: a hundred large requests would leave hundreds of MiB. Where there is another
    allocator, nothing is done. Source: mallopt(3).
    """
    import ctypes

    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
    except (AttributeError, OSError, TypeError):
        return


def leave_alone_what_lives() -> None:
    """Objects from start-up live as long as the process: the collector need not look at them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class UnusedMemory:
    """Gives memory back to the system when most connections of a crowd have gone.

    glibc keeps what is free within its heaps, a quarter of what streams take. The rest is in blocks of Python's own,
    which serve the next crowd: Python frees them only when nothing at all is left in them. Source: malloc_trim(3).
    """

    def __init__(self) -> None:
        self._most = 0
        self._looks = 0

    def look(self, connections: int) -> None:
        """To be called once a second, with how many there are."""
        if self._looks:
            self._looks -= 1
            if not self._looks:
                _trim()
        self._most = max(self._most, connections)
        if self._most >= _CROWD and connections <= self._most // 4:
            self._most, self._looks = connections, _SETTLED


def _trim() -> None:
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

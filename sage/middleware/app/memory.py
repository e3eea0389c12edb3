"""What the server asks of the allocator of memory, and of the collector of cycles."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 8 * 2**20
"""Bytes of a block that is the system's again as soon as it is free."""
_KEPT = 64 * 2**20
"""Bytes that are free at the end of the heap, and stay for the next bodies of requests: to have a megabyte's pages made
anew for each of their copies took a quarter of the time of a prompt of 1 MB."""
_UNUSED = 8 * 2**20
"""Bytes that are free at the end of the heap for some seconds and go back to the system then."""
_STILL = 3
"""Looks, one a second."""
_CROWD = 200
"""Connections. What fewer of them took is not worth the milliseconds of giving it back."""
_SETTLED = 5
"""Looks after the end of a crowd: connections to upstreams are kept for some seconds."""
_MALLINFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


def prepare_for_large_blocks() -> None:
    """Has the allocator keep some large blocks, such as the bodies of requests, and give others back at once.

    By itself glibc takes blocks of up to 32 MiB from its heaps once it has seen a few, and these do not shrink while
    anything small lies behind them: a hundred large requests would leave hundreds of MiB. Where there is another
    allocator, nothing is done. Source: mallopt(3).
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def leave_alone_what_lives() -> None:
    """Objects from start-up live as long as the process: the collector need not look at them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    _trim()


class UnusedMemory:
    """Gives memory back to the system when most connections of a crowd have gone, and when large bodies have.

    glibc keeps what is free within its heaps, a quarter of what streams take. The rest is in blocks of Python's own,
    which serve the next crowd: Python frees them only when nothing at all is left in them. Source: malloc_trim(3).
    """

    def __init__(self) -> None:
        self._most = 0
        self._looks = 0
        self._unused = 0
        """Looks that have found much free memory, one after the other."""
        self._free_at_end = _free_at_end()

    def look(self, connections: int) -> None:
        """To be called once a second, with how many there are."""
        self._unused = self._unused + 1 if self._free_at_end() > _UNUSED else 0
        if self._looks:
            self._looks -= 1
        if self._unused == _STILL or self._looks == 1:
            self._unused = 0
            _trim()
        self._most = max(self._most, connections)
        if self._most >= _CROWD and connections <= self._most // 4:
            self._most, self._looks = connections, _SETTLED + 1


def _free_at_end() -> Callable[[], int]:
    """What tells how many bytes are free at the end of the heap; 0 with another allocator. Source: mallinfo(3)."""
    import ctypes

    class Info(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO)
        keepcost: int

    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return lambda: 0
    mallinfo2.restype = Info

    def free() -> int:
        info: Info = mallinfo2()
        return info.keepcost

    return free


def _trim() -> None:
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

"""What the server asks of the allocator of memory."""

from __future__ import annotations

_M_MMAP_THRESHOLD = -3
_LARGE = 8 * 2**20  # bytes


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

"""How the process keeps memory that was freed."""

import ctypes
import functools

ARENAS = 2
MAPPED_BYTES = 1024 * 1024
"""A buffer of this size is mapped for itself, and so given back when it is freed."""

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""As in malloc.h of glibc."""


@functools.cache
def keep_little() -> None:
    """
    Have glibc keep little of what was freed; another C library is left alone.

    By itself it keeps tens of megabytes for each thread that ever had a large buffer, since it
    counts those as usual from then on. Compaction has such buffers in every thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)

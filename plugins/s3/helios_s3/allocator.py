"""Settings of glibc's memory allocator."""

import ctypes
import functools

ARENAS = 2
MAPPED_BYTES = 1024 * 1024
"""Buffers of this size are mapped separately, and returned to the system when they are freed."""

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""As in malloc.h of glibc."""


@functools.cache
def return_freed_memory() -> None:
    """
    Make glibc return freed memory to the system; do nothing with other C libraries.

    By default, glibc keeps tens of megabytes for each thread that ever had a large buffer, since
    it then expects more of that size. Compaction has such buffers in every thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)

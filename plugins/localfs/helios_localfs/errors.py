"""Errors of the operating system, explained to operators."""

import errno
from types import MappingProxyType

import structlog

from helios_core import BackendUnavailable

_CONDITIONS = MappingProxyType(
    {
        errno.ENOSPC: "is out of space; free some or move it to a larger disk",
        errno.EDQUOT: "has used up its disk quota; raise the quota or free space",
        errno.EFBIG: "cannot hold a file that large; lower HFS_BULK_EXPORT_PART_BYTES"
        " or raise the file size limit",
        errno.EROFS: "is on a file system mounted read-only; mount it writable",
        errno.EACCES: "may not be written by the server's user; change its permissions",
        errno.EPERM: "may not be written by the server's user; change its permissions",
        errno.EIO: "is on a disk that reports errors; check the disk",
        errno.ESTALE: "is on a network file system that lost it; mount it again",
        errno.EMFILE: "cannot be used: too many open files; raise the limit (ulimit -n)",
        errno.ENFILE: "cannot be used: too many open files on this machine",
        errno.ENOTDIR: "is not a folder; move the file with its name away",
    }
)
_RACES = MappingProxyType(
    {
        errno.ENOENT: "no longer has the folder of this job; it was removed meanwhile",
        errno.ENOTEMPTY: "still holds files of this job; the next sweep tries again",
        errno.EEXIST: "already has a draft of this part; another attempt is writing it",
    }
)


def meaning(error: OSError) -> str:
    """Return what is wrong with the output folder, as a clause without a path."""
    known = _CONDITIONS.get(error.errno or 0)
    return known or f"cannot be used: {error.strerror or type(error).__name__}"


def unavailable(error: OSError) -> BackendUnavailable:
    """
    Return the error to raise instead of an OSError, which is logged with its path.

    Errors that only mean that the job is being deleted are not logged.
    """
    race = _RACES.get(error.errno or 0)
    if race is None:
        structlog.get_logger().warning(
            "output.failed",
            path=error.filename,
            errno=errno.errorcode.get(error.errno or 0),
            reason=error.strerror,
        )
    return BackendUnavailable(f"the output folder {race or meaning(error)}")

"""Ownership of a folder: two job stores in one folder would remove each other's exports."""

import errno
import os
import secrets
from pathlib import Path

from helios_core import ConfigurationError
from helios_localfs.errors import meaning
from helios_localfs.files import sync_folder
from helios_localfs.layout import OWNER_MARK, subfolders

_SETTING = "HFS_BULK_EXPORT_OUTPUT_DIR"


def claim(root: Path, owner: str) -> None:
    """
    Mark a folder as belonging to `owner`; create it if it does not exist.

    Raises:
        ConfigurationError: It belongs to another owner, holds other folders, lies in another
            output folder, or cannot be written to.
    """
    try:
        _refuse_folder_of_others(root)
        _create(root)
        found = _mark(root, owner)
    except OSError as error:
        raise ConfigurationError(
            f"the output folder {root} {meaning(error)}; make it writable,"
            f" or set {_SETTING} to a folder that is"
        ) from error
    if found != owner:
        raise ConfigurationError(
            f"the output folder {root} belongs to job store {found}, but this server uses job"
            f" store {owner}; set {_SETTING} to another folder"
        )


def _create(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def _mark(root: Path, owner: str) -> str:
    mark = root / OWNER_MARK
    if not mark.exists():
        _refuse_folders_of_others(root)
    # A hard link to a finished file makes the mark appear with its content, and succeeds for
    # only one of several processes. Writing the file at every start proves that the folder is
    # writable.
    proposal = root / f"{OWNER_MARK}.{secrets.token_hex(8)}"
    try:
        _write(proposal, owner)
        try:
            os.link(proposal, mark)
        except FileExistsError:
            return mark.read_text(encoding="utf-8").strip()
    finally:
        proposal.unlink(missing_ok=True)
    sync_folder(root)
    return owner


def _refuse_folder_of_others(root: Path) -> None:
    # The server that owns the outer folder would remove files of this one.
    for folder in root.resolve().parents:
        if (folder / OWNER_MARK).exists():
            raise ConfigurationError(
                f"the output folder {root} lies in the output folder {folder} of another server,"
                f" which removes files it does not know; set {_SETTING} to a folder outside of it"
            )


def _refuse_folders_of_others(root: Path) -> None:
    # Every folder at the second level counts as a job, and unknown jobs are removed.
    others = subfolders(root)
    if others and not (root / OWNER_MARK).exists():
        raise ConfigurationError(
            f"the output folder {root} holds folders that no Helios server made"
            f" ({len(others)}, the first is {others[0]}); set {_SETTING} to an empty folder"
        )


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{text}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""
The folder of an export, and the state in it with which an interrupted export is resumed.

While an export is unfinished, its folder has a subfolder `.helios-export`:

- `state.json`: what was requested, and the status URL once the server has accepted it,
- `parts/NAME`: the bytes of a file that have arrived, in the content coding of the response,
- `marks/NAME`: how many of them have been synced to disk, and of which version of the file,
- `new/NAME`: a file that is about to get its name.

A complete file gets its name in the folder itself. State, marks and complete files appear by
renaming, so that each is complete or absent, whenever the process or the machine stops.
"""

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from helios_core.client.documents import decode_json
from helios_core.client.kickoff import ClientRequest
from helios_core.errors import ConfigurationError

STATE_FOLDER = ".helios-export"
_STATE = "state.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FileCompression(StrEnum):
    """How files are stored on disk."""

    KEEP = "keep"
    """As the server sends them, with `.gz` appended if that is gzip."""
    NONE = "none"
    ZSTD = "zstd"
    """With `.zst` appended."""

    def path(self, plain: Path, coding: str) -> Path:
        """Return the path of a file that was sent in a content coding."""
        suffix = {
            FileCompression.KEEP: ".gz" if coding == "gzip" else "",
            FileCompression.ZSTD: ".zst",
        }
        return plain.with_name(plain.name + suffix.get(self, ""))

    def keeps(self, coding: str) -> bool:
        """Return whether a file that was sent in a content coding is stored byte for byte."""
        return self is FileCompression.KEEP or (
            self is FileCompression.NONE and coding == "identity"
        )


class ExportState(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to resume an export; of headers, only the tenant's value is stored."""

    version: int = 1
    request: ClientRequest
    header_names: tuple[str, ...] = ()
    """Headers that have to be passed again."""
    credentials: Mapping[str, str] = {}
    """The source of the credentials; see `Credentials.origin`."""
    compression: FileCompression = FileCompression.NONE
    status_url: str | None = None
    """None until the server has accepted the export."""


class PartMark(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of one download."""

    etag: str
    coding: str
    synced: int
    """Bytes that survive a power cut."""
    boot: str
    """The id of the current boot; bytes after `synced` are valid until the next boot."""


class ExportFolder:
    """The folder of one export, locked against other processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_folder = path / STATE_FOLDER

    @classmethod
    @contextmanager
    def create(cls, path: Path, state: ExportState) -> Iterator["ExportFolder"]:
        """
        Make a folder for a new export and lock it during the context.

        A folder that is created here is for the user alone, because the files are patient data.
        If it is empty at the end, because nothing was exported, it is removed.

        Raises:
            ConfigurationError: It is not empty, for example because of another export.
            OSError: It cannot be written to.
        """
        folder, is_new = cls(path), not path.exists()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if has_state(path):
            raise ConfigurationError(
                f"{path} holds an unfinished export; go on with: {resume_command(path)}\n"
                f"or delete it, here and on the server: {resume_command(path)} --discard"
            )
        if any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise ConfigurationError(
                f"{path} is not empty. Files of two exports in one folder cannot be told apart; "
                "choose an empty folder or one that does not exist"
            )
        for name in ("parts", "marks", "new"):
            (folder.state_folder / name).mkdir(parents=True, exist_ok=True)
        try:
            with folder._locked():
                folder.save(state)
                yield folder
        finally:
            if is_new:
                with suppress(OSError):  # it has files
                    path.rmdir()

    @classmethod
    @contextmanager
    def reopen(cls, path: Path) -> Iterator[tuple["ExportFolder", ExportState]]:
        """
        Lock the folder of an unfinished export during the context, and read its state.

        Raises:
            ConfigurationError: There is no unfinished export, or another process holds the lock.
        """
        folder = cls(path)
        if not has_state(path):
            raise ConfigurationError(
                f"{path} holds no unfinished export; start one with: helios export URL --to FOLDER"
            )
        with folder._locked():
            yield folder, folder.read()

    def save(self, state: ExportState) -> None:
        """Replace the state."""
        write_atomically(self.state_folder / _STATE, msgspec.json.encode(state))

    def part(self, name: str) -> Path:
        """Return the path of a file's bytes until all have arrived."""
        return self.state_folder / "parts" / name

    def mark(self, name: str) -> Path:
        """Return the path of the mark with a download's progress."""
        return self.state_folder / "marks" / name

    def new(self, name: str) -> Path:
        """Return the path of a file that is being recompressed, until it is complete."""
        return self.state_folder / "new" / name

    def close(self) -> None:
        """Remove the state, so that there is nothing to resume."""
        # Removed first, so that a folder that is removed only in part is not resumed.
        (self.state_folder / _STATE).unlink(missing_ok=True)
        shutil.rmtree(self.state_folder, ignore_errors=True)

    def read(self) -> ExportState:
        """
        Return the state.

        Raises:
            ConfigurationError: It is damaged, or of another version of this command.
        """
        path = self.state_folder / _STATE
        try:
            return decode_json(path.read_bytes(), ExportState)
        except msgspec.DecodeError as error:
            raise ConfigurationError(
                f"{path} cannot be read ({error}); export into another folder"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock, which also ends when the process is killed."""
        with (self.state_folder / "lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(
                    f"another helios export is running in {self.path}; wait until it has ended"
                ) from None
            yield


def has_state(path: Path) -> bool:
    """Return whether a folder holds an unfinished export."""
    return (path / STATE_FOLDER / _STATE).is_file()


def is_accepted(path: Path) -> bool:
    """Return whether a folder holds an unfinished export that the server has accepted."""
    return has_state(path) and ExportFolder(path).read().status_url is not None


def resume_command(path: Path) -> str:
    """Return the command that resumes the export in a folder."""
    return f"helios export --resume {shlex.quote(str(path))}"


def needs_headers(state: ExportState, headers: Mapping[str, str]) -> list[str]:
    """Return the names of headers that were sent before and are missing now."""
    passed = {name.lower() for name in headers}
    return [name for name in state.header_names if name.lower() not in passed]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it exists completely or not at all, even after a power cut."""
    # No file of an export has a name that begins with a dot, so this name is free.
    new = path.with_name(f".{path.name}")
    with new.open("wb") as file:
        file.write(content)
    publish(new, path)


def publish(new: Path, path: Path) -> None:
    """Sync a file to disk and give it its name."""
    descriptor = os.open(new, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def boot_id() -> str:
    """Return the id of this boot of the machine; empty on systems without one."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""

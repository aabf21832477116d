"""Files to load: which there are, and the JSON bodies in them, read as a stream."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from io import BufferedIOBase, BufferedReader, FileIO
from itertools import chain, islice
from pathlib import Path

import msgspec
from isal import igzip
from isal.igzip_lib import IsalError

CHUNK_BODIES = 1000
CHUNK_BYTES = 4 * 1024 * 1024
BUFFER_BYTES = 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"
LINE_SUFFIXES = (".ndjson", ".jsonl")
SUFFIXES = (*LINE_SUFFIXES, ".json")


class InputDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One line of NDJSON, or the whole of a file that is a single document."""

    path: str
    line: int | None
    """From 1; None for a single document."""
    content: bytes = b""
    unreadable: str | None = None
    """Why the file could not be read from here on; the content is then empty."""


class InputChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Some bodies in a row, perhaps of several files."""

    bodies: Sequence[InputDocument]
    bytes_done: int
    """Bytes on disk read so far, of all files."""


class FoundFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of paths comes to."""

    paths: tuple[Path, ...]
    """Files in the order they will be loaded, each once."""
    skipped: int
    """Files in folders that are not called .json, .ndjson or .jsonl, with or without .gz."""
    size: int
    """Bytes on disk."""


def find_files(paths: Iterable[Path]) -> FoundFiles:
    """Give the named files and, sorted, those in the named folders; hidden ones are left out."""
    found: dict[Path, None] = {}
    skipped = 0
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        for inner in sorted(path.rglob("*")):
            if any(name.startswith(".") for name in inner.relative_to(path).parts):
                continue
            if _plain_name(inner).endswith(SUFFIXES):
                found[inner] = None
            else:
                skipped += inner.is_file()
    size = sum(path.stat().st_size for path in found if path.is_file())
    return FoundFiles(paths=tuple(found), skipped=skipped, size=size)


def read_chunks(files: FoundFiles) -> Generator[InputChunk]:
    """
    Read all files, a bounded number of bodies at a time.

    NDJSON is never held as a whole; a single document is.
    """
    bodies: list[InputDocument] = []
    size = bytes_before = 0
    for path in files.paths:
        position = 0
        for position, body in _read(path):
            bodies.append(body)
            size += len(body.content)
            if len(bodies) >= CHUNK_BODIES or size >= CHUNK_BYTES:
                yield InputChunk(bodies=bodies, bytes_done=bytes_before + position)
                bodies, size = [], 0
        bytes_before += position
    yield InputChunk(bodies=bodies, bytes_done=files.size)


def _read(path: Path) -> Iterator[tuple[int, InputDocument]]:
    """Give each body with the position in the file on disk."""
    name, position, line = str(path), 0, None
    named_lines = _plain_name(path).endswith(LINE_SUFFIXES)
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(BufferedReader(FileIO(path), BUFFER_BYTES))
            plain = stack.enter_context(_unzipped(disk))
            for line, content in _bodies(plain, named_lines=named_lines):
                position = disk.tell()
                yield position, InputDocument(path=name, line=line, content=content)
        except (OSError, EOFError, IsalError) as error:  # type: ignore[misc]
            reason = f"the file cannot be read further: {_words(error)}"
            yield position, InputDocument(path=name, line=line, unreadable=reason)


def _unzipped(disk: "BufferedReader[FileIO]") -> BufferedIOBase:
    if not disk.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC):
        return disk
    file: BufferedIOBase = igzip.GzipFile(fileobj=disk)  # type: ignore[no-untyped-call]
    return file


def _bodies(file: BufferedIOBase, *, named_lines: bool) -> Iterator[tuple[int | None, bytes]]:
    lines = ((number, text) for number, line in enumerate(file, 1) if (text := line.strip()))
    first = list(islice(lines, 2))
    if named_lines or _are_lines([text for _, text in first]):
        yield from chain(first, lines)
    elif first:
        file.seek(0)
        yield None, file.read()


def _are_lines(first: Sequence[bytes]) -> bool:
    """Whether the first two lines can only be NDJSON: one of them alone is an object."""
    return len(first) > 1 and any(map(_is_object, first))


def _is_object(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _plain_name(path: Path) -> str:
    return path.name.lower().removesuffix(".gz")


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

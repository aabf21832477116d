"""The files to load, and the JSON documents in them, read as a stream."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from io import BufferedIOBase, BufferedReader, FileIO
from itertools import chain, islice
from pathlib import Path

import msgspec
from isal import igzip
from isal.igzip_lib import IsalError

CHUNK_DOCUMENTS = 1000
CHUNK_BYTES = 4 * 1024 * 1024
BUFFER_BYTES = 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"
LINE_SUFFIXES = (".ndjson", ".jsonl")
SUFFIXES = (*LINE_SUFFIXES, ".json")


class InputDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One line of NDJSON, or the content of a file that is a single document."""

    path: str
    line: int | None
    """Counted from 1; None for a single document."""
    content: bytes = b""
    unreadable: str | None = None
    """Why the file could not be read any further; the content is then empty."""


class InputChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive documents, possibly of several files."""

    documents: Sequence[InputDocument]
    bytes_done: int
    """Bytes on disk read so far from all files."""


class FoundFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files that a list of paths names."""

    paths: tuple[Path, ...]
    """Files in the order of loading, without repetition."""
    skipped: int
    """Files in folders whose names do not end in .json, .ndjson or .jsonl, with or without .gz."""
    size: int
    """Bytes on disk."""


def find_files(paths: Iterable[Path]) -> FoundFiles:
    """Return the named files and, sorted, those in the named folders except hidden ones."""
    files: dict[Path, None] = {}
    skipped = 0
    for path in paths:
        if not path.is_dir():
            files[path] = None
            continue
        for inner in sorted(path.rglob("*")):
            if any(name.startswith(".") for name in inner.relative_to(path).parts):
                continue
            if _plain_name(inner).endswith(SUFFIXES):
                files[inner] = None
            else:
                skipped += inner.is_file()
    size = sum(path.stat().st_size for path in files if path.is_file())
    return FoundFiles(paths=tuple(files), skipped=skipped, size=size)


def read_chunks(files: FoundFiles) -> Generator[InputChunk]:
    """
    Read all files, a bounded number of documents at a time.

    NDJSON is never in memory as a whole; a single document is.
    """
    documents: list[InputDocument] = []
    size = bytes_before = 0
    for path in files.paths:
        position = 0
        for position, document in _read(path):
            documents.append(document)
            size += len(document.content)
            if len(documents) >= CHUNK_DOCUMENTS or size >= CHUNK_BYTES:
                yield InputChunk(documents=documents, bytes_done=bytes_before + position)
                documents, size = [], 0
        bytes_before += position
    yield InputChunk(documents=documents, bytes_done=files.size)


def _read(path: Path) -> Iterator[tuple[int, InputDocument]]:
    """Yield each document with the position after it in the file on disk."""
    name, position, line = str(path), 0, None
    is_ndjson = _plain_name(path).endswith(LINE_SUFFIXES)
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(BufferedReader(FileIO(path), BUFFER_BYTES))
            plain = stack.enter_context(_decompress(disk))
            for line, content in _documents(plain, is_ndjson=is_ndjson):
                position = disk.tell()
                yield position, InputDocument(path=name, line=line, content=content)
        except (OSError, EOFError, IsalError) as error:  # type: ignore[misc]
            reason = f"the file cannot be read further: {_reason(error)}"
            yield position, InputDocument(path=name, line=line, unreadable=reason)


def _decompress(disk: "BufferedReader[FileIO]") -> BufferedIOBase:
    if not disk.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC):
        return disk
    file: BufferedIOBase = igzip.GzipFile(fileobj=disk)  # type: ignore[no-untyped-call]
    return file


def _documents(file: BufferedIOBase, *, is_ndjson: bool) -> Iterator[tuple[int | None, bytes]]:
    lines = ((number, text) for number, line in enumerate(file, 1) if (text := line.strip()))
    first = list(islice(lines, 2))
    if is_ndjson or _are_lines([text for _, text in first]):
        yield from chain(first, lines)
    elif first:
        file.seek(0)
        yield None, file.read()


def _are_lines(first: Sequence[bytes]) -> bool:
    """Return whether the first two lines can only be NDJSON: one of them is an object."""
    return len(first) > 1 and any(map(_is_object, first))


def _is_object(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _plain_name(path: Path) -> str:
    return path.name.lower().removesuffix(".gz")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

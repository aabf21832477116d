"""Find the files to load, and read the JSON documents in them as a stream."""

from codecs import BOM_UTF8
from collections.abc import Generator, Iterable, Iterator, Sequence
from io import FileIO
from itertools import chain, islice
from pathlib import Path

import msgspec
from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError
from xxhash import xxh3_128_hexdigest

CHUNK_DOCUMENTS = 2000
CHUNK_BYTES = 4 * 1024 * 1024
BUFFER_BYTES = 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"
LINE_SUFFIXES = (".ndjson", ".jsonl")
SUFFIXES = (*LINE_SUFFIXES, ".json")


class InputDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an NDJSON file, or the content of a file that is a single document."""

    path: str
    line: int | None
    """Counted from 1; None for a single document."""
    content: bytes = b""
    unreadable: str | None = None
    """Why the rest of the file cannot be read, with an empty content; None for a document."""

    @property
    def digest(self) -> str:
        """The hash of the content, equal for documents with the same content."""
        return xxh3_128_hexdigest(self.content)


class InputChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive documents, possibly of several files."""

    documents: Sequence[InputDocument]
    bytes_done: int
    """Bytes on disk read so far from all files."""


class FoundFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files that are named or lie in named folders."""

    paths: tuple[Path, ...]
    """Files in the order of loading, without repetition."""
    skipped: int
    """Files in folders whose names do not end in .json, .ndjson or .jsonl, with or without .gz."""
    size: int
    """Bytes on disk."""


def find_files(paths: Iterable[Path]) -> FoundFiles:
    """Return the named files and, sorted, the files in named folders, except hidden ones."""
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
    """Yield each document with the number of bytes on disk read so far."""
    name, line = str(path), None
    source = _Source(path)
    is_ndjson = _plain_name(path).endswith(LINE_SUFFIXES)
    try:
        for line, content in _documents(source, is_ndjson=is_ndjson):
            yield source.position, InputDocument(path=name, line=line, content=content)
    except _UNREADABLE as error:
        in_lines = line is not None or (is_ndjson and source.position > 0)
        yield (
            source.position,
            InputDocument(
                path=name,
                line=source.lines + 1 if in_lines else None,
                unreadable=f"the file cannot be read further: {_reason(error, source.position)}",
            ),
        )


class _UnreadableError(Exception):
    """The rest of a file cannot be read."""


_UNREADABLE: tuple[type[Exception], ...] = (OSError, IsalError, _UnreadableError)  # type: ignore[assignment]


class _Source:
    """The plain content of a file, compressed or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        """The bytes on disk read so far."""
        self.lines = 0
        """The newlines read so far."""

    def blocks(self) -> Iterator[bytes]:
        """
        Yield the content in blocks.

        Raises:
            _UnreadableError: The rest cannot be read; everything before it has been yielded.
        """
        with FileIO(self.path) as file:
            blocks = self._on_disk(file)
            first = next(blocks, b"")
            if first.startswith(GZIP_MAGIC):
                blocks = self._decompress(first, blocks)
                first = next(blocks, b"")
                if first.startswith(GZIP_MAGIC):
                    raise _UnreadableError("it is compressed twice; decompress it once")
            if _is_utf16(first):
                raise _UnreadableError(
                    "it seems to be UTF-16 or UTF-32; convert it to UTF-8, which JSON must be"
                )
            for block in chain([first], blocks):
                self.lines += block.count(b"\n")
                yield block

    def _on_disk(self, file: FileIO) -> Iterator[bytes]:
        while block := file.read(BUFFER_BYTES):
            self.position += len(block)
            yield block

    def _decompress(self, rest: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Decompress the members of a gzip file, skipping zero padding between and after them."""
        while rest:
            if not rest.startswith(GZIP_MAGIC):
                raise _UnreadableError(
                    "what follows the compressed data is not gzip, from byte "
                    f"{self.position - len(rest)} on; the compressed data were read to their end"
                )
            member = IgzipDecompressor(flag=DECOMP_GZIP)
            while not member.eof:
                if not rest and member.needs_input and not (rest := next(blocks, b"")):
                    raise _UnreadableError(
                        f"the compressed data were cut off after byte {self.position}; what "
                        "is complete before the cut was read"
                    )
                plain = member.decompress(rest, BUFFER_BYTES)
                rest = b""
                if plain:
                    yield plain
            rest = bytes(member.unused_data).lstrip(b"\0")
            while len(rest) < len(GZIP_MAGIC) and (more := next(blocks, b"")):
                rest = (rest + more).lstrip(b"\0")


def _is_utf16(start: bytes) -> bool:
    return start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]


def _documents(source: _Source, *, is_ndjson: bool) -> Iterator[tuple[int | None, bytes]]:
    lines = (
        (number, text)
        for number, line in enumerate(_lines(source.blocks()), 1)
        if (text := _stripped(line))
    )
    first = [] if is_ndjson else list(islice(lines, 2))
    if is_ndjson or _are_lines([text for _, text in first]):
        yield from chain(first, lines)
    elif first:
        lines.close()
        source.position = source.lines = 0
        content = list[bytes]()
        try:
            content.extend(source.blocks())
        except _UNREADABLE:
            if _is_object(text := _stripped(b"".join(content))):
                yield None, text
            raise
        yield None, _stripped(b"".join(content))


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines; if an error ends them, the last one only if it is a complete JSON object."""
    started = list[bytes]()
    try:
        for block in blocks:
            end, *others = block.split(b"\n")
            started.append(end)
            if others:
                yield b"".join(started)
                yield from others[:-1]
                started = [others[-1]]
    except _UNREADABLE:
        if _is_object(last := b"".join(started)):
            yield last
        raise
    yield b"".join(started)


def _stripped(text: bytes) -> bytes:
    """Return text without surrounding white space and without a byte order mark at its start."""
    text = text.strip()
    return text[len(BOM_UTF8) :].lstrip() if text[:3] == BOM_UTF8 else text


def _are_lines(first: Sequence[bytes]) -> bool:
    """Return whether the first two lines show that a file is NDJSON: one of them is an object."""
    return len(first) > 1 and any(map(_is_object, first))


def _is_object(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _plain_name(path: Path) -> str:
    return path.name.lower().removesuffix(".gz")


def _reason(error: Exception, position: int) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, _UnreadableError):
        return str(error)
    return f"the compressed data are damaged before byte {position}: {error}"

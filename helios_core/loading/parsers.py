"""Parse files in processes of their own, while this one writes the resources."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TypeAlias

import msgspec

from helios_core.errors import BackendUnavailable
from helios_core.fhir.resources import Resource
from helios_core.loading.inputs import FoundFiles, InputChunk, read_chunks
from helios_core.loading.intake import Intake, ParsedChunk, UnresolvedLink
from helios_core.loading.resources import LoadOptions, LoadProblem
from helios_core.storage.data_provider import Delete, Put

PARALLEL_BYTES = 32 * 1024 * 1024
"""The size on disk, in bytes, from which starting processes pays off."""
MAX_PROCESSES = 4
"""More processes would be idle, since there is one writer."""

_Pipe: TypeAlias = "Connection[bytes, bytes]"


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """Changes as MessagePack; pickle takes three times as long to write and read them."""

    changes: list[Resource | tuple[str, str]]
    """A resource to put, or the type and id of one to delete."""
    problems: Sequence[LoadProblem]
    unresolved: Sequence[UnresolvedLink]
    bytes_done: int


_CHUNK = msgspec.msgpack.Decoder(InputChunk)
_PACKED = msgspec.msgpack.Decoder(_Packed)


def parse_files(options: LoadOptions, files: FoundFiles) -> Generator[ParsedChunk]:
    """
    Read and parse files, in order.

    Large files are parsed in other processes: within one process, parsing and writing would take
    turns, because the parsing thread holds the interpreter lock.

    Raises:
        BackendUnavailable: A process was killed.
    """
    chunks = read_chunks(files)
    processes = min(MAX_PROCESSES, (os.cpu_count() or 1) - 1)
    if files.size < PARALLEL_BYTES or processes < 1:
        intake = Intake(options)
        yield from map(intake.parse_chunk, chunks)
        return
    try:
        for packed in _parse_in_parallel(options, chunks, processes):
            yield _unpack(packed)
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise BackendUnavailable(
            "a parsing process was killed, perhaps for lack of memory; load again: what has been "
            "written stays and is not written twice"
        ) from error


def _parse_in_parallel(
    options: LoadOptions, chunks: Iterator[InputChunk], processes: int
) -> Iterator[bytes]:
    with ExitStack() as stack:
        idle = [stack.enter_context(_parser(options)) for _ in range(processes)]
        busy: deque[_Pipe] = deque()
        for chunk in chunks:
            if idle:
                parser, done = idle.pop(), b""
            else:
                # Receive before sending: if both ends sent, each would wait for the other.
                parser = busy.popleft()
                done = _receive(parser)
            parser.send_bytes(msgspec.msgpack.encode(chunk))
            busy.append(parser)
            if done:
                yield done
        for parser in busy:
            yield _receive(parser)


def _receive(parser: _Pipe) -> bytes:
    try:
        return parser.recv_bytes()
    except OSError as error:
        # The process may also end in the middle of a message.
        raise EOFError from error


@contextmanager
def _parser(options: LoadOptions) -> Iterator[_Pipe]:
    """Run a parsing process, which ends when the connection is closed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_parse_all, args=(options, theirs), daemon=True)
    with theirs:
        process.start()
    try:
        with ours:
            yield ours
    finally:
        process.join()


def _parse_all(options: LoadOptions, chunks: _Pipe) -> None:
    # Ctrl-C interrupts every process of the terminal; the one that writes decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    intake = Intake(options)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError), chunks:
        while True:
            chunks.send_bytes(_parse(intake, chunks.recv_bytes()))


def _parse(intake: Intake, chunk: bytes) -> bytes:
    parsed = intake.parse_chunk(_CHUNK.decode(chunk))
    packed = _Packed(
        changes=[
            change.resource if isinstance(change, Put) else (change.resource_type, change.id)
            for change in parsed.changes
        ],
        problems=parsed.problems,
        unresolved=parsed.unresolved,
        bytes_done=parsed.bytes_done,
    )
    return msgspec.msgpack.encode(packed)


def _unpack(content: bytes) -> ParsedChunk:
    packed = _PACKED.decode(content)
    return ParsedChunk(
        changes=[
            Put(resource=change)
            if isinstance(change, Resource)
            else Delete(resource_type=change[0], id=change[1])
            for change in packed.changes
        ],
        problems=packed.problems,
        unresolved=packed.unresolved,
        bytes_done=packed.bytes_done,
    )

"""Processes that parse what is loaded, beside the one that writes it."""

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
from helios_core.loading.intake import LoadOptions, LoadProblem, ParsedChunk, parse_chunk
from helios_core.storage.data_provider import Delete, Put

PARALLEL_BYTES = 32 * 1024 * 1024
"""From how many bytes on disk it pays to start processes."""
MAX_PROCESSES = 4
"""One writer keeps no more than these busy."""

_Pipe: TypeAlias = "Connection[bytes, bytes]"


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """Changes as bytes of MessagePack, which pickle takes three times as long to make and read."""

    changes: list[Resource | tuple[str, str]]
    """A resource to put, or the type and id of one to delete."""
    problems: Sequence[LoadProblem]
    unresolved: Sequence[tuple[str, str]]
    bytes_done: int


_CHUNK = msgspec.msgpack.Decoder(InputChunk)
_PACKED = msgspec.msgpack.Decoder(_Packed)


def parse_files(intake: LoadOptions, files: FoundFiles) -> Generator[ParsedChunk]:
    """
    Read and parse files, in order.

    Large ones are parsed in other processes: in one process the thread that parses would keep the
    interpreter lock from the one that writes, and the two would take turns.

    Raises:
        BackendUnavailable: A process was ended from outside.
    """
    chunks = read_chunks(files)
    processes = min(MAX_PROCESSES, (os.cpu_count() or 1) - 1)
    if files.size < PARALLEL_BYTES or processes < 1:
        yield from (parse_chunk(intake, chunk) for chunk in chunks)
        return
    try:
        for packed in _parsed(intake, chunks, processes):
            yield _unpacked(packed)
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise BackendUnavailable(
            "a process that parses has ended, perhaps for lack of memory; load again: what has"
            " been written stays and is not written twice"
        ) from error


def _parsed(intake: LoadOptions, chunks: Iterator[InputChunk], processes: int) -> Iterator[bytes]:
    with ExitStack() as stack:
        idle = [stack.enter_context(_parser(intake)) for _ in range(processes)]
        busy: deque[_Pipe] = deque()
        for chunk in chunks:
            if idle:
                parser, done = idle.pop(), b""
            else:
                # Only then new work: two ends that both write would wait for each other.
                parser = busy.popleft()
                done = parser.recv_bytes()
            parser.send_bytes(msgspec.msgpack.encode(chunk))
            busy.append(parser)
            if done:
                yield done
        for parser in busy:
            yield parser.recv_bytes()


@contextmanager
def _parser(intake: LoadOptions) -> Iterator[_Pipe]:
    """Run a parser; the connection is the only thing shared with it, and its end is the sign."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_parse_all, args=(intake, theirs), daemon=True)
    with theirs:
        process.start()
    try:
        with ours:
            yield ours
    finally:
        process.join()


def _parse_all(intake: LoadOptions, chunks: _Pipe) -> None:
    # The terminal interrupts every process; the one that writes decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError), chunks:
        while True:
            chunks.send_bytes(_parse(intake, chunks.recv_bytes()))


def _parse(intake: LoadOptions, chunk: bytes) -> bytes:
    found = parse_chunk(intake, _CHUNK.decode(chunk))
    packed = _Packed(
        changes=[
            change.resource if isinstance(change, Put) else (change.resource_type, change.id)
            for change in found.changes
        ],
        problems=found.problems,
        unresolved=found.unresolved,
        bytes_done=found.bytes_done,
    )
    return msgspec.msgpack.encode(packed)


def _unpacked(content: bytes) -> ParsedChunk:
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

"""Lines in one piece of NDJSON, so that lines that are only passed on need not be split."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload


class JoinedLines(Sequence[bytes]):
    """
    Lines in one value, with a newline between them.

    Indexing and iterating copy each line; `chunks` and `text` copy nothing, except for a slice.
    """

    __slots__ = ("_begin", "_ends", "_text")

    def __init__(self, text: bytes, ends: Sequence[int], *, begin: int = 0) -> None:
        """
        Take the text as it is; `ends` says where in it each line ends, its newline included.

        The newline of the last line may be missing from the text.
        """
        self._text = text
        self._ends = ends
        self._begin = begin

    @property
    def size(self) -> int:
        """How many bytes of NDJSON these are, newlines included."""
        return self._end - self._begin

    @property
    def text(self) -> bytes:
        """The lines with newlines between them, and possibly one after the last."""
        if self._begin == 0 and self._end >= len(self._text):
            return self._text
        return self._text[self._begin : self._end]

    def chunks(self) -> list[bytes]:
        """Return the lines as chunks of NDJSON, each line ended by a newline."""
        if not self._ends:
            return []
        text = self.text
        return [text] if len(text) == self.size else [text, b"\n"]

    def lengths(self) -> Iterator[int]:
        """Yield the length of each line."""
        begin = self._begin
        for end in self._ends:
            yield end - begin - 1
            begin = end

    def __len__(self) -> int:
        """Return how many lines there are."""
        return len(self._ends)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines in order."""
        text = self._text[self._begin : max(self._end - 1, 0)]
        return iter(text.split(b"\n") if self._ends else ())

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequence[bytes]": ...
    def __getitem__(self, index: int | slice) -> "bytes | Sequence[bytes]":
        """Return a copy of a line, or a slice of lines, which copies nothing if its step is 1."""
        if isinstance(index, int):
            position = range(len(self))[index]
            return self._text[self._start_of(position) : self._ends[position] - 1]
        positions = range(len(self))[index]
        if positions.step != 1:
            return [self[position] for position in positions]
        ends = self._ends[positions.start : positions.stop]
        return JoinedLines(self._text, ends, begin=self._start_of(positions.start) if ends else 0)

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else self._begin

    def _start_of(self, position: int) -> int:
        return self._ends[position - 1] if position else self._begin


def ndjson_size(lines: Sequence[bytes]) -> int:
    """Return how many bytes of NDJSON lines are, newlines included."""
    return lines.size if isinstance(lines, JoinedLines) else sum(map(len, lines)) + len(lines)


def line_lengths(lines: Sequence[bytes]) -> Iterable[int]:
    """Return the length of each line."""
    return lines.lengths() if isinstance(lines, JoinedLines) else map(len, lines)


def joined_text(lines: Sequence[bytes]) -> bytes:
    """Return lines with newlines between them, and possibly one after the last."""
    return lines.text if isinstance(lines, JoinedLines) else b"\n".join(lines)

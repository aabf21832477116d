"""Lines in one piece of NDJSON, so that what only passes on need not be taken apart."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload


class JoinedLines(Sequence[bytes]):
    """
    Lines that lie one behind the other in one value, with a newline between them.

    As a sequence it copies each line it gives; `chunks` and `text` copy nothing of a whole.
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
        """The lines with newlines between them, at most one behind the last."""
        if self._begin == 0 and self._end >= len(self._text):
            return self._text
        return self._text[self._begin : self._end]

    def chunks(self) -> list[bytes]:
        """Yield the lines as chunks of NDJSON, each line ended by a newline."""
        if not self._ends:
            return []
        text = self.text
        return [text] if len(text) == self.size else [text, b"\n"]

    def lengths(self) -> Iterator[int]:
        """Return the length of each line."""
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
        """Return a line, or some that follow each other, without a copy of these."""
        if isinstance(index, int):
            place = range(len(self))[index]
            return self._text[self._starts(place) : self._ends[place] - 1]
        places = range(len(self))[index]
        if places.step != 1:
            return [self[place] for place in places]
        ends = self._ends[places.start : places.stop]
        return JoinedLines(self._text, ends, begin=self._starts(places.start) if ends else 0)

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else self._begin

    def _starts(self, place: int) -> int:
        return self._ends[place - 1] if place else self._begin


def ndjson_size(lines: Sequence[bytes]) -> int:
    """Return how many bytes of NDJSON some lines are, newlines included."""
    return lines.size if isinstance(lines, JoinedLines) else sum(map(len, lines)) + len(lines)


def line_lengths(lines: Sequence[bytes]) -> Iterable[int]:
    """Return the length of each line."""
    return lines.lengths() if isinstance(lines, JoinedLines) else map(len, lines)


def joined_text(lines: Sequence[bytes]) -> bytes:
    """Return lines with newlines between them, at most one behind the last."""
    return lines.text if isinstance(lines, JoinedLines) else b"\n".join(lines)

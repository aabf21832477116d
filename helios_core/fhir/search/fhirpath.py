"""
The FHIRPath that search parameters are written in, read into steps.

Only what the published definitions use: paths, unions, casts, and the few functions below. What
is beyond that is refused, never half understood.
"""

import re
from functools import cache

import msgspec

_TOKEN = re.compile(r"\s*(?:('[^']*')|(%?[A-Za-z_]\w*)|(\d+)|(!=|[().|\[\]=]))")


class Key(msgspec.Struct, frozen=True):
    """Go to an element of that name."""

    name: str


class As(msgspec.Struct, frozen=True):
    """Keep what is of a data type; of a choice, the element of that type."""

    type: str


class Is(msgspec.Struct, frozen=True):
    """Keep references that point to a resource type."""

    type: str


class Where(msgspec.Struct, frozen=True):
    """Keep what has an element with exactly that text."""

    name: str
    text: str


class Extended(msgspec.Struct, frozen=True):
    """Keep what carries an extension."""

    url: str


class Extension(msgspec.Struct, frozen=True):
    """Go to the extensions of that URL."""

    url: str


class Index(msgspec.Struct, frozen=True):
    """Keep one of several, counted from 0."""

    position: int


class Exists(msgspec.Struct, frozen=True):
    """Say true or false: is there anything, and, where asked, is it other than false."""

    not_false: bool = False


class Resolve(msgspec.Struct, frozen=True):
    """Go on in the resource that a reference points to."""


class FirstOf(msgspec.Struct, frozen=True):
    """Keep the first thing that any of several paths finds."""

    paths: "tuple[Path, ...]"


Step = Key | As | Is | Where | Extended | Extension | Index | Exists | Resolve | FirstOf


class Path(msgspec.Struct, frozen=True):
    """One alternative of an expression."""

    root: str | None
    """The resource type it begins with, `%resource`, or None where it begins at an element."""
    steps: tuple[Step, ...]


@cache
def parse_expression(expression: str) -> tuple[Path, ...]:
    """
    Give the alternatives of an expression, in their order.

    Raises:
        ValueError: It uses something that no published definition used so far.
    """
    reader = _Reader(expression)
    paths = reader.union()
    reader.expect(None)
    return paths


class _Reader:
    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens: list[str] = []
        position = 0
        while match := _TOKEN.match(expression, position):
            self._tokens.append(match[0].strip())
            position = match.end()
        if expression[position:].strip():
            raise self._beyond()
        self._position = 0

    def union(self) -> tuple[Path, ...]:
        paths = self._term()
        while self._accept("|"):
            paths += self._term()
        return paths

    def expect(self, token: str | None) -> None:
        if self._peek() != token:
            raise self._beyond()
        self._position += 1

    def _beyond(self) -> ValueError:
        return ValueError(f"cannot follow the expression {self._expression!r}")

    def _peek(self) -> str | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _accept(self, *tokens: str) -> bool:
        accepted = tuple(self._tokens[self._position : self._position + len(tokens)]) == tokens
        self._position += len(tokens) if accepted else 0
        return accepted

    def _next(self) -> str:
        token = self._peek()
        if token is None:
            raise self._beyond()
        self._position += 1
        return token

    def _name(self) -> str:
        token = self._next()
        if not token.isidentifier():
            raise self._beyond()
        return token

    def _text(self) -> str:
        token = self._next()
        if not token.startswith("'"):
            raise self._beyond()
        return token[1:-1]

    def _term(self) -> tuple[Path, ...]:
        if self._accept("("):
            paths = self.union()
            self.expect(")")
        else:
            paths = (self._beginning(),)
        while (step := self._step()) is not None:
            paths = self._extended(paths, step)
        return paths

    def _extended(self, paths: tuple[Path, ...], step: Step) -> tuple[Path, ...]:
        if isinstance(step, FirstOf):
            roots = {path.root for path in paths}
            if len(roots) > 1:
                raise self._beyond()
            return (Path(root=roots.pop(), steps=(FirstOf(paths),)),)
        return tuple(Path(root=path.root, steps=(*path.steps, step)) for path in paths)

    def _beginning(self) -> Path:
        name = self._next()
        if name == "%resource" or name[:1].isupper():
            return Path(root=name, steps=())
        if not name.isidentifier():
            raise self._beyond()
        return Path(root=None, steps=(Key(name),))

    def _step(self) -> Step | None:
        if self._accept("as"):
            return As(self._name())
        if self._accept("["):
            position = self._next()
            self.expect("]")
            if not position.isdecimal():
                raise self._beyond()
            return Index(int(position))
        if not self._accept("."):
            return None
        name = self._name()
        return self._function(name) if self._accept("(") else Key(name)

    def _function(self, name: str) -> Step:
        match name:
            case "as" | "ofType":
                step: Step = As(self._name())
            case "where":
                step = self._condition()
            case "extension":
                step = Extension(self._text())
            case "resolve":
                step = Resolve()
            case "first":
                step = FirstOf(())
            case "exists":
                self.expect(")")
                return Exists(not_false=self._accept("and") and self._not_false())
            case _:
                raise self._beyond()
        self.expect(")")
        return step

    def _condition(self) -> Step:
        if self._accept("resolve", "(", ")", "is"):
            return Is(self._name())
        if self._accept("extension", "("):
            url = self._text()
            if not self._accept(")", ".", "exists", "(", ")"):
                raise self._beyond()
            return Extended(url)
        name = self._name()
        self.expect("=")
        return Where(name, self._text())

    def _not_false(self) -> bool:
        # Written as "X.exists() and X != false": the same X, so that it need not be kept.
        begun = self._position
        self._term()
        again = self._tokens[begun : self._position]
        if again != self._tokens[: len(again)] or not self._accept("!=", "false"):
            raise self._beyond()
        return True

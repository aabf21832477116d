"""
Parse the FHIRPath expressions of the published definitions into paths of steps.

It supports what those definitions use: paths, unions, casts, and the few functions below.
Anything else is an error, so that no part of an expression is silently ignored.
"""

import re
from functools import cache

import msgspec

_TOKEN = re.compile(r"\s*(?:('[^']*')|(%?[A-Za-z_]\w*)|(\d+)|(!=|[().|\[\]=]))")


class Child(msgspec.Struct, frozen=True):
    """Select the child elements of this name."""

    name: str


class As(msgspec.Struct, frozen=True):
    """Keep the values of one data type; for a choice, select the element of that type."""

    type: str


class Is(msgspec.Struct, frozen=True):
    """Keep references to one resource type: `where(resolve() is Patient)`."""

    type: str


class Where(msgspec.Struct, frozen=True):
    """Keep values that have a child element equal to a text: `where(system='phone')`."""

    name: str
    text: str


class HasExtension(msgspec.Struct, frozen=True):
    """Keep values that carry an extension: `where(extension('url').exists())`."""

    url: str


class Extension(msgspec.Struct, frozen=True):
    """Select the extensions with this URL: `extension('url')`."""

    url: str


class Index(msgspec.Struct, frozen=True):
    """Keep one of several values, counted from 0: `[0]`."""

    position: int


class Exists(msgspec.Struct, frozen=True):
    """
    True if there is any value, otherwise false: `x.exists()`.

    With `not_false` at least one value must not be false: `x.exists() and x != false`.
    """

    not_false: bool = False


class Resolve(msgspec.Struct, frozen=True):
    """Continue in the resource that a reference points to: `resolve()`."""


class FirstOf(msgspec.Struct, frozen=True):
    """Keep the first value of several paths: `(a | b).first()`."""

    paths: "tuple[Path, ...]"


Step = Child | As | Is | Where | HasExtension | Extension | Index | Exists | Resolve | FirstOf


class Path(msgspec.Struct, frozen=True):
    """One operand of a union."""

    root: str | None
    """A resource type, `%resource`, or None if the path starts at an element."""
    steps: tuple[Step, ...]


@cache
def parse_expression(expression: str) -> tuple[Path, ...]:
    """
    Parse an expression into the paths of its union, in their order.

    Raises:
        ValueError: The expression uses FHIRPath that no published definition needs.
    """
    parser = _Parser(expression)
    paths = parser.union()
    parser.expect(None)
    return paths


class _Parser:
    """A recursive-descent parser; `union` is its start rule."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens: list[str] = []
        position = 0
        while match := _TOKEN.match(expression, position):
            self._tokens.append(match[0].strip())
            position = match.end()
        if expression[position:].strip():
            raise self._unsupported()
        self._position = 0

    def union(self) -> tuple[Path, ...]:
        paths = self._term()
        while self._accept("|"):
            paths += self._term()
        return paths

    def expect(self, token: str | None) -> None:
        """Consume a token, or check with None that all are consumed."""
        if self._peek() != token:
            raise self._unsupported()
        self._position += 1

    def _unsupported(self) -> ValueError:
        return ValueError(f"unsupported FHIRPath: {self._expression!r}")

    def _peek(self) -> str | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _accept(self, *tokens: str) -> bool:
        accepted = tuple(self._tokens[self._position : self._position + len(tokens)]) == tokens
        self._position += len(tokens) if accepted else 0
        return accepted

    def _next(self) -> str:
        token = self._peek()
        if token is None:
            raise self._unsupported()
        self._position += 1
        return token

    def _name(self) -> str:
        token = self._next()
        if not token.isidentifier():
            raise self._unsupported()
        return token

    def _text(self) -> str:
        token = self._next()
        if not token.startswith("'"):
            raise self._unsupported()
        return token[1:-1]

    def _term(self) -> tuple[Path, ...]:
        if self._accept("("):
            paths = self.union()
            self.expect(")")
        else:
            paths = (self._start(),)
        while (step := self._step()) is not None:
            paths = self._append(paths, step)
        return paths

    def _append(self, paths: tuple[Path, ...], step: Step) -> tuple[Path, ...]:
        if isinstance(step, FirstOf):
            roots = {path.root for path in paths}
            if len(roots) > 1:
                raise self._unsupported()
            return (Path(root=roots.pop(), steps=(FirstOf(paths),)),)
        return tuple(Path(root=path.root, steps=(*path.steps, step)) for path in paths)

    def _start(self) -> Path:
        name = self._next()
        if name == "%resource" or name[:1].isupper():
            return Path(root=name, steps=())
        if not name.isidentifier():
            raise self._unsupported()
        return Path(root=None, steps=(Child(name),))

    def _step(self) -> Step | None:
        if self._accept("as"):
            return As(self._name())
        if self._accept("["):
            position = self._next()
            self.expect("]")
            if not position.isdecimal():
                raise self._unsupported()
            return Index(int(position))
        if not self._accept("."):
            return None
        name = self._name()
        return self._function(name) if self._accept("(") else Child(name)

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
                step = FirstOf(())  # `_append` puts the paths in
            case "exists":
                self.expect(")")
                return Exists(not_false=self._accept("and") and self._not_false())
            case _:
                raise self._unsupported()
        self.expect(")")
        return step

    def _condition(self) -> Step:
        if self._accept("resolve", "(", ")", "is"):
            return Is(self._name())
        if self._accept("extension", "("):
            url = self._text()
            if not self._accept(")", ".", "exists", "(", ")"):
                raise self._unsupported()
            return HasExtension(url)
        name = self._name()
        self.expect("=")
        return Where(name, self._text())

    def _not_false(self) -> bool:
        # The published form is "X.exists() and X != false". Both X are the same tokens, so the
        # second X is compared with the beginning of the expression and then dropped.
        start = self._position
        self._term()
        repeated = self._tokens[start : self._position]
        if repeated != self._tokens[: len(repeated)] or not self._accept("!=", "false"):
            raise self._unsupported()
        return True

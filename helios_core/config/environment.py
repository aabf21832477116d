"""Environment variables: described by the fields of a struct, read into their values."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import inspect, structs

from helios_core.config.masking import has_secret_name, masked
from helios_core.storage.secrets import Secret

PREFIX = "HFS_"

TEST_PREFIX = "HFS_TEST_"
"""The prefix of variables that configure the tests and that the server ignores."""


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: its name, its type and its allowed values."""

    name: str
    field: str
    """The field of the struct that holds the value."""
    type: Any
    allowed: str
    """The allowed values, in words that continue "allowed is"."""
    required: bool
    """Whether there is no default."""
    default: str
    """The default as an operator would write it; empty if there is none."""
    unit: str
    description: str
    plugin: str | None
    """The plugin that the setting belongs to; None for a setting of the server."""
    may_be_empty: bool = False
    """Whether an empty value means an empty list; otherwise it counts as not set."""

    @property
    def secret(self) -> bool:
        """Whether the value must not be shown."""
        return Secret in _parts(self.type)

    def value(self, text: str) -> Any:  # noqa: ANN401  whatever the field's type says
        """
        Parse a value.

        Raises:
            ValueError: The text is not an allowed value; the message never contains a secret.
        """
        raw: Any = _split(text) if _is_list(self.type) else text
        try:
            value = msgspec.convert(raw, self.type, strict=False, dec_hook=_decode)
        except msgspec.ValidationError:
            raise self._error(text) from None
        if isinstance(value, timedelta) and value <= timedelta(0):
            raise self._error(text)
        return value

    def shown(self, text: str) -> str:
        """Return a value for display, with secrets masked."""
        if _is_list(self.type):
            return ",".join(masked(item, secret=self.secret) for item in text.split(","))
        return masked(text, secret=self.secret or self._has_secret_name)

    @property
    def _has_secret_name(self) -> bool:
        return str in _parts(self.type) and has_secret_name(self.name)

    def _error(self, text: str) -> ValueError:
        hidden = self.secret or self._has_secret_name
        problem = "cannot be read" if hidden else f"is {self.shown(text)!r}"
        return ValueError(f"{self.name} {problem}; allowed is {self.allowed}")


def describe_variables(
    shape: type[msgspec.Struct], *, plugin: str | None = None
) -> tuple[Variable, ...]:
    """
    Return a description of every setting in a struct.

    Field `x` is read from `HFS_X`, or from `HFS_P_X` for plugin `p`. Its `msgspec.Meta` may have
    the unit as `title` and the meaning as `description`, and in `extra`:

    - `name`: the variable to read instead of `HFS_X`;
    - `setting`: the variable of the server that the plugin reads, too; None if the field is not a
      setting;
    - `default` and `allowed`: texts that describe the default and the allowed values;
    - `empty`: True if an empty value is an empty list.
    """
    prefix = PREFIX if plugin is None else f"{PREFIX}{plugin.upper()}_"
    described = (_variable(field, prefix, plugin) for field in structs.fields(shape))
    return tuple(variable for variable in described if variable.name)


def read_variables(
    known: Iterable[Variable], environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values by field, and one sentence for each value that is invalid or missing."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for variable in known:
        # Compose files and shells may pass a variable that is not set as an empty value.
        text = environ.get(variable.name, "").strip()
        set_to_empty = variable.may_be_empty and variable.name in environ
        try:
            if text or set_to_empty:
                values[variable.field] = variable.value(text)
            elif variable.required:
                needs = f", and plugin {variable.plugin} needs it" if variable.plugin else ""
                problems.append(
                    f"{variable.name} is not set{needs}; allowed is {variable.allowed}"
                )
        except ValueError as error:
            problems.append(str(error))
    return values, problems


def to_text(value: object) -> str:
    """Return a value as an operator would write it: empty for None, masked for a secret."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case Enum():
            return str(value.value)
        case tuple() | list():
            return ",".join(map(to_text, value))
        case _:
            return str(value)


def _variable(field: structs.FieldInfo, prefix: str, plugin: str | None) -> Variable:
    metas = [part for part in _parts(field.type) if isinstance(part, msgspec.Meta)]
    extra = {key: value for meta in metas for key, value in (meta.extra or {}).items()}
    name = extra.get("setting", extra.get("name", f"{prefix}{field.name.upper()}"))
    default = field.default if field.default_factory is msgspec.NODEFAULT else ()
    return Variable(
        name=name or "",
        field=field.name,
        type=field.type,
        allowed=_allowed(inspect.type_info(field.type)),
        required=field.required,
        default=extra.get("default") or to_text(None if field.required else default),
        unit=next((meta.title for meta in metas if meta.title), ""),
        description=next((meta.description for meta in metas if meta.description), ""),
        plugin=None if "setting" in extra else plugin,
        may_be_empty=extra.get("empty", False),
    )


def _parts(annotation: Any) -> Iterator[Any]:  # noqa: ANN401  annotations have no common type
    yield annotation
    if get_origin(annotation) in (Annotated, Union, UnionType):
        for part in get_args(annotation):
            yield from _parts(part)


def _is_list(annotation: Any) -> bool:  # noqa: ANN401  annotations have no common type
    return any(get_origin(part) in (tuple, list) for part in _parts(annotation))


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _decode(kind: type, raw: object) -> object:
    if kind in (Path, Secret) and isinstance(raw, str):
        return kind(raw)
    raise NotImplementedError(f"a setting cannot be of type {kind.__name__}")


def _allowed(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata():
            return (kind.extra or {}).get("allowed") or _allowed(kind.type)
        case inspect.UnionType():
            rest = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
            return " or ".join(map(_allowed, rest))
        case inspect.EnumType():
            return _alternatives(member.value for member in kind.cls)
        case inspect.LiteralType():
            return _alternatives(kind.values)
        case inspect.IntType() | inspect.FloatType():
            number = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            return number + _bounds(kind)
    return "a path" if kind == inspect.CustomType(Path) else _WORDS.get(type(kind), "text")


_WORDS = MappingProxyType(
    {
        inspect.BoolType: "true or false",
        inspect.TimeDeltaType: "a number of seconds above 0",
        inspect.VarTupleType: "names joined by commas",
        inspect.ListType: "names joined by commas",
    }
)


def _alternatives(values: Iterable[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    bounds = {"from": kind.ge, "above": kind.gt, "to": kind.le, "below": kind.lt}
    return "".join(f" {word} {bound}" for word, bound in bounds.items() if bound is not None)


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is closest to `name`, or None if none is close."""
    return next(iter(get_close_matches(name, list(known), n=1)), None)


def unknown_variable(name: str, known: Iterable[str]) -> str:
    """Return the sentence that reports a variable that no setting reads, with the nearest name."""
    guess = nearest_name(name, known)
    advice = f"the nearest is {guess}" if guess else "`helios settings` lists all settings"
    return f"{name} is not a setting of the server or of a selected plugin; {advice}"

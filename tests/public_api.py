"""
The public API, read from the sources: `helios_core`, `helios_core.fhir`, `helios_core.testing`.

`make docs` writes the page `docs/reference/api.md`; a test holds it against the code.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import cast

import msgspec

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "helios_core": "__init__.pyi",
    "helios_core.fhir": "__init__.pyi",
    "helios_core.testing": "__init__.py",
}
"""The file of each public package that imports its names from where they are defined."""

STABLE = {
    "helios_core.errors",
    "helios_core.hashes",
    "helios_core.model.exports",
    "helios_core.model.jobs",
    "helios_core.model.parts",
    "helios_core.storage.backends",
    "helios_core.storage.changes",
    "helios_core.storage.data_provider",
    "helios_core.storage.hooks",
    "helios_core.storage.job_store",
    "helios_core.storage.resource_keys",
    "helios_core.storage.output_store",
    "helios_core.storage.query_data_provider",
    "helios_core.storage.resource_queries",
    "helios_core.storage.secrets",
    "helios_core.storage.threads",
    "helios_core.fhir.definitions",
    "helios_core.fhir.instants",
    "helios_core.fhir.media_types",
    "helios_core.fhir.resources",
    "helios_core.testing.data_provider",
    "helios_core.testing.data_provider.holdings",
    "helios_core.testing.job_store",
    "helios_core.testing.output_store",
    "helios_core.testing.suites",
}
"""Modules whose public names are stable; those of all others are provisional."""
PROVISIONAL = {
    *("Backends", "SupportsChangeFeed", "SupportsPrefilter", "MIB", "PART", "GatedChunks"),
    *("list_jobs", "read_part", "same_content", "store_part", "yield_chunks"),
}
"""Names of stable modules that are not stable themselves."""

LINE_LENGTH = 92
"""What a rendered page shows without scrolling."""

HEAD = """\
# The plugin API

Plugins import `helios_core`, `helios_core.fhir` and, in their tests, `helios_core.testing`.
These are all names of the three; every other module may change at any time.

- A **stable** name changes only together with `API_LEVEL`, which the server checks at start, \
and the changelog says in bold what to change.
  New optional parameters, fields with defaults, powers and tests of a suite may come with any \
release.
- A **provisional** name may change with any minor release (0.1 to 0.2); the changelog says so.
  These are the tools that SQL plugins share, the index terms of searches, extensions (what a \
plugin adds beside backends), and what tests are made of.

[Hooks](hooks.md) explains how a plugin describes itself. The clauses of the contracts are in \
the docstrings of [`DataProvider`](#dataprovider), [`JobStore`](#jobstore) and \
[`OutputStore`](#outputstore).

`make docs` generates this page from the sources, and a test holds it against them.
"""


class UnknownNameError(Exception):
    """A module neither defines nor imports a name."""


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """A public name and what its definition says of it."""

    name: str
    module: str
    path: str
    """Of the module's file, from the root of the repository."""
    node: ast.stmt | ast.Module
    docstring: str

    @property
    def stable(self) -> bool:
        """Whether the name changes only together with `API_LEVEL`."""
        return self.module in STABLE and self.name not in PROVISIONAL

    @property
    def kind(self) -> str:
        """What it is, in a word or two."""
        if isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return "function"
        if isinstance(self.node, ast.Module):
            return "module"
        if not isinstance(self.node, ast.ClassDef):
            return "constant"
        bases = {ast.unparse(base).partition("[")[0].split(".")[-1] for base in self.node.bases}
        kinds = {"Protocol": "protocol", "ABC": "abstract class", "Struct": "struct"}
        kinds |= {"StrEnum": "enumeration", "IntEnum": "enumeration", "Enum": "enumeration"}
        named = next((kinds[base] for base in sorted(bases) if base in kinds), None)
        if named is None and any(keyword.arg == "frozen" for keyword in self.node.keywords):
            named = "struct"
        return named or ("error" if self.module.endswith(".errors") else "class")

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return _first_paragraph(self.docstring)

    @property
    def details(self) -> str:
        """What follows the first paragraph of the docstring, as it stands there."""
        return self.docstring.strip().partition("\n\n")[2]

    @property
    def signature(self) -> str:
        """How it is called, or what it consists of."""
        if isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return "\n".join(_definition(self.node))
        if isinstance(self.node, ast.ClassDef):
            return "\n".join(_class(self.node, self.module))
        if isinstance(self.node, ast.Module):
            return "\n".join(_module(self.node))
        source = (ROOT / self.path).read_text(encoding="utf-8")
        return ast.get_source_segment(source, self.node) or ""


def public_names() -> dict[str, list[Name]]:
    """Return every public name by package, in the order of the imports."""
    return {package: list(_names(package, file)) for package, file in PACKAGES.items()}


def page() -> str:
    """Return the page."""
    names = public_names()
    parts = [HEAD]
    for package, defined in names.items():
        parts.append(f"\n## {package}\n\n| name | kind | | |\n|---|---|---|---|\n")
        parts += [_row(name) for name in defined]
    parts.append("\n## Definitions\n")
    parts += [_section(name) for defined in names.values() for name in defined]
    return "".join(parts)


def _row(name: Name) -> str:
    status = "stable" if name.stable else "provisional"
    summary = name.summary.replace("|", "\\|")
    link = f"[`{name.name}`](#{name.name.lower()})"
    return f"| {link} | {name.kind} | {status} | {summary} |\n"


def _section(name: Name) -> str:
    details = f"```text\n{name.details}\n```\n\n" if name.details else ""
    return (
        f"\n### {name.name}\n\n```python\n{name.signature}\n```\n\n{name.summary}\n\n"
        f"{details}Defined in [{name.module}](../../{name.path}).\n"
    )


def _names(package: str, file: str) -> Iterator[Name]:
    path = ROOT / package.replace(".", "/") / file
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = _exported(tree)
    for module, imported in _imports(tree, package):
        if imported in public:
            yield _find(module, imported)


def _exported(tree: ast.Module) -> set[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError("there is no __all__")


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            module = f"{base}.{node.module}" if node.level else node.module
            yield from ((module, alias.name) for alias in node.names)


def _find(module: str, name: str) -> Name:
    """Follow imports to where a name is defined."""
    path, tree = _source(module)
    if (ROOT / module.replace(".", "/") / f"{name}.py").exists():
        module = f"{module}.{name}"
        path, tree = _source(module)
        docstring = ast.get_docstring(tree) or ""
        return Name(name=name, module=module, path=path, node=tree, docstring=docstring)
    for position, node in enumerate(tree.body):
        if name in _defined(node):
            return Name(
                name=name,
                module=module,
                path=path,
                node=node,
                docstring=_docstring(node, tree.body[position + 1 : position + 2]),
            )
    for source, imported in _imports(tree, module):
        if imported == name:
            return _find(source, name)
    raise UnknownNameError(f"{module} does not define {name}")


@cache
def _source(module: str) -> tuple[str, ast.Module]:
    folder = ROOT / module.replace(".", "/")
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    stub = path.with_suffix(".pyi")
    tree = ast.parse((stub if stub.exists() else path).read_text(encoding="utf-8"))
    return path.relative_to(ROOT).as_posix(), tree


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {ast.unparse(target) for target in node.targets}
    return {ast.unparse(node.target)} if isinstance(node, ast.AnnAssign) else set()


def _docstring(node: ast.stmt, following: list[ast.stmt]) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return ast.get_docstring(node) or ""
    match following:
        case [ast.Expr(value=ast.Constant(value=str() as text))]:
            return text
    return ""


def _definition(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = _arguments(node.args)
    line = f"{start} {node.name}({', '.join(arguments)}){returns}"
    if len(line) <= LINE_LENGTH:
        yield line
    else:
        yield f"{start} {node.name}("
        yield from (f"    {argument}," for argument in arguments)
        yield f"){returns}"


def _arguments(arguments: ast.arguments) -> list[str]:
    """Split a list of arguments at its commas, not at those inside of brackets."""
    split = re.split(r", (?![^\[(]*[\])])", ast.unparse(arguments))
    return [text.replace("=", " = ", 1) if ": " in text else text for text in split]


def _module(node: ast.Module) -> Iterator[str]:
    """Return the public functions and constants of a module."""
    for position, member in enumerate(node.body):
        if all(name.startswith("_") for name in _defined(member)):
            continue
        summary = _first_paragraph(_docstring(member, node.body[position + 1 : position + 2]))
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definition(member)
            yield from (f"    {line}" for line in _quoted(summary))
        else:
            yield ast.unparse(member).replace("'", '"')
            yield from _quoted(summary)


def _class(node: ast.ClassDef, module: str) -> Iterator[str]:
    bases = [ast.unparse(base) for base in [*node.bases, *node.keywords]]
    yield f"class {node.name}({', '.join(bases)})" if bases else f"class {node.name}"
    for member in _members(node, module).values():
        yield from (f"    {line}" for line in member)


def _members(node: ast.ClassDef, module: str) -> dict[str, list[str]]:
    """Find the public members of a class; a suite has those of its bases, without its tests."""
    members = dict[str, list[str]]()
    if module.startswith("helios_core.testing"):
        for base in node.bases:
            with suppress(FileNotFoundError, UnknownNameError):
                found = _find(module, ast.unparse(base).partition("[")[0])
                members |= _members(cast("ast.ClassDef", found.node), found.module)
    for position, member in enumerate(node.body):
        following = node.body[position + 1 : position + 2]
        summary = _quoted(_first_paragraph(_docstring(member, following)))
        for name in _defined(member):
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                if name == "__init__" or not name.startswith(("_", "test_")):
                    members[name] = [*_method(member), *(f"    {line}" for line in summary)]
            elif not name.startswith("_"):
                members[name] = [ast.unparse(member), *summary]
    return members


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        if ast.unparse(decorator) in ("property", "classmethod", "staticmethod"):
            yield f"@{ast.unparse(decorator)}"
    yield from _definition(node)


def _first_paragraph(docstring: str) -> str:
    return " ".join(docstring.strip().partition("\n\n")[0].split())


def _quoted(text: str) -> list[str]:
    return textwrap.wrap(f'"""{text}"""', LINE_LENGTH) if text else []

"""Named SQL statements: the `.sql` files of a plugin, read once when it is imported."""

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files

from helios_core.fhir.instants import FOREVER
from helios_core.storage.extents import COLLECTION_BITS, EXTENT_BITS, SUM_MASK

CONSTANTS: Mapping[str, str] = {
    "COLLECTION_BITS": str(COLLECTION_BITS),
    "EXTENT_BITS": str(EXTENT_BITS),
    "EXTENT_NUMBER_BITS": str(COLLECTION_BITS - EXTENT_BITS),
    "FOREVER": str(FOREVER),
    "SUM_MASK": str(SUM_MASK),
}
"""What `{NAME}` stands for in every statement."""

_SECTION = re.compile(r"^-- (name|fragment): (\w+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def read_statements(package: str, subject: str) -> Mapping[str, str]:
    """
    Read the statements of the file `sql/<subject>.sql` of a package, by their names.

    A statement begins with a line `-- name: claim_shard`; comments that follow describe it. A
    `{placeholder}` is a constant of the core or a fragment, which begins with a line
    `-- fragment: shown`, in the same file or in `sql/fragments.sql`.

    Raises:
        ValueError: A name is used twice, or a placeholder names no constant or fragment.
    """
    folder = files(package).joinpath("sql")
    sections = [
        section
        for name in dict.fromkeys(("fragments", subject))
        if (file := folder.joinpath(f"{name}.sql")).is_file()
        for section in _sections(file.read_text(encoding="utf-8"))
    ]
    texts = dict(CONSTANTS) | {name: text for _, name, text in sections}
    if len(texts) < len(CONSTANTS) + len(sections):
        raise ValueError(f"a name is used twice in the SQL of {package} for {subject}")
    return {name: _filled(text, texts) for kind, name, text in sections if kind == "name"}


def _sections(script: str) -> Iterator[tuple[str, str, str]]:
    """Yield the kind, the name and the text of each section, without its description."""
    _, *parts = _SECTION.split(script)
    for kind, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        lines = [line for line in text.splitlines() if not line.startswith("--")]
        yield kind, name, "\n".join(lines).strip().removesuffix(";")


def _filled(text: str, texts: Mapping[str, str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match[1] not in texts:
            raise ValueError(f"there is no fragment or constant {match[1]} in the SQL")
        return _filled(texts[match[1]], texts)

    return _PLACEHOLDER.sub(replacement, text)

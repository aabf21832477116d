"""
A temporary database of the links between the files of one load.

It has the fullUrls that mean the same in every Bundle, the conditional references, and the ids
that entries claim. As a file it keeps memory bounded, and the parsing processes can read it.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import msgspec

_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OID = re.compile(r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+")
_NOT_UNIQUE = frozenset(
    {
        "urn:uuid:00000000-0000-0000-0000-000000000000",
        "urn:uuid:ffffffff-ffff-ffff-ffff-ffffffffffff",
    }
)

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA cache_size = -32768;
CREATE TABLE full_urls (
    url TEXT PRIMARY KEY, target TEXT NOT NULL, digest INTEGER NOT NULL, clash INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE claims (
    target TEXT PRIMARY KEY,
    creates INTEGER NOT NULL,
    name TEXT NOT NULL,
    repeated INTEGER NOT NULL DEFAULT 0,
    contested INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE contents (
    target TEXT, hash INTEGER, name TEXT, PRIMARY KEY (target, hash, name)
) WITHOUT ROWID;
CREATE INDEX contents_by_name ON contents (target, name) WHERE name <> '';
CREATE TABLE displaced (bundle TEXT, target TEXT, PRIMARY KEY (bundle, target)) WITHOUT ROWID;
CREATE TABLE servers (target TEXT PRIMARY KEY, server TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE conditionals (
    reference TEXT PRIMARY KEY, unsupported INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE conditions (
    target TEXT, reference TEXT NOT NULL, updates INTEGER NOT NULL, UNIQUE (reference, target)
);
CREATE TABLE refused (target TEXT PRIMARY KEY, match TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE matches (
    reference TEXT, target TEXT, PRIMARY KEY (reference, target)
) WITHOUT ROWID;
CREATE INDEX matches_by_target ON matches (target);
CREATE TABLE changed (target TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE terms (
    resource_type TEXT, term INTEGER, reference TEXT, PRIMARY KEY (resource_type, term, reference)
) WITHOUT ROWID;
"""


def is_unique(url: str) -> bool:
    """Return whether a normalized fullUrl is a real UUID or OID, so that it is globally unique."""
    is_uuid = _UUID.fullmatch(url) is not None and url not in _NOT_UNIQUE
    return is_uuid or _OID.fullmatch(url) is not None


class Definition(msgspec.Struct, frozen=True):
    """The resource that a globally unique fullUrl stands for in one Bundle."""

    url: str
    """The normalized fullUrl."""
    target: str
    """`Type/id`."""
    digest: int
    """A signed hash of the resource if its id comes from the fullUrl, otherwise 0."""


class Creation(msgspec.Struct, frozen=True):
    """A resource that an entry creates if nothing else matches its condition."""

    reference: str
    """The condition, as `Type?search`."""
    target: str
    """`Type/id`."""
    updates: bool
    """Whether the entry updates the resource if one matches (a conditional PUT)."""


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """The id that a Bundle entry or an NDJSON line names or proposes for its resource."""

    target: str
    """`Type/id`."""
    creates: bool
    """Whether the id is a proposal for a resource to create; otherwise it names a resource."""
    name: str
    """The normalized fullUrl if it is globally unique, otherwise empty."""


class Content(msgspec.Struct, frozen=True, array_like=True):
    """The content of a resource whose id is claimed more than once."""

    target: str
    """`Type/id`."""
    hash: int
    """A signed hash of the content with its links resolved."""
    name: str
    """As in `Claim`."""


class Match(StrEnum):
    """How many resources match a conditional reference."""

    ONE = "one"
    NOTHING = "nothing"
    SEVERAL = "several"
    UNSUPPORTED = "unsupported"
    """The search of the reference is invalid or not supported."""


class LinkIndex:
    """A connection to the temporary database, for one thread at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        mode = "ro&immutable=1" if read_only else "rwc"
        self._database = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
        )
        self.has_lines = False
        """Whether the load has resources outside of Bundles."""
        if not read_only:
            self._database.executescript(f"{_SCHEMA} BEGIN;")

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[Self]:
        """Yield a new index, which is removed at the end of the context."""
        with TemporaryDirectory(prefix="helios_load_") as folder:
            index = cls(Path(folder) / "links")
            with closing(index):
                yield index

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def publish(self) -> None:
        """Make the index readable for other processes; nothing may be added afterwards."""
        self._database.execute("COMMIT")

    def define(self, definition: Definition) -> bool:
        """Add a definition; return whether another Bundle defines the fullUrl differently."""
        row = (definition.url, definition.target, definition.digest)
        insert = "INSERT INTO full_urls VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING"
        if self._database.execute(insert, row).rowcount:
            return False
        (target, digest), *_ = self._database.execute(
            "SELECT target, digest FROM full_urls WHERE url = ?", row[:1]
        )
        if (target, digest) == row[1:]:
            return False
        self._database.execute("UPDATE full_urls SET clash = 1 WHERE url = ?", row[:1])
        return True

    def target(self, url: str) -> str | None:
        """Return `Type/id` for a normalized fullUrl; None if it is unknown or ambiguous."""
        row = self._definition(url)
        return None if row is None or row[1] else row[0]

    def is_ambiguous(self, url: str) -> bool:
        """Return whether Bundles define a normalized fullUrl differently."""
        row = self._definition(url)
        return row is not None and bool(row[1])

    def _definition(self, url: str) -> tuple[str, int] | None:
        row: tuple[str, int] | None = self._database.execute(
            "SELECT target, clash FROM full_urls WHERE url = ?", (url,)
        ).fetchone()
        return row

    def add_claims(self, claims: Iterable[Claim]) -> None:
        """Add the ids that a Bundle or a line claims."""
        self._database.executemany(
            "INSERT INTO claims (target, creates, name) VALUES (?1, ?2, ?3) "
            "ON CONFLICT DO UPDATE SET creates = max(creates, ?2), repeated = 1, "
            "contested = max(contested, ?3 = '' OR name <> ?3)",
            ((claim.target, claim.creates, claim.name) for claim in claims),
        )

    @property
    def may_be_contested(self) -> bool:
        """Whether an id is contested, or may be once the ids of lines have been added."""
        creates = self.has_lines and self._exists("SELECT 1 FROM claims WHERE creates")
        return creates or self.has_contested

    @property
    def has_contested(self) -> bool:
        """Whether two resources may have the same id, and an entry creates one of them."""
        return self._exists("SELECT 1 FROM claims WHERE creates AND contested")

    def is_contested(self, target: str) -> bool:
        """Return whether two resources may have this id, and an entry creates one of them."""
        select = "SELECT 1 FROM claims WHERE target = ? AND creates AND contested"
        return self._exists(select, target)

    def is_repeated(self, target: str) -> bool:
        """Return whether an id is claimed more than once."""
        return self._exists("SELECT 1 FROM claims WHERE target = ? AND repeated", target)

    def is_created(self, target: str) -> bool:
        """Return whether an entry creates a resource with this id."""
        return self._exists("SELECT 1 FROM claims WHERE target = ? AND creates", target)

    def add_contents(self, contents: Iterable[Content]) -> None:
        """Add contents of resources whose ids are contested."""
        self._database.executemany(
            "INSERT INTO contents VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            ((content.target, content.hash, content.name) for content in contents),
        )

    def is_another(self, content: Content) -> bool:
        """Return whether contents with the same id are known, but none with its hash or name."""
        if not self._exists("SELECT 1 FROM contents WHERE target = ?", content.target):
            return False
        # One query for both would read every content with the id.
        of_hash = "SELECT 1 FROM contents WHERE target = ? AND hash = ?"
        of_name = "SELECT 1 FROM contents WHERE target = ? AND name = ? AND name <> ''"
        return not (
            self._exists(of_hash, content.target, content.hash)
            or self._exists(of_name, content.target, content.name)
        )

    def displace(self, bundle: str, targets: Iterable[str]) -> None:
        """Note the ids that a Bundle's created resources must not have; equal Bundles are one."""
        insert = "INSERT INTO displaced VALUES (?, ?) ON CONFLICT DO NOTHING"
        self._database.executemany(insert, ((bundle, target) for target in targets))

    def displaced(self, bundle: str) -> frozenset[str]:
        """Return the ids that a Bundle's created resources must not have, as `Type/id`."""
        select = "SELECT target FROM displaced WHERE bundle = ?"
        return frozenset(target for (target,) in self._database.execute(select, (bundle,)))

    @property
    def has_displaced(self) -> bool:
        """Whether any resource must get another id."""
        return self._exists("SELECT 1 FROM displaced")

    def forget_links(self) -> None:
        """Drop the links that were added before it was known which resources get another id."""
        for table in ("full_urls", "servers", "conditionals", "conditions"):
            self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names

    def _exists(self, select: str, *values: str | int) -> bool:
        return self._database.execute(f"{select} LIMIT 1", values).fetchone() is not None

    def add_server(self, target: str, server: str) -> None:
        """Note the server of a resource in a Bundle, unless one is known for its `Type/id`."""
        self._database.execute(
            "INSERT INTO servers VALUES (?, ?) ON CONFLICT DO NOTHING", (target, server)
        )

    def belongs_to_another(self, target: str, server: str) -> bool:
        """Return whether the first resource with this `Type/id` comes from another server."""
        select = "SELECT 1 FROM servers WHERE target = ? AND server <> ?"
        return self._database.execute(select, (target, server)).fetchone() is not None

    def add_conditionals(self, references: Iterable[str]) -> None:
        """Add conditional references to be resolved."""
        self._database.executemany(
            "INSERT INTO conditionals (reference) VALUES (?) ON CONFLICT DO NOTHING",
            ((reference,) for reference in references),
        )

    @property
    def has_conditionals(self) -> bool:
        """Whether there are conditional references."""
        return next(self.conditionals(), None) is not None

    def conditionals(self) -> Iterator[str]:
        """Yield the conditional references; the index may change between two of them."""
        last = ""
        select = "SELECT reference FROM conditionals WHERE reference > ? ORDER BY 1 LIMIT 500"
        while rows := self._database.execute(select, (last,)).fetchall():
            yield from (reference for (reference,) in rows)
            last = rows[-1][0]

    def add_terms(self, resource_type: str, terms: Iterable[int], reference: str) -> None:
        """Add the terms of which a resource must have one to match a conditional reference."""
        self._database.executemany(
            "INSERT INTO terms VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            ((resource_type, term, reference) for term in terms),
        )

    def candidates(self, resource_type: str, terms: Iterable[int]) -> list[str]:
        """Return the conditional references that a resource with these terms can match."""
        rows = self._database.execute(
            "SELECT DISTINCT reference FROM terms "
            "WHERE resource_type = ? AND term IN (SELECT value FROM json_each(?))",
            (resource_type, msgspec.json.encode(list(terms)).decode()),
        )
        return [reference for (reference,) in rows]

    def add_change(self, target: str) -> None:
        """Note that the load changes a resource, and drop the matches of its earlier version."""
        insert = "INSERT INTO changed VALUES (?) ON CONFLICT DO NOTHING"
        if not self._database.execute(insert, (target,)).rowcount:
            self._database.execute("DELETE FROM matches WHERE target = ?", (target,))

    def is_changed(self, target: str) -> bool:
        """Return whether the load changes a resource."""
        select = "SELECT 1 FROM changed WHERE target = ?"
        return self._database.execute(select, (target,)).fetchone() is not None

    def add_match(self, reference: str, target: str) -> None:
        """Add a resource that matches a conditional reference; it may be added repeatedly."""
        self._database.execute(
            "INSERT INTO matches VALUES (?, ?) ON CONFLICT DO NOTHING", (reference, target)
        )

    def set_unsupported(self, reference: str) -> None:
        """Note that the search of a conditional reference is not supported."""
        self._database.execute(
            "UPDATE conditionals SET unsupported = 1 WHERE reference = ?", (reference,)
        )

    def add_condition(self, creation: Creation) -> None:
        """Note that an entry creates a resource unless another one matches."""
        self.add_conditionals([creation.reference])
        self._database.execute(
            "INSERT INTO conditions VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (creation.target, creation.reference, creation.updates),
        )

    def settle_conditions(self) -> None:
        """
        Decide which resources are not created, once all matches are known.

        If several entries have the same condition, only the first creates its resource, and only
        if no other resource matches. The other entries create nothing, or update the match.
        """
        select = "SELECT reference FROM conditions GROUP BY 1 ORDER BY min(rowid)"
        for (reference,) in self._database.execute(select).fetchall():
            match, _ = self.conditional_target(reference)
            targets = self._database.execute(
                "SELECT target, updates FROM conditions WHERE reference = ? ORDER BY rowid",
                (reference,),
            ).fetchall()
            others = self._database.execute(
                "SELECT target FROM matches WHERE reference = ?1 AND target NOT IN "
                "(SELECT target FROM conditions WHERE reference = ?1) LIMIT 2",
                (reference,),
            ).fetchall()
            kept = targets[0][0]
            if others or match is Match.UNSUPPORTED:
                kept = others[0][0] if len(others) == 1 else ""
            for target, updates in targets:
                if target != kept:
                    if kept and updates:
                        self._move_matches(target, kept)
                    self._refuse(target, kept)

    def _move_matches(self, target: str, updated: str) -> None:
        """Replace the matches of a resource by those of `target`, which is loaded over it."""
        self._database.execute("DELETE FROM matches WHERE target = ?", (updated,))
        update = "UPDATE matches SET target = ? WHERE target = ?"
        self._database.execute(update, (updated, target))

    def _refuse(self, target: str, match: str) -> None:
        insert = "INSERT INTO refused VALUES (?, ?) ON CONFLICT DO NOTHING"
        self._database.execute(insert, (target, match))
        self._database.execute("DELETE FROM matches WHERE target = ?", (target,))
        if match:
            update = "UPDATE full_urls SET target = ? WHERE target = ?"
            self._database.execute(update, (match, target))
        else:
            self._database.execute("DELETE FROM full_urls WHERE target = ?", (target,))

    def refused(self, target: str) -> str | None:
        """
        Return the match in place of a resource that is not created; None if it is created.

        The match is a `Type/id`, or empty if it is not exactly one resource.
        """
        select = "SELECT match FROM refused WHERE target = ?"
        row: tuple[str] | None = self._database.execute(select, (target,)).fetchone()
        return None if row is None else row[0]

    def conditional_target(self, reference: str) -> tuple[Match, str | None]:
        """Return how a conditional reference matches, with the `Type/id` of a single match."""
        select = "SELECT 1 FROM conditionals WHERE reference = ? AND unsupported"
        if self._database.execute(select, (reference,)).fetchone():
            return Match.UNSUPPORTED, None
        rows = self._database.execute(
            "SELECT target FROM matches WHERE reference = ? LIMIT 2", (reference,)
        ).fetchall()
        if len(rows) == 1:
            return Match.ONE, rows[0][0]
        return (Match.SEVERAL if rows else Match.NOTHING), None

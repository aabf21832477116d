"""Schemas of databases: the numbered files of a plugin, and how a database compares with them."""

from collections.abc import Sequence
from importlib.resources import files

import msgspec

from helios_core.errors import ConfigurationError, SchemaOutdated

MIGRATE = "stop the servers that use it and run: helios migrate"
"""What to do about a database that is older than the code."""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a schema, never changed once it is released."""

    number: int
    """From 1, without gaps."""
    name: str
    """That of its file, without the suffix."""
    script: str


class Migrated(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to a database."""

    before: int
    """The number of its last migration; 0 for a new one."""
    after: int
    """The number of the last one now."""
    indexed: bool
    """Whether the search index of what was stored already was made anew."""

    def report(self, database: str) -> str:
        """Return it as a line for the operator."""
        indexed = "; its search index was made anew" if self.indexed else ""
        if self.before < self.after:
            return f"{database} went from version {self.before} to {self.after}{indexed}"
        return f"{database} has version {self.after} already{indexed}"


class Migrations(msgspec.Struct, frozen=True, kw_only=True):
    """
    The steps from an empty database to the schema that a plugin's code uses.

    A database keeps the number of the last step it had, its version. The plugin runs the steps
    `after` that one in a transaction, with its own driver.
    """

    distribution: str
    """Whose release has the schema, as it is installed."""
    steps: tuple[Migration, ...]

    @classmethod
    def of(cls, package: str, *, distribution: str) -> "Migrations":
        """
        Read the files of a package's folder `migrations`, such as `0001_versions.sql`.

        Raises:
            ValueError: They are not numbered from 1 without gaps.
        """
        folder = files(package).joinpath("migrations")
        steps = sorted(
            (
                Migration(
                    number=int(entry.name.partition("_")[0]),
                    name=entry.name.rpartition(".")[0],
                    script=entry.read_text(encoding="utf-8"),
                )
                for entry in folder.iterdir()
                if entry.name[0].isdigit()
            ),
            key=lambda step: step.number,
        )
        if [step.number for step in steps] != list(range(1, len(steps) + 1)):
            raise ValueError(f"the migrations of {package} are not numbered from 1 without gaps")
        return cls(distribution=distribution, steps=tuple(steps))

    @property
    def newest(self) -> int:
        """The version of a database that has had all steps."""
        return len(self.steps)

    def after(self, version: int) -> Sequence[Migration]:
        """Return the steps that a database of some version lacks, in order."""
        return self.steps[version:]

    def check(self, version: int, database: str) -> None:
        """
        Refuse a database of another version than the code's; `database` is what it is called.

        Raises:
            SchemaOutdated: It needs `helios migrate`.
            ConfigurationError: It is newer than the code.
        """
        if version > self.newest:
            raise ConfigurationError(
                f"{database} has version {version}, this code knows versions up to {self.newest}",
                advice=f"install the version of {self.distribution} that wrote it",
            )
        if version < self.newest:
            raise SchemaOutdated(
                f"{database} has version {version}, this code needs version {self.newest}",
                advice=MIGRATE,
            )


def index_outdated(database: str) -> SchemaOutdated:
    """Return the error of a database whose search index other code made."""
    return SchemaOutdated(
        f"the search index of {database} was made by other rules than this code's", advice=MIGRATE
    )

"""Database schemas: a plugin's numbered migrations, and whether a database has had them."""

from collections.abc import Sequence
from importlib.resources import files

import msgspec

from helios_core.errors import ConfigurationError, SchemaOutdated

MIGRATE = "stop the servers that use it and run: helios migrate"
"""What to do about a database that is older than the code."""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a schema, never changed once it is released."""

    number: int
    """Counted from 1, without gaps."""
    name: str
    """The name of its file, without the suffix."""
    script: str


class Migrated(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to a database."""

    before: int
    """The number of the last migration that the database had before; 0 for a new database."""
    after: int
    """The number of the last migration that it has now."""
    indexed: bool
    """Whether the search index of the stored resources was rebuilt."""

    def report(self, database: str) -> str:
        """Return the result as a line for the operator."""
        indexed = "; its search index was rebuilt" if self.indexed else ""
        if self.before < self.after:
            return f"{database} went from version {self.before} to {self.after}{indexed}"
        return f"{database} has version {self.after} already{indexed}"


class Migrations(msgspec.Struct, frozen=True, kw_only=True):
    """
    The steps from an empty database to the schema that a plugin's code uses.

    A database keeps the number of its last step, which is its version. The plugin runs the steps
    `after` that one in a transaction, with its own driver.
    """

    distribution: str
    """The distribution that has the schema, as pip knows it."""
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
        """Return the steps that a database of a version lacks, in order."""
        return self.steps[version:]

    def check(self, version: int, database: str) -> None:
        """
        Require that a database has the version of the code; `database` is its name in errors.

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
    """Return the error for a database whose search index was built by other rules."""
    return SchemaOutdated(
        f"the search index of {database} was built by other rules than this code's", advice=MIGRATE
    )

"""What the `sqlite3` shell takes to write the rows of a system export to a file."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SHELL = shutil.which("sqlite3")
CURRENT = """
SELECT content FROM versions
WHERE deleted = 0 AND until_stamp = (SELECT max(until_stamp) FROM versions)
"""


@dataclass(frozen=True)
class Dump:
    """One run of the shell."""

    seconds: float
    durable_seconds: float
    """With an fsync of the file, as every part of an export gets one."""
    size: int


def dump(database: Path, target: Path) -> Dump:
    assert SHELL
    command = [SHELL, "-readonly", "-batch", database, CURRENT]
    target.unlink(missing_ok=True)
    started = time.perf_counter()
    with target.open("wb") as file:
        subprocess.run(command, stdout=file, check=True)
        seconds = time.perf_counter() - started
        os.fsync(file.fileno())
        return Dump(seconds, time.perf_counter() - started, file.seek(0, os.SEEK_END))

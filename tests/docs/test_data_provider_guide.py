"""The guide to data providers shows two that keep the contract, and one of them is exported."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import asyncpg
import pytest

from tests.docs.elsewhere import PUBLIC, imported_from_helios
from tests.pace import Deadline
from tests.processes import Site
from tests.wheels import PROJECTS, build_wheels, install_wheels

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "how-to/write-a-data-provider.md").read_text()
EXAMPLE = DOCS / "examples/omop"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {text.partition("\n")[0]: text for text in re.split(r"^## ", GUIDE, flags=re.MULTILINE)}


def blocks(section, language):
    return [text for found, text in BLOCK.findall(SECTIONS[section]) if found == language]


def module(name, *texts, **given):
    made = ModuleType(name)
    vars(made).update(given)
    sys.modules[name] = made
    exec("\n\n".join(texts), vars(made))  # noqa: S102 - what the guide shows is what is tested
    return made


SQLITE = "Rows of a SQLite file"
clinic = module("helios_clinic", *blocks(SQLITE, "python"))
suite = module("test_clinic", *blocks("Prove it", "python"), SCHEMA=blocks(SQLITE, "sql")[0])
TestClinic = suite.TestClinic


def test_the_guide_describes_its_plugin_with_a_hook():
    assert clinic.helios_data_provider().implementation is clinic.ClinicDataProvider


def test_the_provider_is_about_sixty_lines():
    code = [line for text in blocks(SQLITE, "python")[1:-1] for line in text.splitlines() if line]

    assert len(code) <= 65


def test_what_the_guide_shows_of_the_example_is_in_it():
    sources = [path.read_text() for path in EXAMPLE.rglob("*.py")]
    shown = blocks("OMOP tables in PostgreSQL", "python")

    assert len(shown) == 4
    for text in shown:
        assert any(text.strip("\n") in source for source in sources), text


def test_every_field_of_the_holdings_is_explained():
    from helios_core.testing import Holdings  # noqa: PLC0415 - the suite has registered it

    named = set(re.findall(r"`(\w+)`", SECTIONS["Prove it"]))

    assert named >= {*Holdings.__struct_fields__}


async def test_what_the_guide_calls_settled_is_before_a_transaction_that_runs(postgres_url):
    [query] = blocks("What you have to guarantee", "sql")[:1]
    writer, reader = await asyncpg.connect(postgres_url), await asyncpg.connect(postgres_url)
    try:
        async with writer.transaction():
            stamp = await writer.fetchval("SELECT now()")
            assert await reader.fetchval(query) < stamp
    finally:
        await writer.close()
        await reader.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The example outside of the repository, installed from wheels beside wheels of Helios."""
    folder = tmp_path_factory.mktemp("third-party")
    shutil.copytree(EXAMPLE, folder / "omop")
    (folder / "wheels").mkdir()
    wheels = build_wheels([*PROJECTS, folder / "omop"], folder / "wheels")
    install_wheels(
        folder / "environment",
        wheels,
        f"helios-fhir[embedded,testing] @ {wheels['helios-fhir']}",
        f"helios-fhir-omop @ {wheels['helios-fhir-omop']}",
    )
    return folder


def test_the_suite_proves_the_example_from_its_own_folder(elsewhere, postgres_url):
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HFS_", "COV_"))}

    run = subprocess.run(
        [elsewhere / "environment/bin/python", "-m", "pytest", *options],
        cwd=elsewhere / "omop",
        env=inherited | {"OMOP_TEST_DATABASE_URL": postgres_url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^\d{2} passed, \d+ skipped", run.stdout, re.MULTILINE), run.stdout


@pytest.fixture
def site(elsewhere, postgres_url, tmp_path):
    """A server of the example's environment on the example's rows."""
    asyncio.run(_fill(postgres_url))
    settings = {"HFS_STORAGE_BACKEND": "omop", "HFS_OMOP_DATABASE_URL": postgres_url}
    site = Site(tmp_path, **settings)
    site.helios = elsewhere / "environment/bin/helios"
    yield site
    site.end()


async def _fill(url):
    connection = await asyncpg.connect(url)
    try:
        for name in ("schema.sql", "rows.sql"):
            await connection.execute((EXAMPLE / name).read_text())
    finally:
        await connection.close()


def test_the_example_is_exported_by_a_server_and_a_client(site, tmp_path):
    _, client = site.serve()

    site.run("export", client.base_url, "--to", str(tmp_path / "everything"))
    site.run("export", client.base_url, "--group", "41", "--to", str(tmp_path / "hypertension"))

    everything = _exported(tmp_path / "everything")
    hypertension = _exported(tmp_path / "hypertension")
    assert everything == [
        *("Condition/21", "Condition/22", "Condition/23"),
        *("Encounter/11", "Encounter/12", "Encounter/13", "Encounter/14"),
        "Group/41",
        *("Observation/31", "Observation/32", "Observation/33", "Observation/34"),
        *("Patient/1", "Patient/2", "Patient/3"),
    ]
    of_the_third = {"Encounter/14", "Observation/34", "Patient/3"}
    assert hypertension == [name for name in everything if name not in of_the_third]


def test_a_release_during_an_export_ends_it_with_an_explanation(site, postgres_url):
    _, client = site.serve(HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER="true")
    status = client.kick_off()
    asyncio.run(_release(postgres_url))

    site.start("worker", HFS_BULK_EXPORT_MAX_ATTEMPTS="1")

    response = _last_status(client, status)
    assert response.status_code == 500, response.text
    assert "start the export again" in response.text


def _last_status(client, status):
    deadline = Deadline(60)
    while (response := client.http.get(status)).status_code == 202:
        assert not deadline.has_passed(), "the export did not end"
        time.sleep(0.05)
    return response


async def _release(url):
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("UPDATE cdm_source SET cdm_release_date = '2026-04-01'")
    finally:
        await connection.close()


def _exported(folder):
    lines = [line for path in folder.rglob("*.ndjson") for line in path.read_text().splitlines()]
    resources = [json.loads(line) for line in lines]
    return sorted(f"{each['resourceType']}/{each['id']}" for each in resources)


def test_the_guide_and_the_example_import_only_the_public_api():
    shown = {name for text in blocks(SQLITE, "python") for name in _imported(text)}
    proof = {name for text in blocks("Prove it", "python") for name in _imported(text)}

    assert shown == {"helios_core"}
    assert proof <= PUBLIC
    assert imported_from_helios(EXAMPLE) <= PUBLIC


def _imported(text):
    return re.findall(r"^from (helios_core[\w.]*) import", text, re.MULTILINE)


def test_the_example_is_not_installed_here():
    with pytest.raises(ModuleNotFoundError):
        __import__("helios_omop")

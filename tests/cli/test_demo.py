"""The demonstration shows the truth, and says so when it is not what it should be."""

import io
import json
import re
import sqlite3

import pytest
from rich.console import Console

from helios_core.cli.demo import tallies
from helios_core.cli.demo import walk as demo
from helios_core.cli.demo.population import write_population
from helios_core.cli.demo.walk import DemoFailed
from helios_core.model.exports import Level

PATIENTS = 12


def console():
    return Console(file=io.StringIO(), width=120, soft_wrap=True)


async def test_it_can_be_repeated_and_every_count_agrees(tmp_path):
    for _ in range(2):
        shown = console()

        await demo.run_demo(tmp_path / "demo", shown, patients=PATIENTS)

        output = shown.file.getvalue()
        assert "Every count agrees" in output
        assert "sqlite (selected)" in output
        assert output.index("Resources generated") < output.index('"transactionTime"')
        assert re.search(r'"\.\.\. \d+ more"', output)
    for level in Level:
        folder = tmp_path / "demo" / "files" / level
        manifest = json.loads((folder / "manifest.json").read_bytes())
        names = {entry["url"].rsplit("/", 1)[-1] for entry in manifest["output"]}
        assert names == {path.name for path in folder.glob("*.ndjson")} != set()


async def test_what_a_server_leaves_out_is_told(tmp_path, monkeypatch):
    load = demo._load

    async def load_then_lose(selection, population):
        summary = await load(selection, population)
        with sqlite3.connect(tmp_path / "demo" / "server" / "helios.db") as database:
            goals = "SELECT min(seq) FROM versions JOIN collections USING (collection)"
            goals += " WHERE resource_type = 'Goal'"
            database.execute(f"DELETE FROM versions WHERE seq = ({goals})")
        database.close()
        return summary

    monkeypatch.setattr(demo, "_load", load_then_lose)

    with pytest.raises(DemoFailed, match="the export has 11 Goal at system level, not 12"):
        await demo.run_demo(tmp_path / "demo", console(), patients=PATIENTS)


async def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SERVE", "raise SystemExit('no server today')")

    with pytest.raises(DemoFailed, match=r"did not start; .*server\.log says why"):
        await demo.run_demo(tmp_path / "demo", console(), patients=PATIENTS)

    assert "no server today" in (tmp_path / "demo" / "server.log").read_text()


async def test_a_server_that_does_not_stop_is_ended_and_told(tmp_path, monkeypatch):
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('Listening on http://127.0.0.1:9', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(demo, "SERVE", deaf)
    (tmp_path / "server.log").touch()

    with pytest.raises(DemoFailed, match="did not stop within"):
        async with demo._server(tmp_path):
            monkeypatch.setattr(demo, "TIMEOUT_SECONDS", 0.3)


def test_the_tally_of_files_follows_the_compartment(tmp_path):
    write_population(tmp_path, patients=20)

    tallied = tallies.tally_files(tmp_path, referenced_types=["Location"])

    assert tallied[Level.SYSTEM]["Device"] == 20
    assert tallied[Level.PATIENT]["Device"] == 0  # not in the R4 Patient compartment
    assert tallied[Level.PATIENT]["Patient"] == 20
    assert tallied[Level.GROUP]["Patient"] == 2
    assert tallied[Level.GROUP]["Group"] == 1
    assert 1 <= tallied[Level.GROUP]["Location"] <= tallied[Level.SYSTEM]["Location"]
    assert tallied[Level.GROUP]["Organization"] == 0

"""What the capability matrix says has to be installed and set makes a row work."""

import json
import os
import subprocess

import pytest

from helios_core.config.matrix import DATA_PROVIDERS, INDEX, OUTPUT_STORES
from helios_core.config.plugins import has_extra
from tests.matrix import cells
from tests.wheels import PROJECTS, build_wheels, install_wheels

ROWS = [
    (provider, output)
    for name in DATA_PROVIDERS
    for provider in (name, f"{name}-{INDEX}")
    for output in OUTPUT_STORES
]
ADDRESSES = {
    "postgres": "postgresql://db.example.org/helios",
    "mongodb": "mongodb://db.example.org",
}
VALUES = {
    "HFS_S3_BUCKET": "clinic-records",
    "HFS_BULK_EXPORT_S3_BUCKET": "clinic-exports",
    "HFS_ELASTICSEARCH_NODES": "http://search.example.org:9200",
}


class Environments:
    """An environment with nothing but the core, and one for each advice that is followed."""

    def __init__(self, folder):
        self._folder = folder
        self._wheels = build_wheels(PROJECTS, folder / "wheels")
        self._made = {}

    def capabilities(self, install="helios-fhir", **settings):
        """Return the rows as `helios capabilities` prints them where that is installed."""
        if install not in self._made:
            folder = self._folder / str(len(self._made))
            requirement = f"{install} @ {self._wheels['helios-fhir']}"
            self._made[install] = install_wheels(folder, self._wheels, requirement)
        helios = self._made[install].with_name("helios")
        output = subprocess.check_output(
            [helios, "capabilities", "--all", "--format", "json"],
            env={"PATH": os.environ["PATH"], "HFS_DATA_DIR": str(self._folder)} | settings,
        )
        return {(row["data_provider"], row["output_store"]): row for row in json.loads(output)}


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    return Environments(tmp_path_factory.mktemp("environments"))


def value_of(name, data_provider):
    """Return an allowed value of a setting that has no default."""
    return ADDRESSES[data_provider.partition("-")[0]] if name.endswith("_URL") else VALUES[name]


@pytest.mark.in_turn
@pytest.mark.parametrize("row", ROWS, ids="/".join)
def test_following_the_advice_makes_the_row_work(environments, row):
    if reason := cells.rows()["/".join(row)].reason:
        pytest.skip(reason)
    before = environments.capabilities()[row]
    assert not before["works"]
    assert before["reason"] == f"install {before['install']}"

    installed = environments.capabilities(before["install"])[row]
    needed = {name: value_of(name, row[0]) for name in installed["required"]}
    unset = environments.capabilities(before["install"], **installed["settings"])[row]
    after = environments.capabilities(before["install"], **installed["settings"], **needed)[row]

    assert (installed["works"], installed["install"]) == (True, "")
    assert unset["works"] == (not needed)
    assert all(name in unset["reason"] for name in needed)
    assert (after["selected"], after["works"], after["reason"]) == (True, True, "")


def test_no_row_is_advised_to_install_what_it_does_not_need(environments):
    rows = environments.capabilities()

    for row in ROWS:
        extras = rows[row]["install"].partition("[")[2].strip("]").split(",")
        named = {*row[0].split("-"), row[1].replace("-", "")}
        beside = {"sqlite"} if row[0].startswith("s3") else set()
        assert set(extras) == {name for name in named | beside if has_extra(name)}

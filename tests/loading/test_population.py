"""The synthetic population is valid, complete, exact in number and always the same."""

import json
import re
from collections import Counter

import pytest

from helios_core.cli.demo.population import GROUP_ID, write_population
from helios_core.fhir.definitions import FHIRVersion, load_definitions

R4 = load_definitions(FHIRVersion.R4)


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    counts = write_population(folder, patients=25)
    resources = [
        json.loads(line) for path in folder.iterdir() for line in path.read_bytes().splitlines()
    ]
    return folder, counts, resources


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("reference"), str):
            yield node["reference"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_the_counts_are_those_of_the_files(population):
    folder, counts, resources = population

    assert Counter(resource["resourceType"] for resource in resources) == counts
    assert {path.stem for path in folder.iterdir()} == set(counts)
    assert counts["Patient"] == 25
    assert len(counts) >= 20


def test_every_element_is_one_of_its_type(population):
    _, _, resources = population
    for resource in resources:
        elements = R4.elements(resource["resourceType"])
        plain = {name for name in elements if not name.endswith("[x]")}
        choices = tuple(name.removesuffix("[x]") for name in elements if name.endswith("[x]"))
        found = set(resource) - {"resourceType"}
        strange = {name for name in found - plain if not name.startswith(choices or ("",))}
        assert strange == set()
        required = {name for name, element in elements.items() if element.min and name in plain}
        assert required <= found
        for name in found & plain:
            assert isinstance(resource[name], list) == (elements[name].max == "*"), name


def test_every_reference_leads_somewhere(population):
    _, _, resources = population
    there = {f"{resource['resourceType']}/{resource['id']}" for resource in resources}

    assert len(there) == len(resources)
    assert {r for resource in resources for r in references(resource)} <= there


def test_one_patient_in_ten_is_in_the_group(population):
    _, _, resources = population
    (group,) = [r for r in resources if r["resourceType"] == "Group"]

    assert group["id"] == GROUP_ID
    assert len(group["member"]) == group["quantity"] == 3


def test_decimals_keep_their_zeros_and_names_their_letters(population):
    folder, _, _ = population
    observations = (folder / "Observation.ndjson").read_text()
    patients = (folder / "Patient.ndjson").read_text()

    assert re.search(r'"valueQuantity":\{"value":\d+\.\d0,', observations)
    assert re.search(r'"family":"[^"]*[^\x00-\x7f]', patients)


@pytest.mark.parametrize("resources", [200, 5000])
def test_the_number_of_resources_is_exact(tmp_path, resources):
    counts = write_population(tmp_path, resources=resources)

    assert counts.total() == resources
    assert counts["Group"] == 1


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_population(tmp_path / name, patients=3, seed=seed)

    def content(name):
        return [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]

    assert content("a") == content("b")
    assert content("a") != content("c")


def test_too_small_a_population_is_refused(tmp_path):
    with pytest.raises(ValueError, match="too few"):
        write_population(tmp_path, resources=3)


async def test_the_population_loads_without_a_problem(population, store):
    folder, counts, _ = population

    summary = await store.load(folder)

    assert (summary.created, summary.bad, summary.unresolved) == (counts.total(), 0, 0)

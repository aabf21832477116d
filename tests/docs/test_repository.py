"""Workflows, templates and hooks are valid, and name what exists."""

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yaml"))
VALID = {
    **dict.fromkeys(WORKFLOWS, "github-workflows"),
    ROOT / ".github/dependabot.yml": "dependabot",
    ROOT / ".github/ISSUE_TEMPLATE/bug.yaml": "github-issue-forms",
    ROOT / ".github/ISSUE_TEMPLATE/feature.yaml": "github-issue-forms",
    ROOT / ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
}
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
PLUGINS = sorted(ROOT.glob("plugins/*/pyproject.toml"))


def project(path):
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(("path", "schema"), VALID.items(), ids=[path.name for path in VALID])
def test_what_github_reads_is_as_github_wants_it(path, schema):
    vendored = files("check_jsonschema") / f"builtin_schemas/vendor/{schema}.json"
    document = yaml.safe_load(path.read_text())
    document = {"on" if key is True else key: value for key, value in document.items()}

    jsonschema.validate(document, json.loads(vendored.read_text()))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_ends_by_itself(path):
    workflow = yaml.safe_load(path.read_text())

    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_every_python_that_is_promised_is_tested():
    named = re.findall(
        r"Python :: (3\.\d+)", " ".join(project(ROOT / "pyproject.toml")["classifiers"])
    )
    jobs = yaml.safe_load(WORKFLOWS[0].read_text())["jobs"]

    assert jobs["fast"]["strategy"]["matrix"]["python"] == named
    assert jobs["services"]["strategy"]["matrix"]["python"] == named


def test_every_make_target_that_is_run_exists():
    texts = [
        path.read_text() for path in [*WORKFLOWS, *ROOT.glob(".github/*.md"), *ROOT.glob("*.md")]
    ]
    texts += [(ROOT / ".ci/run").read_text(), (ROOT / ".pre-commit-config.yaml").read_text()]

    named = {
        name
        for text in texts
        for name in re.findall(r"(?:`|: |^)make ([a-z-]+)", text, re.MULTILINE)
    }

    assert {"install", "lint", "test-fast", "types", "imports"} <= named <= TARGETS


def test_hooks_run_the_tools_of_the_repository():
    entries = [hook["entry"] for repository in HOOKS["repos"] for hook in repository["hooks"]]

    assert {repository["repo"] for repository in HOOKS["repos"]} == {"local"}
    assert all(entry.startswith((".venv/bin/", "make ")) for entry in entries)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_every_plugin_introduces_itself(path):
    text = (path.parent / project(path)["readme"]).read_text(encoding="utf-8")

    assert text.startswith(f"# {project(path)['name']}\n")
    assert [
        title
        for title in ("Install", "Settings", "Example", "Limits")
        if f"\n## {title}\n" not in text
    ] == []


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_every_plugin_has_the_import_rules_of_its_neighbours(path):
    [package] = (folder.name for folder in path.parent.glob("helios_*"))
    linter = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["importlinter"]

    rules = {rule["type"]: rule for rule in linter["contracts"]}

    assert linter["root_packages"] == ["helios_core", package]
    assert rules.keys() == {"protected", "forbidden", "acyclic_siblings"}
    assert rules["protected"]["protected_modules"] == ["helios_core.*"]
    assert rules["protected"]["ignore_imports"] == [f"{package}.** -> helios_core.fhir"]
    assert rules["forbidden"]["forbidden_modules"] == ["litestar", "pluggy", "pytest"]
    assert rules["acyclic_siblings"]["ancestors"] == [package]


def test_a_plugin_is_named_in_the_root_project_as_an_extra_alone():
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    del root["project"]["optional-dependencies"]

    assert re.findall(r"helios-fhir-\w+|helios_(?!core)\w+|plugins/\w+", json.dumps(root)) == []

"""Every setting that the documentation names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference/settings.md"
WITH_OTHERS = {
    "extend-the-server.md",
    "cli.md",
    "hooks.md",
    "test.md",
    "write-a-data-provider.md",
    "write-an-output-store.md",
}
"""Pages that show settings of examples, of tests, or misspelt ones."""
PAGES = [
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*/*.md"), *ROOT.glob("plugins/*/*.md")]
    if page.name not in WITH_OTHERS and page.parent.name != "decisions"
]
EXISTING = set(re.findall(r"^\| `(HFS_\w+)` \|", REFERENCE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_setting_that_a_page_names_exists(page):
    named = set(re.findall(r"HFS_[A-Z0-9]\w*", page.read_text(encoding="utf-8")))

    assert {name for name in named - EXISTING if not name.startswith("HFS_TEST_")} == set()

"""
The pages of the documentation that are generated.

`make docs` (`python -m tests.pages`) writes them; tests hold them against the code.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from helios_core.cli import tables
from helios_core.config.selection import configure
from tests import backends, conformance, parameters, public_api, shared_resources

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
BEFORE_SETTINGS = "`make docs` writes what follows; a test compares.\n\n"
"""The end of what is written by hand in the page of settings."""


def settings() -> str:
    """Return the page of settings: what is written by hand, then those of every plugin."""
    written, end, _ = (REFERENCE / "settings.md").read_text("utf-8").partition(BEFORE_SETTINGS)
    rows = tables.setting_rows(configure({}), {}, others=backends.plugins())
    return f"{written}{end}{tables.settings_markdown(rows)}"


PAGES: Mapping[str, Callable[[], str]] = {
    "../../README.md": backends.readme,
    "api.md": public_api.page,
    "backends.md": backends.page,
    "conformance.md": conformance.page,
    "parameters.md": parameters.page,
    "settings.md": settings,
    "shared-resources.md": shared_resources.page,
}
"""What makes each page that is generated, by its path from the reference."""


if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")

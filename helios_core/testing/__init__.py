"""
Contract suites for plugin authors: subclass one, give one fixture, run pytest.

The suites are written for `asyncio_mode = "auto"` of pytest-asyncio. They come with the extra
`helios-core[testing]`.
"""

import pytest

# Failed assertions of a shipped suite show their values only if rewriting is asked for by name
# before the module is imported.
pytest.register_assert_rewrite(
    "helios_core.testing.output_stores",
    "helios_core.testing.suites",
)

from helios_core.testing.suites import ContractSuite  # noqa: E402 - must follow the registration

__all__ = ["ContractSuite"]

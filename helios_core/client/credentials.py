"""Sources of the Authorization header of a client."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from helios_core.errors import ConfigurationError


class Credentials(Protocol):
    """
    The source of one client's Authorization header.

    `header` is called for every request to the server, so an implementation caches it. One object
    serves concurrent requests.
    """

    @property
    def origin(self) -> Mapping[str, str]:
        """What an interrupted export stores to make the same credentials again; no secrets."""
        ...

    async def header(self) -> str:
        """
        Return the value of the Authorization header.

        Raises:
            HeliosError: The header cannot be obtained.
        """
        ...

    async def renewed(self, refused: str) -> bool:
        """Return whether there is a new header, after the server refused one with status 401."""
        ...


class TokenFile:
    """A bearer token in a file that another program may replace while the export runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header: str | None = None

    @property
    def origin(self) -> Mapping[str, str]:
        """The path of the file; see `Credentials`."""
        return {"token_file": str(self.path.absolute())}

    async def header(self) -> str:
        """
        Return the token as a header; the file is read at the first call.

        Raises:
            ConfigurationError: The file cannot be read, or does not hold one token.
        """
        if self._header is None:
            self._header = await asyncio.to_thread(self._read)
        return self._header

    async def renewed(self, refused: str) -> bool:
        """Read the file again; see `Credentials`."""
        self._header = await asyncio.to_thread(self._read)
        return self._header != refused

    def _read(self) -> str:
        try:
            token = self.path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(
                f"the token in {self.path} cannot be read: {type(error).__name__}"
            ) from None
        if not token or not token.isprintable() or " " in token:
            raise ConfigurationError(f"{self.path} must hold one token and nothing else")
        return f"Bearer {token}"

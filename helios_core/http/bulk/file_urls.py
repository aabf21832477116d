"""The download URLs of the files of a manifest."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec

from helios_core.config.settings import AccessToken
from helios_core.model.parts import PartKey
from helios_core.storage.output_store import OutputStore, SupportsSignedURLs


class FileURLs(msgspec.Struct, frozen=True, kw_only=True):
    """The URLs of some parts."""

    by_key: Mapping[PartKey, str]
    require_access_token: bool
    """Whether a download needs the token of the API; the same for all parts of an export."""


class FileURLSigner:
    """
    Makes the URLs of files: signed by the output store, or on this server.

    The signed URLs of a file differ from poll to poll, only in their query; none is ever stored.
    """

    def __init__(
        self,
        output_store: OutputStore,
        *,
        access_token: AccessToken,
        valid_for: timedelta,
        secured: bool = False,
    ) -> None:
        """Sign URLs unless `access_token` is TRUE; `secured`: this server's URLs need a token."""
        signed = access_token is not AccessToken.TRUE
        self._signer = (
            output_store if signed and isinstance(output_store, SupportsSignedURLs) else None
        )
        self._require_access_token = not signed or (secured and self._signer is None)
        self._valid_for = valid_for

    async def urls(self, keys: Sequence[PartKey], *, base: str) -> FileURLs:
        """
        Return the URL of each part; those of this server begin with `base`.

        Raises:
            BackendUnavailable: There are no credentials to sign with.
        """
        if self._signer is None:
            urls = [f"{base}/export-file/{key.job_id}/{key.name}" for key in keys]
        else:
            urls = list(await self._signer.signed_urls(keys, valid_for=self._valid_for))
        return FileURLs(
            by_key=dict(zip(keys, urls, strict=True)),
            require_access_token=self._require_access_token,
        )

"""Where the files of a manifest are downloaded from."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec

from helios_core.config.settings import AccessToken
from helios_core.model.parts import PartKey
from helios_core.storage.output_store import OutputStore, SupportsSignedURLs


class PartURLs(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of some parts, all of one kind."""

    of: Mapping[PartKey, str]
    require_access_token: bool


class FileURLSigner:
    """
    Gives every file an address: signed by the output store, or one of this server.

    A signed address differs from poll to poll after its `?` alone, and is kept nowhere.
    """

    def __init__(
        self, outputs: OutputStore, *, access_token: AccessToken, valid_for: timedelta
    ) -> None:
        signs = access_token is not AccessToken.TRUE
        self._signer = outputs if signs and isinstance(outputs, SupportsSignedURLs) else None
        self._valid_for = valid_for
        self._need_token = access_token is AccessToken.TRUE

    async def to(self, keys: Sequence[PartKey], base: str) -> PartURLs:
        """
        Give the address of each part, as seen through a base URL.

        Raises:
            BackendUnavailable: There are no credentials to sign with.
        """
        if self._signer is None:
            urls = [f"{base}/export-file/{key.job_id}/{key.name}" for key in keys]
        else:
            urls = list(await self._signer.signed_urls(keys, valid_for=self._valid_for))
        return PartURLs(
            of=dict(zip(keys, urls, strict=True)), require_access_token=self._need_token
        )

"""States: how far the index of a dataset has followed the data, one document per dataset."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec
from elasticsearch import AsyncElasticsearch, ConflictError, NotFoundError

from helios_core import Dataset, IndexState
from helios_core.fhir import FHIRVersion, from_stamp
from helios_elasticsearch.errors import kind_of, translated
from helios_elasticsearch.mappings import aliases, create_index, state_alias, state_index
from helios_elasticsearch.responses import hits_of, refresh
from helios_elasticsearch.settings import ElasticsearchSettings

_PAGE = 1000


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a dataset, and where its entries are."""

    tenant: str
    fhir_version: FHIRVersion
    epoch: str
    entries: str
    """The alias of the index that has the entries."""
    build: str
    """The mark of the entries of this epoch, never used for others."""
    reached: int | None = None
    """In microseconds since 1970."""
    note: str = ""
    stale: tuple[str, ...] = ()
    """Earlier builds that may still have entries."""

    @property
    def dataset(self) -> Dataset:
        """The dataset of the state."""
        return Dataset(self.tenant, self.fhir_version)

    @property
    def public(self) -> IndexState:
        """The state as the contract defines it."""
        reached = None if self.reached is None else from_stamp(self.reached)
        return IndexState(epoch=self.epoch, reached=reached, note=self.note)


class Stored(msgspec.Struct, frozen=True):
    """A state that was read, and the write that it comes from."""

    state: State = msgspec.field(name="_source")
    seq_no: int = msgspec.field(name="_seq_no")
    primary_term: int = msgspec.field(name="_primary_term")


class States:
    """The states of all datasets; a write fails if the state has changed since it was read."""

    def __init__(self, client: AsyncElasticsearch, settings: ElasticsearchSettings) -> None:
        self._client = client
        self._alias = state_alias(settings)

    async def read(self, dataset: Dataset) -> Stored | None:
        """Return the current state of a dataset, or None if it has none."""
        with translated():
            try:
                found = await self._client.get(index=self._alias, id=_id(dataset))
            except NotFoundError as error:
                if _is_absent(error):
                    return None
                raise
            return msgspec.convert(found.body, Stored)

    async def write(self, state: State, before: Stored | None) -> bool:
        """Replace the state `before`; return False, and change nothing, if it has changed."""
        condition: dict[str, Any] = {"op_type": "create"}
        if before is None:
            await create_index(self._client, self._alias, state_index())
        else:
            condition = {"if_seq_no": before.seq_no, "if_primary_term": before.primary_term}
        with translated():
            try:
                response = await self._client.index(
                    index=self._alias,
                    id=_id(state.dataset),
                    document=msgspec.to_builtins(state),
                    # Otherwise a missing index would be created without its mapping.
                    require_alias=True,
                    **condition,
                )
            except ConflictError:
                return False
            msgspec.convert(response.body, _Written)
        return True

    async def datasets(self) -> Sequence[Dataset]:
        """Return every dataset that has a state."""
        if self._alias not in await aliases(self._client, f"{self._alias}*"):
            return []
        await refresh(self._client, self._alias)
        found, after = list[Dataset](), dict[str, Any]()
        while True:
            hits = await hits_of(
                self._client,
                self._alias,
                parts=["_source"],
                sort=[{"tenant": "asc"}, {"fhir_version": "asc"}],
                size=_PAGE,
                **after,
            )
            with translated():
                page = [hit.state.dataset for hit in msgspec.convert(hits, list[_Found])]
            found += page
            if len(page) < _PAGE:
                return found
            after = {"search_after": [page[-1].tenant, page[-1].fhir_version.value]}


class _Written(msgspec.Struct, frozen=True):
    result: Literal["created", "updated"]


class _Found(msgspec.Struct, frozen=True):
    state: State = msgspec.field(name="_source")


def _is_absent(error: NotFoundError) -> bool:
    """Return whether the document or its index does not exist."""
    found = error.body.get("found") if isinstance(error.body, dict) else None
    return found is False or kind_of(error) == "index_not_found_exception"


def _id(dataset: Dataset) -> str:
    """Return a document id of bounded length that does not reveal the tenant in URLs and logs."""
    text = f"{dataset.fhir_version.value}/{dataset.tenant}"
    return blake2b(text.encode(), digest_size=16).hexdigest()

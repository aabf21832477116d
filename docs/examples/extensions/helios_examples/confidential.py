"""A transform: resources labelled as restricted do not leave."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec

from helios_core import (
    API_LEVEL,
    Transform,
    TransformEffect,
    TransformExtension,
    TypeKey,
    hookimpl,
)

CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"


class ConfidentialSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which resources stay."""

    codes: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="Confidentiality codes of resources that do not leave"),
    ] = ("R", "V")


class WithoutConfidential(Transform):
    """Keeps back resources by the confidentiality in `meta.security`."""

    def __init__(self, codes: tuple[str, ...]) -> None:
        self._codes = frozenset(codes)

    def apply(self, resource: dict[str, Any], key: TypeKey) -> dict[str, Any] | None:
        """Return the resource, or None if it is labelled with one of the codes."""
        del key
        labels = resource.get("meta", {}).get("security", ())
        codes = {each.get("code") for each in labels if each.get("system") == CONFIDENTIALITY}
        return None if codes & self._codes else resource


@asynccontextmanager
async def open_transform(settings: ConfidentialSettings) -> AsyncIterator[Transform]:
    """Yield the transform; every worker process opens one."""
    yield WithoutConfidential(settings.codes)


@hookimpl
def helios_transform() -> TransformExtension:
    """Offer to keep resources back; what leaves is what is stored, byte for byte."""
    return TransformExtension(
        api_level=API_LEVEL,
        implementation=WithoutConfidential,
        settings=ConfidentialSettings,
        open=open_transform,
        effect=TransformEffect(changes=False),
    )

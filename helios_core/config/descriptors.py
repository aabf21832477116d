"""
Check the descriptors that the hooks of a plugin return; a plugin with invalid ones is not used.

A plugin may return anything, whatever its type annotations say, so descriptors are `Any` here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from helios_core.config.environment import describe_variables
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.storage.backends import Backend, Descriptor, Reach
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.extensions import (
    CommandExtension,
    FileAuthorizerExtension,
    HealthExtension,
    ObserverExtension,
    RouteExtension,
    TokenVerifierExtension,
    TransformExtension,
)
from helios_core.storage.hooks import API_LEVEL
from helios_core.storage.job_store import JobStore
from helios_core.storage.output_store import OutputStore
from helios_core.storage.search_index import SearchIndex
from helios_core.storage.transforms import (
    Coding,
    RestReads,
    SupportsRenaming,
    Transform,
    TransformEffect,
)

COMMANDS = (
    *("capabilities", "demo", "doctor", "export", "index", "jobs", "load", "migrate"),
    *("plugins", "serve", "settings", "verify", "worker"),
)
"""The server's own commands, which no plugin may replace."""

MAX_WAIT = timedelta(seconds=5)
"""The maximum time limit of extensions that requests wait for."""

KINDS: Mapping[str, tuple[str, type[Descriptor]]] = {
    "helios_data_provider": ("data provider", Backend),
    "helios_job_store": ("job store", Backend),
    "helios_output_store": ("output store", Backend),
    "helios_search_index": ("search index", Backend),
    "helios_command": ("command", CommandExtension),
    "helios_routes": ("routes", RouteExtension),
    "helios_health_checks": ("health checks", HealthExtension),
    "helios_transform": ("transform", TransformExtension),
    "helios_observer": ("observer", ObserverExtension),
    "helios_token_verifier": ("token verifier", TokenVerifierExtension),
    "helios_file_authorizer": ("file authorizer", FileAuthorizerExtension),
}
"""By hook, the name of the kind of thing it offers, and the class of its descriptor."""

CONTRACTS: Mapping[str, type] = {
    "helios_data_provider": DataProvider,
    "helios_job_store": JobStore,
    "helios_output_store": OutputStore,
    "helios_search_index": SearchIndex,
    "helios_transform": Transform,
}
"""By hook, the class from which the implementation of a descriptor must derive."""


def descriptor_problems(hook: str, offer: object, *, plugin: str) -> Iterator[str]:
    """Yield the problems of a hook's descriptor, as predicates of sentences on the plugin."""
    kind, expected = KINDS[hook]
    contract = CONTRACTS.get(hook)
    implementation = getattr(offer, "implementation", None)
    if not isinstance(offer, expected) or (contract and not _derives(implementation, contract)):
        of = f" of a {contract.__name__}" if contract else ""
        yield f"offers something that is not a {expected.__name__}{of} as {kind}"
        return
    if offer.api_level != API_LEVEL:
        yield (
            f"was written for level {offer.api_level} of the plugin contract and this is level "
            f"{API_LEVEL}; install versions of both that fit"
        )
        return
    yield from _settings_problems(kind, offer.settings, plugin)
    for problem in _checks(offer)(offer):
        yield f"offers a descriptor of its {kind} {problem}"
    if isinstance(offer, CommandExtension) and (name := offer.name or plugin) in COMMANDS:
        yield f"offers a command, but helios {name} is one of the server's own"


def _settings_problems(kind: str, settings: object, plugin: str) -> Iterator[str]:
    if not isinstance(settings, type) or not issubclass(settings, msgspec.Struct):
        yield f"offers a descriptor of its {kind} whose settings are not a msgspec.Struct"
        return
    try:
        describe_variables(settings, plugin=plugin)
    except Exception as error:  # noqa: BLE001  annotations of a plugin may be anything
        yield f"offers a descriptor of its {kind} whose settings cannot be described: {error}"


def _checks(offer: Descriptor) -> Callable[[Any], Iterator[str]]:
    match offer:
        case Backend():
            return _backend_problems
        case CommandExtension():
            return _command_problems
        case RouteExtension():
            return _route_problems
        case TransformExtension():
            return _transform_problems
        case _:
            return _limited_problems


def _backend_problems(offer: Any) -> Iterator[str]:  # noqa: ANN401
    yield from _open_problems(offer)
    if not isinstance(offer.reach, Reach):
        yield f"with reach {offer.reach!r}; it must be one of helios_core.Reach"


def _command_problems(offer: Any) -> Iterator[str]:  # noqa: ANN401
    if not callable(offer.command):
        yield "whose command is not callable"
    if offer.name is not None and not re.fullmatch(r"[a-z]+(-[a-z]+)*", str(offer.name)):
        yield f"with the name {offer.name!r}; it must be lower-case words joined by hyphens"


def _route_problems(offer: Any) -> Iterator[str]:  # noqa: ANN401
    yield from _open_problems(offer)
    if not isinstance(offer.public, bool):
        yield "whose public is neither true nor false"


def _limited_problems(offer: Any) -> Iterator[str]:  # noqa: ANN401
    yield from _open_problems(offer)
    limit = offer.time_limit
    short = isinstance(offer, HealthExtension | TokenVerifierExtension | FileAuthorizerExtension)
    most = MAX_WAIT if short else timedelta.max
    if not isinstance(limit, timedelta) or not timedelta() < limit <= most:
        end = f" and at most {most.total_seconds():g} seconds" if most < timedelta.max else ""
        yield f"whose time_limit is not a timedelta above 0{end}"


def _transform_problems(offer: Any) -> Iterator[str]:  # noqa: ANN401
    yield from _open_problems(offer)
    if not isinstance(offer.effect, TransformEffect):
        yield "whose effect is not a TransformEffect"
        return
    yield from _effect_problems(offer.effect)
    if not issubclass(offer.implementation, SupportsRenaming):
        return
    if offer.effect.rest is RestReads.TRANSFORMED:
        yield (
            "that gives resources other ids, under which they cannot be read over REST; set rest "
            "to RestReads.WITHHELD or RestReads.UNTOUCHED"
        )
    if not offer.effect.changes:
        yield "that gives resources other ids and says that it changes none"


def _effect_problems(effect: Any) -> Iterator[str]:  # noqa: ANN401
    for name in sorted(effect.types or ()):
        if not any(name in load_definitions(version).types for version in FHIRVersion):
            yield f"for {name!r}, which is a resource type of no FHIR version"
    if effect.types is not None and not effect.types:
        yield "that is called for no type"
    if not effect.changes and not effect.drops:
        yield "that neither changes nor drops resources"
    codings = (*effect.security, *effect.tags)
    if not all(isinstance(coding, Coding) for coding in codings):
        yield "with security or tags that are not Codings"
    if effect.changes and not codings:
        yield "that changes resources and adds no code to meta.security or meta.tag to say so"
    if codings and not effect.changes:
        yield "that adds codes to resources and says that it changes none"
    if not isinstance(effect.rest, RestReads):
        yield f"with rest {effect.rest!r}; it must be one of helios_core.RestReads"


def _open_problems(offer: Any) -> Iterator[str]:  # noqa: ANN401
    if not callable(offer.open):
        yield "whose open is not callable"


def _derives(implementation: object, base: type) -> bool:
    return isinstance(implementation, type) and issubclass(implementation, base)

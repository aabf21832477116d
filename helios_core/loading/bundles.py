"""The resources in Bundles, and the ids by which their own links resolve."""

import re
from collections.abc import Iterator, Mapping, Sequence
from uuid import NAMESPACE_URL, uuid5

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.fhir.bundles import ParsedBundle, ParsedEntry, parse_bundle
from helios_core.fhir.links import BundleLinks, normalized_link, split_address
from helios_core.fhir.references import split_reference
from helios_core.hashes import to_signed
from helios_core.loading.inputs import InputDocument
from helios_core.loading.link_index import Claim, Creation, Definition, LinkIndex, is_unique
from helios_core.loading.resources import (
    ID,
    LoadedResource,
    LoadOptions,
    LoadProblem,
    assigned_id,
    identity_of,
    problem,
)

UNPACKED = frozenset({"transaction", "batch", "collection", "searchset", "history"})
"""The types of Bundles that only carry resources; the others are stored as resources."""

_HISTORY = re.compile(r"/_history/[^/]+$")
_NOT_CREATED = (
    "another resource matches its condition (ifNoneExist, or the search of a conditional PUT), or "
    "that cannot be searched; it is not created, and links to it lead to the one that matches"
)
_OF_ANOTHER_SERVER = (
    "another server's resource has the same type and id, and comes first; load the data of one of "
    "the servers into another tenant, or change its ids"
)
_DOUBLED = (
    "an earlier entry of the Bundle has the same type and id and is another resource; that one is "
    "loaded, and links to this one are kept"
)
_STORED_ANYWAY = (
    "another entry of the transaction stores what it deletes; that is loaded, and not deleted"
)
_AMBIGUOUS = "its id would be that of its fullUrl, which is also the fullUrl of another resource"


def is_unpacked(document: InputDocument) -> bool:
    """
    Return whether a document is a Bundle that only carries resources.

    A line of NDJSON with an id is a resource to store, whatever its type: loading exported Bundles
    has to store the same Bundles.
    """
    if b'"Bundle"' not in document.content:
        return False
    identity = identity_of(document.content)
    is_stored = document.line is not None and identity.id is not None
    if identity.resource_type != "Bundle" or is_stored:
        return False
    return bytes(identity.type).strip(b'"').decode(errors="replace") in UNPACKED


class LoadedBundle:
    """A Bundle, whose entries get ids and whose links are resolved among its entries."""

    def __init__(
        self, document: InputDocument, options: LoadOptions, index: LinkIndex | None = None
    ) -> None:
        """
        Parse the Bundle; `index` has the ids that its entries must not have.

        Raises:
            InvalidResource: The Bundle is invalid.
        """
        self._document = document
        self._options = options
        self._bundle = parse_bundle(document.content)
        self._digest = document.digest
        self._proposed_targets = [
            self._target(number, entry) for number, entry in enumerate(self._bundle.entries)
        ]
        displaced = index.displaced(self._digest) if index else frozenset()
        self.displaced = frozenset(
            number
            for number, proposed in enumerate(self._proposed_targets)
            if proposed.reference in displaced
            and self._creates(self._bundle.entries[number], proposed)
        )
        """The indices of entries that must get another id than they propose."""
        self._targets = [
            self._own_target(proposed) if number in self.displaced else proposed
            for number, proposed in enumerate(self._proposed_targets)
        ]
        self.clashes = self._find_clashes()
        """The indices of entries whose fullUrl is that of another resource in the Bundle."""
        self._doubled = frozenset(self._find_doubled())

    def _find_clashes(self) -> Mapping[int, str]:
        """Return the normalized fullUrls that stand for more than one resource, by entry index."""
        first = dict[str, tuple[object, ...]]()
        clashes = dict[int, str]()
        for index, (entry, target) in enumerate(
            zip(self._bundle.entries, self._targets, strict=True)
        ):
            if not entry.full_url or entry.resource is None:
                continue
            url = normalized_link(entry.full_url)
            same_content = self._bundle.type == "history" or not target.from_full_url
            meaning = (target.reference, None if same_content else entry.resource)
            if first.setdefault(url, meaning) != meaning:
                clashes[index] = url
        return clashes

    def _find_doubled(self) -> Iterator[int]:
        """
        Yield the indices of entries with the type and id of a different, earlier resource.

        In a transaction, where the order of entries does not matter, these include deletions of
        resources that other entries store.

        Two fullUrls are two resources, unless a PUT says which one is stored, and a transaction
        changes each resource once. A history, and entries with one fullUrl, have versions of one
        resource.
        """
        if self._bundle.type == "history":
            return
        first = dict[str, ParsedEntry]()
        for index, (entry, target) in enumerate(
            zip(self._bundle.entries, self._targets, strict=True)
        ):
            if entry.resource is None or not target.reference or _condition(entry, ""):
                continue
            other = first.setdefault(target.reference, entry)
            if other.resource == entry.resource:
                continue
            different_urls = _versionless_url(other) != _versionless_url(entry)
            if self._bundle.type == "transaction" or (
                different_urls and "PUT" not in {other.method, entry.method}
            ):
                yield index
        for index, entry in enumerate(self._bundle.entries):
            if self._bundle.type == "transaction" and _deleted(entry) in first:
                yield index

    def _creates(self, entry: ParsedEntry, target: "_Target") -> bool:
        """
        Return whether an entry creates a resource, so that its id is only a proposal.

        A POST does, and so does an entry without a request whose fullUrl has a meaning in its own
        Bundle only. A resource whose id comes from a real UUID or OID cannot get another one.
        """
        if self._bundle.type == "history" or entry.method not in {"POST", None}:
            return False
        url = normalized_link(entry.full_url or "")
        if entry.method == "POST":
            return not (target.from_full_url and is_unique(url))
        return bool(url) and not is_unique(url) and split_address(url) is None

    def claims(self) -> Iterator[tuple[int, Claim]]:
        """Yield the ids of the Bundle's resources, with the indices of their entries."""
        for number, (entry, target) in enumerate(
            zip(self._bundle.entries, self._proposed_targets, strict=True)
        ):
            if entry.resource is not None and target.reference and number not in self._doubled:
                url = normalized_link(entry.full_url or "")
                name = url if is_unique(url) else ""
                yield number, Claim(target.reference, self._creates(entry, target), name)

    def definitions(self) -> Iterator[tuple[int, Definition]]:
        """Yield the resources of globally unique fullUrls, with the indices of their entries."""
        ambiguous = set(self.clashes.values())
        for index, (entry, target) in enumerate(
            zip(self._bundle.entries, self._targets, strict=True)
        ):
            url = normalized_link(entry.full_url or "")
            if index in self._doubled:
                continue
            if is_unique(url) and url not in ambiguous and target.reference:
                by_content = target.from_full_url and self._bundle.type != "history"
                digest = to_signed(xxh3_64_intdigest(entry.resource or b"")) if by_content else 0
                yield index, Definition(url, target.reference, digest)

    def conditions(self) -> Iterator[Creation]:
        """Yield the resources that are created only if nothing else matches a search."""
        if self._bundle.type == "history":
            return  # the resources in a history have been created already
        for entry, target in zip(self._bundle.entries, self._targets, strict=True):
            if target.reference and (condition := _condition(entry, target.resource_type)):
                yield Creation(condition, target.reference, updates=_updates(entry))

    def servers(self) -> Iterator[tuple[str, str]]:
        """Yield the `Type/id` and the server of resources that keep the id they have there."""
        for entry, target in zip(self._bundle.entries, self._targets, strict=True):
            if (source := self._source(entry, target)) is not None:
                yield source

    def _source(self, entry: ParsedEntry, target: "_Target") -> tuple[str, str] | None:
        # A request changes or creates a resource of this server; in a history it only reports.
        if entry.method is not None and self._bundle.type != "history":
            return None
        address = split_address(entry.full_url or "")
        if entry.method == "DELETE":
            reference = _deleted(entry)
        else:
            reference = "" if target.from_full_url else target.reference
        if address is None or address[1] != reference:
            return None
        is_own = address[0].rstrip("/") in {url.rstrip("/") for url in self._options.base_urls}
        # The scheme does not identify a server, and the case of its host does not matter.
        host, slash, path = address[0].partition("://")[2].partition("/")
        return reference, "" if is_own else f"{host.lower()}{slash}{path}"

    def resources(self, index: LinkIndex | None = None) -> Iterator[LoadedResource | LoadProblem]:
        """Yield the resources in the order of loading."""
        ambiguous = set(self.clashes.values())
        ambiguous |= {
            url
            for entry, target in zip(self._bundle.entries, self._targets, strict=True)
            if target.from_full_url
            and is_unique(url := normalized_link(entry.full_url or ""))
            and index
            and index.is_ambiguous(url)
        }
        foreign = {
            number
            for number, (entry, target) in enumerate(
                zip(self._bundle.entries, self._targets, strict=True)
            )
            if index
            and (source := self._source(entry, target))
            and index.belongs_to_another(*source)
        }
        doubled = self._doubled - foreign
        refused = {
            number: match
            for number, (entry, target) in enumerate(
                zip(self._bundle.entries, self._targets, strict=True)
            )
            if index
            and _condition(entry, target.resource_type)
            and (match := index.refused(target.reference)) is not None
        }
        moved = (self.displaced | {number for number, match in refused.items() if match}) - doubled
        kept = {
            target.reference
            for number, target in enumerate(self._targets)
            if number not in refused
        }
        links = BundleLinks(
            {
                # A link by the proposed id of an entry has the same target as one by its fullUrl.
                proposed: refused.get(number, self._targets[number].reference)
                or self._bundle.entries[number].full_url
                or proposed
                for number in moved
                if (proposed := self._proposed_targets[number].reference) not in kept
            }
            | {
                # A link to a resource that is not loaded must not lead to the other server's one.
                entry.full_url: (
                    entry.full_url
                    if number in foreign
                    else refused.get(number) or target.reference
                )
                for number, (entry, target) in enumerate(
                    zip(self._bundle.entries, self._targets, strict=True)
                )
                if entry.full_url
                and target.reference
                and normalized_link(entry.full_url) not in ambiguous
                and refused.get(number) != ""
                and number not in doubled
            }
        )
        entries: Sequence[tuple[int, ParsedEntry]] = list(enumerate(self._bundle.entries))
        # A history lists the newest version first (FHIR R4, RESTful API, history).
        for number, entry in reversed(entries) if self._bundle.type == "history" else entries:
            if _is_search_outcome(self._bundle, entry):
                continue
            target = self._targets[number]
            url = normalized_link(entry.full_url or "")
            if target.from_full_url and url in ambiguous:
                yield problem(self._document, _AMBIGUOUS, entry=number)
            elif number in refused and not (refused[number] and _updates(entry)):
                yield problem(self._document, _NOT_CREATED, entry=number)
            elif number in foreign:
                yield problem(self._document, _OF_ANOTHER_SERVER, entry=number)
            elif number in doubled:
                reason = _STORED_ANYWAY if entry.method == "DELETE" else _DOUBLED
                yield problem(self._document, reason, entry=number)
            else:
                if match := refused.get(number):
                    target = _Target(target.resource_type, match.partition("/")[2], assigned=True)
                yield self._resource(number, entry, target, links)

    def _resource(
        self, index: int, entry: ParsedEntry, target: "_Target", links: BundleLinks
    ) -> LoadedResource | LoadProblem:
        if entry.method == "DELETE":
            deleted = split_reference(entry.url or "")
            if deleted is None:
                return problem(
                    self._document, "a DELETE must name Type/id to be loaded", entry=index
                )
            return LoadedResource(
                content=None, entry=index, resource_type=deleted[0], id=deleted[1]
            )
        if entry.resource is None:
            return problem(self._document, "the entry has no resource to load", entry=index)
        if entry.method not in {None, "POST", "PUT"}:
            reason = f"a {entry.method} changes nothing that can be loaded"
            return problem(self._document, reason, entry=index)
        put = split_reference(entry.url or "") if entry.method == "PUT" else None
        return LoadedResource(
            content=entry.resource,
            entry=index,
            resource_type=put[0] if put else None,
            id=None if target.assigned else (put[1] if put else target.id or None),
            assigned_id=target.id if target.assigned else None,
            links=links,
            links_base=entry.full_url,
        )

    def _target(self, index: int, entry: ParsedEntry) -> "_Target":
        identity = identity_of(entry.resource or b"")
        resource_type = identity.resource_type if isinstance(identity.resource_type, str) else ""
        put = split_reference(entry.url or "") if entry.method == "PUT" else None
        own_id = identity.usable_id
        if own_id is not None or put is not None:
            return _Target(resource_type, own_id or (put[1] if put else ""))
        is_temporary_id = isinstance(identity.id, str) and normalized_link(
            identity.id
        ) == normalized_link(entry.full_url or "")
        if entry.full_url and (identity.id is None or is_temporary_id):
            return _Target(
                resource_type,
                self._id_from(entry.full_url),
                from_full_url=True,
                assigned=is_temporary_id,
            )
        if self._options.assign_ids and entry.resource is not None:
            return _Target(resource_type, assigned_id(entry.resource) or "", assigned=True)
        creates = entry.method == "POST" or (entry.method == "PUT" and "?" in (entry.url or ""))
        if creates and identity.id is None:
            return _Target(resource_type, self._id_within(f"#{index}"))
        return _Target(resource_type, "")

    def _own_target(self, proposed: "_Target") -> "_Target":
        """Return the target of an entry that must get another id than it proposes."""
        new_id = self._id_within(f"={proposed.reference}")
        return _Target(proposed.resource_type, new_id, assigned=True)

    def _id_from(self, full_url: str) -> str:
        """
        Return the id of a resource that has only a fullUrl.

        Two resources get the same id only if they are the same: a real UUID or OID is globally
        unique, a URL of this server contains the id, any other URL identifies one resource, and
        everything else has a meaning only within this Bundle.
        """
        own = split_reference(full_url, self._options.base_urls)
        if own is not None and own != split_reference(full_url):
            return own[1]
        url = _HISTORY.sub("", normalized_link(full_url))
        last = url.rpartition(":")[2]
        if is_unique(url) and ID.fullmatch(last):
            return last
        if is_unique(url) or url.startswith(("http://", "https://")):
            return str(uuid5(NAMESPACE_URL, url))
        return self._id_within(f"/{url}")

    def _id_within(self, name: str) -> str:
        """Return an id that no other Bundle assigns."""
        return str(uuid5(NAMESPACE_URL, f"{self._digest}{name}"))


class _Target(msgspec.Struct, frozen=True):
    """The resource that an entry stores or changes."""

    resource_type: str
    id: str
    """Empty if it is unknown."""
    from_full_url: bool = False
    assigned: bool = False
    """Whether the id replaces the one in the resource."""

    @property
    def reference(self) -> str:
        """`Type/id`; empty if the type or the id is missing."""
        return f"{self.resource_type}/{self.id}" if self.resource_type and self.id else ""


def _condition(entry: ParsedEntry, resource_type: str) -> str | None:
    """Return the condition on which an entry creates its resource, as `Type?search`."""
    if entry.method == "POST" and entry.if_none_exist:
        return f"{resource_type}?{entry.if_none_exist.rpartition('?')[2]}"
    if entry.method == "PUT" and "?" in (entry.url or ""):
        return f"{resource_type}?{(entry.url or '').partition('?')[2]}"
    return None


def _updates(entry: ParsedEntry) -> bool:
    """Return whether an entry updates the match of its condition: a PUT without an id does."""
    return entry.method == "PUT" and identity_of(entry.resource or b"").usable_id is None


def _deleted(entry: ParsedEntry) -> str:
    """Return the `Type/id` that an entry deletes; empty if it deletes none, or by a search."""
    named = split_reference(entry.url or "") if entry.method == "DELETE" else None
    return "/".join(named or ())


def _versionless_url(entry: ParsedEntry) -> str:
    """Return the fullUrl of an entry without a version."""
    return _HISTORY.sub("", normalized_link(entry.full_url or ""))


def _is_search_outcome(bundle: ParsedBundle, entry: ParsedEntry) -> bool:
    """Return whether an entry only reports on a search (FHIR R4, Bundle.entry.search.mode)."""
    return (
        bundle.type == "searchset"
        and identity_of(entry.resource or b"").resource_type == "OperationOutcome"
    )

"""
Rewrite the links between the resources of a Bundle.

Links are references, elements of type uri, url, oid and uuid, and `href` and `src` in narrative,
but not canonicals (FHIR R4, http.html#trules).
"""

import html
import re
from collections.abc import Mapping
from typing import Protocol

import msgspec

from helios_core.errors import InvalidResource
from helios_core.fhir.definitions import FHIRVersion, load_link_tables
from helios_core.fhir.strict_json import MAX_DEPTH, object_members

_TEMPORARY = re.compile(r"urn:(?:uuid|oid):", re.IGNORECASE)
_RESTFUL = re.compile(r"(https?://.+/)([A-Z][A-Za-z]{1,63}/[A-Za-z0-9\-.]{1,64})(/_history/.+)?")
_RELATIVE = re.compile(r"([A-Z][A-Za-z]{1,63}/[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]+)?")
_HISTORY = re.compile(r"/_history/[A-Za-z0-9\-.]{1,64}$")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_SEPARATOR = re.compile(r"(?<!\\),")

# The most frequent URNs are code systems and identifiers; resources with only these are skipped.
_NAME = re.compile(rb'"(?:system|value)":"(urn:(?:uuid|oid):[^"\\]*)"', re.IGNORECASE)

_LEAVES = frozenset({"reference", "uri", "url", "oid", "uuid"})
_FOLLOWED = frozenset({"reference", "url"})
"""Types of links that must lead somewhere; a temporary uri, oid or uuid may be just a name."""
_UNKNOWN_ELEMENT: Mapping[str, str] = {"reference": "reference"}
_EXTENSIONS = frozenset({"extension", "modifierExtension"})

TEMPORARY_NEEDLES = (b"urn:uuid:", b"urn:oid:", b"\\u00")
"""Lower-case byte strings; JSON with a temporary link, even an escaped one, has one of them."""

_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_STRING = msgspec.json.Decoder(str)

_NARRATIVE_LINK = re.compile(
    r"""<(?:a|img)\b[^<>]*?\s(?:href|src)\s*=\s*(?:"([^"<>]*)"|'([^'<>]*)')""", re.IGNORECASE
)
# One decoded character: a surrogate pair, an escape, or a character itself.
_CHARACTER = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^\\]"
)


class Links(Protocol):
    """The targets of the links of one resource."""

    @property
    def needles(self) -> tuple[bytes, ...]:
        """Lower-case byte strings; JSON with a link that `resolve` resolves has one of them."""
        ...

    def resolve(self, link: str) -> str | None:
        """Return the link that replaces this one, usually `Type/id`, or None to keep it."""
        ...


class BundleLinks:
    """
    The targets of links to the entries of one Bundle, by their fullUrls.

    Resolution follows FHIR R4, bundle.html#references: an absolute link is compared with the
    fullUrls; a relative one is first appended to the base of the fullUrl of its own entry, if that
    is the http address of a resource. Case does not matter in `urn:uuid:` and `urn:oid:`. A
    fragment is kept, and a `_history` version is dropped.
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        """Take `Type/id` by fullUrl; an ambiguous fullUrl must be left out."""
        self.targets = {normalized_link(full_url): to for full_url, to in targets.items()}
        self._bases = {m[1] for url in targets if (m := _RESTFUL.fullmatch(url))}
        # The needle of an absolute link is its scheme.
        others = [url for url in targets if not is_temporary(url)]
        schemes = {m[0].lower().encode() if (m := _SCHEME.match(url)) else b'"' for url in others}
        self.needles = (*TEMPORARY_NEEDLES, *sorted(schemes))

    def of_entry(self, full_url: str | None) -> Links:
        """Return the links of the entry with a fullUrl."""
        match = _RESTFUL.fullmatch(full_url or "")
        return _EntryLinks(self, match[1]) if match and match[1] in self._bases else self

    def resolve(self, link: str) -> str | None:
        """Return `Type/id` for an absolute link to an entry, otherwise None."""
        if target := self.targets.get(normalized_link(link)):
            return target
        url, mark, fragment = link.partition("#")
        target = self.targets.get(normalized_link(_HISTORY.sub("", url)))
        return f"{target}{mark}{fragment}" if target else None


class _EntryLinks:
    """The links of an entry whose fullUrl has an http base."""

    def __init__(self, bundle: BundleLinks, base: str) -> None:
        self._bundle = bundle
        self._base = base
        self.needles = (*bundle.needles, b"/")

    def resolve(self, link: str) -> str | None:
        match = _RELATIVE.match(link)
        if match is None:
            return self._bundle.resolve(link)
        target = self._bundle.resolve(self._base + link) or self._bundle.resolve(link)
        # Links to a resource that keeps its id stay as they are, with their versions.
        return None if target is None or target.partition("#")[0] == match[1] else target


def is_temporary(link: str) -> bool:
    """Return whether a link is a `urn:uuid:` or `urn:oid:`, in any case."""
    return _TEMPORARY.match(link) is not None


def split_address(link: str) -> tuple[str, str] | None:
    """Return the base URL and `Type/id` of the http address of a resource, otherwise None."""
    match = _RESTFUL.fullmatch(link)
    return (match[1], match[2]) if match else None


def normalized_link(link: str) -> str:
    """Return the spelling of a link in which it is compared."""
    return link.lower() if is_temporary(link) else link


def rewrite_links(
    body: bytes, version: FHIRVersion, resource_type: str, links: Links
) -> tuple[bytes, set[str]]:
    """
    Rewrite the links of a resource in compact JSON; everything else keeps its bytes.

    The second result has the temporary links (`urn:uuid:`, `urn:oid:`) that lead nowhere: those in
    references, urls and narrative that `links` does not resolve. A Bundle is not changed, because
    its links point to its own entries.

    Raises:
        InvalidResource: The body is invalid, for example nested too deeply. Not every fault is
            noticed: `parse_resource` still has to check the result.
    """
    rewriter = _Rewriter(version, links)
    if resource_type == "Bundle" or not rewriter.may_match(_without_names(body, links)):
        return body, rewriter.unresolved
    return rewriter.rewrite(body, resource_type), rewriter.unresolved


def rewrite_search_value(value: str, links: Links) -> tuple[str, set[str]]:
    """
    Rewrite the links in the value of a search parameter, a list separated by commas.

    The second result has the temporary links that `links` does not resolve.
    """
    parts = _SEPARATOR.split(value)
    unresolved = {part for part in parts if is_temporary(part) and links.resolve(part) is None}
    return ",".join(links.resolve(part) or part for part in parts), unresolved


def _without_names(body: bytes, links: Links) -> bytes:
    """Return the body without the URNs of systems and identifiers, unless one is also a link."""
    names = set(_NAME.findall(body))
    if not names or any(links.resolve(name.decode(errors="replace")) for name in names):
        return body
    return _NAME.sub(b"", body)


class _Rewriter:
    """One pass over one resource."""

    def __init__(self, version: FHIRVersion, links: Links) -> None:
        self.unresolved = set[str]()
        self._tables = load_link_tables(version)
        self._links = links
        self._needles = links.needles

    def may_match(self, text: bytes) -> bool:
        """Return whether a text can contain a link to rewrite or to report."""
        lowered = text.lower()
        return any(needle in lowered for needle in self._needles)

    def rewrite(self, raw: bytes, type_: str, depth: int = 1) -> bytes:
        """Return an object, array or string of a type with its links rewritten."""
        if depth > MAX_DEPTH:
            raise InvalidResource(f"the body is nested more than {MAX_DEPTH} levels deep")
        match raw[:1]:
            case b"{":
                return self._object(raw, type_, depth)
            case b"[":
                return self._array(raw, type_, depth)
            case b'"' if type_ in _LEAVES:
                return self._link(raw, type_)
            case b'"' if type_ == "xhtml":
                return self._narrative(raw)
        return raw

    def _object(self, raw: bytes, type_: str, depth: int) -> bytes:
        members = object_members(raw)
        if type_ == "Resource":
            type_ = _text(bytes(members.get("resourceType", b'""'))) or ""
            if type_ == "Bundle":
                return raw
        children = self._tables.get(type_, _UNKNOWN_ELEMENT)
        changed = False
        for name, value in members.items():
            old = bytes(value)
            if self.may_match(old):
                new = self.rewrite(old, _child_type(children, name), depth + 1)
                if new is not old:
                    members[name] = msgspec.Raw(new)
                    changed = True
        return msgspec.json.encode(members) if changed else raw

    def _array(self, raw: bytes, type_: str, depth: int) -> bytes:
        old = [bytes(item) for item in _ITEMS.decode(raw)]
        new = [
            self.rewrite(item, type_, depth + 1) if self.may_match(item) else item for item in old
        ]
        if all(a is b for a, b in zip(old, new, strict=True)):
            return raw
        return b"[" + b",".join(new) + b"]"

    def _link(self, raw: bytes, type_: str) -> bytes:
        link = _text(raw)
        if link is None:
            return raw
        target = self._resolve(link, followed=type_ in _FOLLOWED)
        return raw if target is None else msgspec.json.encode(target)

    def _resolve(self, link: str, *, followed: bool = True) -> str | None:
        target = self._links.resolve(link)
        if target is None and followed and is_temporary(link):
            self.unresolved.add(link)
        return target

    def _narrative(self, raw: bytes) -> bytes:
        text = _text(raw)
        if text is None:
            return raw
        targets = {
            match.span(group): target
            for match in _NARRATIVE_LINK.finditer(text)
            if (group := match.lastindex)
            and (target := self._resolve(html.unescape(match[group]).strip()))
        }
        if not targets:
            return raw
        # One item for each character of `text`, as it is spelled in the JSON.
        spelled = _CHARACTER.findall(raw[1:-1].decode())
        parts, position = list[str](), 0
        for (start, end), target in targets.items():
            replacement = msgspec.json.encode(html.escape(target))[1:-1].decode()
            parts += ["".join(spelled[position:start]), replacement]
            position = end
        return f'"{"".join(parts)}{"".join(spelled[position:])}"'.encode()


def _child_type(children: Mapping[str, str], name: str) -> str:
    if name in _EXTENSIONS:
        return "Extension"
    if name == "contained":
        return "Resource"
    return children.get(name, "")


def _text(raw: bytes) -> str | None:
    try:
        return _STRING.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # `parse_resource` reports what is wrong with the text

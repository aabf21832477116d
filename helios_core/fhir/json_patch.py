"""
JSON Patch (RFC 6902) that keeps the text of everything it does not change.

Existing libraries decode the whole document to Python objects, which turns 1.10 into 1.1 and may
overflow an exponent. They also copy without a limit.
"""

import re
from typing import Final, Literal

import msgspec

from helios_core.errors import InvalidResource, PatchFailed
from helios_core.fhir import json_trees
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.json_trees import Container, Misfit, Node
from helios_core.fhir.strict_json import MAX_DEPTH, explain_fault, object_members

MAX_OPERATIONS: Final = 10_000
MAX_COPIED_BYTES: Final = 16 * 1024 * 1024
"""The maximum for all `copy` operations of a patch: each of them could double the document."""

_INDEX = re.compile(r"0|[1-9]\d{0,8}")
_POINTER = re.compile(r"(?:/(?:[^~]|~[01])*)*")
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class JSONPatchOperation(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One operation; other members are ignored (RFC 6902, section 4)."""

    op: Literal["add", "remove", "replace", "move", "copy", "test"]
    path: str
    from_: str | None = None
    value: msgspec.Raw = msgspec.Raw()


class JSONPatch(msgspec.Struct, frozen=True):
    """A parsed JSON Patch."""

    operations: tuple[JSONPatchOperation, ...]

    def apply(self, content: bytes, version: FHIRVersion) -> bytes:  # noqa: ARG002 - as in any patch
        """
        Return JSON with all operations applied, in their order.

        Raises:
            PatchFailed: An operation cannot be applied; the message has its number.
        """
        root: dict[str, Node] = {"": msgspec.Raw(content)}
        copied = 0
        for index, operation in enumerate(self.operations):
            try:
                copied += _apply(root, operation)
            except LookupError as error:
                # A KeyError quotes the missing name, which may be anything, even a patient's.
                reason = error if isinstance(error, Misfit) else "there is nothing at its path"
                raise PatchFailed(
                    f"operation {index} ({operation.op}) of the patch fails: {reason}"
                ) from error
            except RecursionError as error:
                raise PatchFailed(
                    f"operation {index} of the patch fails: the resource is nested too deeply"
                ) from error
            if copied > MAX_COPIED_BYTES:
                raise PatchFailed(
                    f"operation {index} of the patch fails: all copies together are larger than "
                    f"{MAX_COPIED_BYTES} bytes"
                )
        json_trees.prune(root)
        return json_trees.encode(root.get("", msgspec.Raw(b"{}")))


def parse_json_patch(body: bytes) -> JSONPatch:
    """
    Parse a JSON Patch.

    Raises:
        InvalidResource: It is not an array of at most MAX_OPERATIONS valid operations.
    """
    try:
        items = _ITEMS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shape = "a JSON Patch must be an array of operations"
        raise InvalidResource(explain_fault(body, error, shape)) from error
    if len(items) > MAX_OPERATIONS:
        raise InvalidResource(f"a patch may have at most {MAX_OPERATIONS} operations")
    return JSONPatch(tuple(_operation(index, bytes(item)) for index, item in enumerate(items)))


def _operation(index: int, item: bytes) -> JSONPatchOperation:
    try:
        operation = msgspec.json.decode(
            msgspec.json.encode(object_members(msgspec.json.format(item, indent=-1))),
            type=JSONPatchOperation,
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource(
            f"operation {index} of the patch needs op (add, remove, replace, move, copy or test) "
            "and path"
        ) from error
    needs_from = operation.op in ("move", "copy")
    if needs_from and operation.from_ is None:
        raise InvalidResource(f"operation {index} of the patch has no from")
    if operation.op in ("add", "replace", "test") and not bytes(operation.value):
        raise InvalidResource(f"operation {index} of the patch has no value")
    for pointer in (operation.path, operation.from_ or ""):
        if not _POINTER.fullmatch(pointer) or pointer.count("/") > MAX_DEPTH:
            raise InvalidResource(
                f"operation {index} of the patch: path and from must be JSON Pointers such as "
                "/name/0/given"
            )
    if needs_from and operation.path.startswith(f"{operation.from_}/") and operation.op == "move":
        raise InvalidResource(f"operation {index} of the patch moves something into itself")
    return operation


def _apply(root: dict[str, Node], operation: JSONPatchOperation) -> int:
    """Apply one operation; return how many bytes it copied."""
    value: Node = operation.value
    match operation.op:
        case "test":
            if not json_trees.equal(_get(root, operation.path), value):
                raise Misfit("the value is a different one")
            return 0
        case "remove":
            _remove(root, operation.path)
            return 0
        case "replace":
            container, key = _locate(root, operation.path)
            json_trees.child(container, key)
            _set(container, key, value)
            return 0
        case "move":
            if operation.path != operation.from_:
                _add(root, operation.path, _remove(root, operation.from_ or ""))
            return 0
        case "copy":
            value = msgspec.Raw(json_trees.encode(_get(root, operation.from_ or "")))
    _add(root, operation.path, value)
    return len(bytes(value)) if operation.op == "copy" and isinstance(value, msgspec.Raw) else 0


def _get(root: dict[str, Node], pointer: str) -> Node:
    container, key = _locate(root, pointer)
    return json_trees.child(container, key)


def _remove(root: dict[str, Node], pointer: str) -> Node:
    container, key = _locate(root, pointer)
    node = json_trees.child(container, key)
    del container[key]  # type: ignore[arg-type]  # `_locate` returns the key of the container
    return node


def _add(root: dict[str, Node], pointer: str, value: Node) -> None:
    container, key = _locate(root, pointer, adding=True)
    if isinstance(container, list):
        container.insert(int(key), value)
    else:
        container[str(key)] = value


def _set(container: Container, key: str | int, value: Node) -> None:
    if isinstance(container, list):
        container[int(key)] = value
    else:
        container[str(key)] = value


def _locate(
    root: dict[str, Node], pointer: str, *, adding: bool = False
) -> tuple[Container, str | int]:
    """Return the container that a JSON Pointer leads to, and the key in it."""
    container: Container = root
    key: str | int = ""
    for token in pointer.split("/")[1:]:
        node = json_trees.child(container, key)
        if isinstance(node, msgspec.Raw):
            raise Misfit("the path leads into a value without members")
        container = node
        key = _key(container, token.replace("~1", "/").replace("~0", "~"), adding=adding)
    return container, key


def _key(container: Container, token: str, *, adding: bool) -> str | int:
    if isinstance(container, dict):
        return token
    if token == "-" and adding:  # noqa: S105 - a token of a JSON Pointer
        return len(container)
    if not _INDEX.fullmatch(token) or int(token) > len(container) - (not adding):
        raise Misfit("the path has an index that the array does not have")
    return int(token)
